//! What a spec is recognised by, whichever door it came through.

use mla_spec::{Checked, CheckedModel};
use sha2::{Digest, Sha256};

use crate::emit::cuda;

/// The first 16 hex digits of the SHA-256 of the checked spec, its build section included. Comments, order of keys and the
/// choice between YAML and Rust tokens do not change it; every value that reaches generated code does.
pub fn spec_digest(checked: &Checked) -> String {
    digest(&format!("mla-gen spec 1\n{checked:?}"))
}

/// As [`spec_digest`], of a model: its layers, where they stand and what they share.
pub fn model_digest(model: &CheckedModel) -> String {
    digest(&format!("mla-gen model 1\n{model:?}"))
}

/// What the kernels of absorbed decode are recognised by: their bodies, whatever the sizes. A table of their times holds it, and says nothing
/// of others.
pub fn decode_digest() -> String {
    let bodies = DECODE.map(|unit| cuda::body(unit).unwrap_or_default());
    digest(&format!("mla-gen decode 1\n{}", bodies.join("\n")))
}

/// The units of absorbed decode.
const DECODE: [&str; 7] = [
    "decode_deep",
    "decode_narrow",
    "decode_narrow_fp8",
    "decode_schedule",
    "decode_tall",
    "decode_wide",
    "decode_wide_fp8",
];

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_decode_covers_every_kernel_and_what_they_include() {
        for unit in DECODE {
            let body = cuda::body(unit).unwrap_or_else(|| panic!("no unit `{unit}`"));
            assert!(
                body.contains("struct Item"),
                "{unit} includes `decoding.cuh`"
            );
        }
        let digest = decode_digest();
        assert!(digest.len() == 16 && digest.bytes().all(|c| c.is_ascii_hexdigit()));
    }
}
