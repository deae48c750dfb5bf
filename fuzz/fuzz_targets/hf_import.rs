//! Config import: any text is imported or refused, never worse; what is imported passes the check and can be written.
//!
//! Seed it with released configs: `cargo fuzz run hf_import corpus/hf_import ../tests/configs ../tests/configs/golden`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mla_spec::import::{self, Options};
use mla_spec::{Sources, check, read, render, write};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for options in [
        Options::default(),
        Options {
            strict: true,
            layer: Some(3),
            name: None,
        },
    ] {
        let mut sources = Sources::default();
        match import::hf(&mut sources, "config.json", text, &options) {
            Ok(imported) => {
                let (checked, diagnostics) = check(&imported.document);
                assert!(
                    checked.is_some() && !diagnostics.has_errors(),
                    "{diagnostics:?}"
                );
                assert!(!imported.lints.has_errors());
                let written = write::yaml(&imported.document, &imported.comments);
                let again = read::yaml(&mut Sources::default(), "spec.yaml", &written)
                    .expect("what was written is a spec");
                assert_eq!(again, imported.document);
                render::text(&imported.lints, &sources, false);
            }
            Err(diagnostics) => {
                assert!(diagnostics.has_errors());
                render::text(&diagnostics, &sources, false);
            }
        }
    }
});
