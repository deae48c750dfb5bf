//! Megatron's arguments and MaxText's configs: any text is imported or refused, never worse; what is imported passes the check, is
//! written, and is exported to every system or refused.
//!
//! Seed it: `cargo fuzz run systems_import corpus/systems_import ../tests/configs/megatron ../tests/configs/maxtext`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mla_spec::import::{self, Options, System};
use mla_spec::{Sources, check, export, read, render, write};

const SYSTEMS: [System; 3] = [System::Megatron, System::MaxText, System::HuggingFace];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for system in [System::Megatron, System::MaxText] {
        let mut sources = Sources::default();
        match import::layer(system, &mut sources, "config", text, &Options::default()) {
            Ok(imported) => {
                let (checked, found) = check(&imported.document);
                let checked = checked.expect("what is imported is accepted");
                assert!(!found.has_errors() && !imported.lints.has_errors());
                let written = write::yaml(&imported.document, &imported.comments);
                let again = read::yaml(&mut Sources::default(), "spec.yaml", &written)
                    .expect("what was written is a spec");
                assert_eq!(again, imported.document);
                for to in SYSTEMS {
                    match export::layer(to, &mut sources, &imported.document, &checked) {
                        Ok(exported) => assert!(!exported.lints.has_errors()),
                        Err(found) => assert!(found.has_errors()),
                    }
                }
                render::text(&imported.lints, &sources, false);
            }
            Err(found) => {
                assert!(found.has_errors());
                render::text(&found, &sources, false);
            }
        }
    }
});
