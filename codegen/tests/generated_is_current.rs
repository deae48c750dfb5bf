//! The committed layers under generated/ are what this compiler emits. `BLESS=1` writes them.
//!
//! This test stands beside the compiler, not in mla-tests: that crate links the committed layers, so that a broken one could
//! not be written anew.

mod specs;

use std::path::Path;

use mla_codegen::{Options, Origin, emit};

/// The model zoo: stems of spec/models.
const ZOO: [&str; 7] = [
    "deepseek-v2-lite",
    "deepseek-v3",
    "kimi-k2",
    "moonlight",
    "nope-odd",
    "odd-small",
    "youtu",
];

#[test]
fn committed_layers_are_what_is_emitted() {
    let bless = std::env::var_os("BLESS").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../generated/src");
    let mut stale = Vec::new();
    let models = specs::models();
    for stem in ZOO {
        let (_, checked) = models.iter().find(|(name, _)| name == stem).expect(stem);
        let module = stem.replace('-', "_");
        let spec = format!("spec/models/{stem}.yaml");
        let command = format!("mla-gen build {spec} -o generated/src/{module}");
        let options = Options::new(Origin {
            spec,
            command: Some(command),
        });
        for (file, text) in emit(checked, &options).0 {
            let path = folder.join(&module).join(file);
            if bless {
                std::fs::create_dir_all(folder.join(&module)).unwrap();
                std::fs::write(&path, text).unwrap();
            } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                stale.push(path);
            }
        }
    }
    assert!(
        stale.is_empty(),
        "stale, run this test with BLESS=1: {stale:#?}"
    );
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
}
