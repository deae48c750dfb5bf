//! Imports of whole configs: released style, written-back style, and what is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mla_spec::import::{self, Imported, Options};
use mla_spec::{
    Body, Build, Checked, Code, Diagnostics, Layer, Norm, Place, Query, Rope, RopeLayout, Severity,
    Sources, check, check_model, render,
};
use serde_json::{Value, json};

#[path = "importing/families.rs"]
mod families;
#[path = "importing/keys.rs"]
mod keys;
#[path = "importing/layers.rs"]
mod layers;
#[path = "importing/models.rs"]
mod models;
#[path = "importing/released.rs"]
mod released;
#[path = "importing/rope.rs"]
mod rope;
#[path = "importing/schedules.rs"]
mod schedules;

fn configs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/configs"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(configs().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn config(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

fn import_text(text: &str, options: &Options) -> Result<Imported, Diagnostics> {
    import::hf(&mut Sources::default(), "config.json", text, options)
}

fn import(config: &Value) -> Result<Imported, Diagnostics> {
    import_text(&config.to_string(), &Options::default())
}

/// Imports, or shows why not.
#[track_caller]
fn accept(name: &str, text: &str, options: &Options) -> Imported {
    let mut sources = Sources::default();
    match import::hf(&mut sources, name, text, options) {
        Ok(imported) => imported,
        Err(diagnostics) => panic!("{}", render::text(&diagnostics, &sources, false)),
    }
}

#[track_caller]
fn layer(imported: &Imported) -> Layer {
    let (checked, diagnostics) = check(&imported.document);
    assert!(!diagnostics.has_errors(), "{diagnostics:?}");
    let Some(Checked { layer, build }) = checked else {
        panic!("nothing was checked")
    };
    assert_eq!(
        build,
        Build::default(),
        "importers write out what an absent section means"
    );
    layer
}

fn codes(diagnostics: &Diagnostics, severity: Severity) -> Vec<u16> {
    let found: Vec<_> = diagnostics
        .iter()
        .filter(|one| one.severity == severity)
        .map(|one| one.code.0)
        .collect();
    found
}

#[track_caller]
fn refused(config: &Value) -> Vec<u16> {
    match import(config) {
        Ok(_) => panic!("was accepted: {config}"),
        Err(diagnostics) => codes(&diagnostics, Severity::Error),
    }
}

#[track_caller]
fn linted(config: &Value) -> Vec<u16> {
    codes(
        &accept("config.json", &config.to_string(), &Options::default()).lints,
        Severity::Warning,
    )
}

/// The smallest config of a family.
fn of(model_type: &str, more: Value) -> Value {
    let mut config =
        json!({ "model_type": model_type, "rope_theta": 10000, "rope_interleave": true });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    config
}

fn yarn(more: Value) -> Value {
    let mut rope = json!({ "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1 });
    rope.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    of("deepseek_v3", json!({ "rope_scaling": rope }))
}
