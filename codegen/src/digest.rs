//! What a spec is recognised by, whichever door it came through.

use mla_spec::{Checked, CheckedModel};
use sha2::{Digest, Sha256};

/// The first 16 hex digits of the SHA-256 of the checked spec, its build section included. Comments, order of keys and the
/// choice between YAML and Rust tokens do not change it; every value that reaches generated code does.
pub fn spec_digest(checked: &Checked) -> String {
    digest(&format!("mla-gen spec 1\n{checked:?}"))
}

/// As [`spec_digest`], of a model: its layers, where they stand and what they share.
pub fn model_digest(model: &CheckedModel) -> String {
    digest(&format!("mla-gen model 1\n{model:?}"))
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
