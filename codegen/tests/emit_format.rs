//! Emitted text is as rustfmt would write it.

mod specs;

use std::path::Path;
use std::process::Command;

use mla_codegen::{Files, Options, Origin, emit, emit_model};
use mla_spec::Checked;

fn options(probes: bool) -> Options {
    let command = Some("mla-gen build some.yaml -o some".to_owned());
    Options {
        probes,
        ..Options::new(Origin {
            spec: "some.yaml".to_owned(),
            command,
        })
    }
}

/// Writes every layer's files into `folder` and lets rustfmt judge them all.
fn formatted(folder: &str, layers: &[(String, Checked)], options: &Options) {
    let layers = layers.iter();
    let files = layers.map(|(name, checked)| (name.clone(), emit(checked, options)));
    judged(folder, files.collect());
}

fn judged(folder: &str, modules: Vec<(String, Files)>) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let mut command = Command::new("rustfmt");
    command.args([
        "--check",
        "--edition",
        "2024",
        "--config",
        "skip_children=true",
    ]);
    std::fs::remove_dir_all(&folder).ok();
    for (name, files) in modules {
        for (file, text) in files.0 {
            assert!(
                text.ends_with("}\n") || text.ends_with(";\n"),
                "{name}/{file} ends with {:?}",
                text.lines().last()
            );
            let path = folder.join(&name).join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            command.arg(path);
        }
    }
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "rustfmt would change files below {}:\n{stdout}{stderr}",
        folder.display()
    );
}

#[test]
fn models_are_formatted() {
    formatted("models", &specs::models(), &options(false));
}

#[test]
fn whole_models_are_formatted() {
    let mut models = specs::whole_models();
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/models/small-shared.yaml");
    let spec = std::fs::read_to_string(small).unwrap();
    let long = spec.replace("store", "a_layer_that_keeps_latents");
    models.push(("long-names".to_owned(), specs::checked_model("long", &long)));
    let files = models
        .into_iter()
        .map(|(name, model)| (name, emit_model(&model, &options(false))));
    judged("whole", files.collect());
}

#[test]
fn probed_models_are_formatted() {
    formatted("probed", &specs::models(), &options(true));
}

#[test]
fn every_form_fusion_mask_cache_and_choice_of_phases_is_formatted() {
    formatted("variants", &specs::variants(), &options(false));
}

#[test]
fn every_option_of_the_language_is_formatted() {
    let layers = specs::language::language();
    formatted("language", &layers, &options(false));
    formatted("language-probed", &layers, &options(true));
}
