//! Emitted text is as rustfmt would write it.

mod specs;

use std::path::Path;
use std::process::Command;

use mla_codegen::{Options, Origin, emit};
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
    for (name, checked) in layers {
        let inside = folder.join(name);
        std::fs::create_dir_all(&inside).unwrap();
        for (file, text) in emit(checked, options).0 {
            assert!(
                text.ends_with("}\n") || text.ends_with(";\n"),
                "{name}/{file} ends with {:?}",
                text.lines().last()
            );
            std::fs::write(inside.join(&file), text).unwrap();
            command.arg(inside.join(file));
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
