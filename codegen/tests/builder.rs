//! The door for build scripts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use mla_codegen::{BuildError, Builder};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/models");

fn builder(out: &Path) -> Builder {
    Builder::new()
        .manifest_dir(MODELS)
        .out_dir(out)
        .spec("moonlight.yaml")
}

#[test]
fn a_module_is_written_that_can_be_included() {
    let out = tempfile::tempdir().unwrap();
    let path = builder(out.path()).try_compile().unwrap();
    assert_eq!(path, out.path().join("moonlight_attention.rs"));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("pub struct MoonlightAttention<B: Backend"));
    assert!(!text.contains("//!") && !text.contains("mod tests") && !text.contains("Regenerate"));
    let with_tests = builder(out.path()).tests(true).try_compile().unwrap();
    let text = std::fs::read_to_string(with_tests).unwrap();
    assert!(text.contains("mod tests {") && !text.contains("//!"));
}

#[test]
fn a_model_is_one_file_with_its_layers_inside() {
    let out = tempfile::tempdir().unwrap();
    let builder = builder(out.path()).spec("small-shared.yaml");
    let path = builder.clone().runtime("::renamed").try_compile().unwrap();
    assert_eq!(path, out.path().join("small_shared.rs"));
    let text = std::fs::read_to_string(&path).unwrap();
    for part in [
        "pub enum SmallSharedLayer<B: Backend = Cpu<f32>> {",
        "pub mod store {",
        "pub struct SmallSharedPicked<B: Backend",
        "use ::renamed::{Backend, Cpu, LayerAt, Load, Result, Weights};",
    ] {
        assert_eq!(text.matches(part).count(), 1, "{part}");
    }
    assert!(!text.contains("pub mod store;") && !text.contains("//!"));
    assert!(!text.contains("mod tests") && !text.contains("mla_runtime"));
    let with_tests = builder.tests(true).try_compile().unwrap();
    let text = std::fs::read_to_string(with_tests).unwrap();
    assert_eq!(text.matches("mod tests {").count(), 4);
}

#[test]
fn the_runtime_goes_by_any_path() {
    let out = tempfile::tempdir().unwrap();
    let path = builder(out.path())
        .runtime("crate::deps::runtime")
        .try_compile()
        .unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("use crate::deps::runtime::{") && !text.contains("mla_runtime"));
}

#[test]
fn a_file_that_would_not_change_is_not_written() {
    let out = tempfile::tempdir().unwrap();
    let path = builder(out.path()).try_compile().unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    builder(out.path()).try_compile().unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().modified().unwrap(),
        long_ago
    );
    std::fs::write(&path, "something else").unwrap();
    builder(out.path()).try_compile().unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), b"something else");
}

#[test]
fn a_wrong_spec_is_shown_with_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let spec = std::fs::read_to_string(Path::new(MODELS).join("moonlight.yaml")).unwrap();
    let wrong = spec.replace("kv_lora_rank:", "kv_lora_rnk:");
    std::fs::write(folder.path().join("wrong.yaml"), wrong).unwrap();
    let builder = Builder::new()
        .manifest_dir(folder.path())
        .out_dir(folder.path());
    match builder.clone().spec("wrong.yaml").try_compile() {
        Err(error @ BuildError::Refused { .. }) => {
            let shown = error.to_string();
            assert!(
                shown.contains("wrong.yaml:") && shown.contains("kv_lora_rank"),
                "{shown}"
            );
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(folder.path().join("broken.yaml"), b"\xff\xfe: [").unwrap();
    for missing in ["none.yaml", "broken.yaml", "."] {
        let error = builder.clone().spec(missing).try_compile().unwrap_err();
        assert!(matches!(error, BuildError::Io { .. }), "{error}");
    }
    assert!(matches!(builder.try_compile(), Err(BuildError::NoSpec)));
    assert!(!folder.path().join("moonlight_attention.rs").exists());
}
