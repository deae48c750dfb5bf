//! The committed layers under generated/ are what this compiler emits. `BLESS=1` writes them.
//!
//! This test stands beside the compiler, not in mla-tests: that crate links the committed layers, so that a broken one could
//! not be written anew.

mod specs;

use std::path::Path;

use mla_codegen::{Files, Options, Origin, emit, emit_model};

/// The layers of the zoo: stems of spec/models.
const LAYERS: [&str; 34] = [
    "axk2",
    "bailing-ling-3",
    "bart-large-cross",
    "bart-large-cross-train",
    "deepseek-v2-lite",
    "deepseek-v3",
    "deepseek-v3.2",
    "deepseek-v3.2-train",
    "deepseek-v3.2-warmup",
    "dots3-note",
    "dots3-note-sliding",
    "glm-4.7-flash",
    "glm-5",
    "glm-5.2-shared",
    "glm-5.3-flash",
    "hy-v4",
    "kimi-k2",
    "kimi-linear",
    "llama3-8b",
    "llama3-8b-train",
    "longcat-flash",
    "minicpm3",
    "mistral-4",
    "mistral-large-4",
    "mistral-large-4-nope",
    "moonlight",
    "moonlight-train",
    "moonlight-train-lean",
    "nope-odd",
    "odd-small",
    "qwen3-8b",
    "tiny-dense",
    "tiny-sparse",
    "youtu",
];

/// The models of the zoo.
const MODELS: [&str; 1] = ["small-shared"];

#[test]
fn committed_layers_are_what_is_emitted() {
    let layers = specs::models();
    let models = specs::whole_models();
    let mut stale = Vec::new();
    for stem in LAYERS {
        let (_, checked) = layers.iter().find(|(name, _)| name == stem).expect(stem);
        stale.extend(written_or_stale(stem, &emit(checked, &options(stem))));
    }
    for stem in MODELS {
        let (_, model) = models.iter().find(|(name, _)| name == stem).expect(stem);
        stale.extend(written_or_stale(stem, &emit_model(model, &options(stem))));
    }
    assert!(
        stale.is_empty(),
        "stale, run this test with BLESS=1: {stale:#?}"
    );
}

fn module(stem: &str) -> String {
    stem.replace(['-', '.'], "_")
}

fn options(stem: &str) -> Options {
    let spec = format!("spec/models/{stem}.yaml");
    let command = format!("mla-gen build {spec} -o generated/src/{}", module(stem));
    Options::new(Origin {
        spec,
        command: Some(command),
    })
}

/// Writes the files where asked to; else the paths of those that are not what is committed.
fn written_or_stale(stem: &str, files: &Files) -> Vec<String> {
    let bless = std::env::var_os("BLESS").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../generated/src")
        .join(module(stem));
    let mut stale = Vec::new();
    for (file, text) in &files.0 {
        let path = folder.join(file);
        if bless {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        } else if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
            stale.push(path.display().to_string());
        }
    }
    stale
}

#[test]
fn the_same_spec_gives_the_same_bytes() {
    let options = Options::new(Origin {
        spec: "x.yaml".to_owned(),
        command: None,
    });
    for ((name, once), (_, again)) in specs::models().iter().zip(&specs::models()) {
        assert_eq!(emit(once, &options), emit(again, &options), "{name}");
    }
    for ((name, once), (_, again)) in specs::whole_models().iter().zip(&specs::whole_models()) {
        let (once, again) = (emit_model(once, &options), emit_model(again, &options));
        assert_eq!(once, again, "{name}");
    }
}
