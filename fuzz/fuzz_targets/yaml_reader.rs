//! Any text: reading, checking and showing what is wrong never panics, and what is read and written reads back equal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mla_spec::write::Comments;
use mla_spec::{Document, Sources, check, check_model, read, render, write};

fuzz_target!(|text: &str| {
    let mut sources = Sources::default();
    match read::yaml(&mut sources, "fuzz.yaml", text) {
        Err(diagnostics) => shown(&diagnostics, &sources),
        Ok(document) => {
            let (checked, diagnostics) = check(&document);
            assert_eq!(checked.is_none(), diagnostics.has_errors());
            shown(&diagnostics, &sources);
            let (checked, diagnostics) = check_model(&document);
            assert_eq!(checked.is_none(), diagnostics.has_errors());
            shown(&diagnostics, &sources);
            written(&document);
        }
    }
});

fn shown(diagnostics: &mla_spec::Diagnostics, sources: &Sources) {
    let text = render::text(diagnostics, sources, false);
    assert_eq!(text.is_empty(), diagnostics.is_empty());
    diagnostics
        .iter()
        .for_each(|diagnostic| assert!(!render::without_source(diagnostic, |_| None).is_empty()));
}

fn written(document: &Document) {
    let text = write::yaml(document, &Comments::default());
    let again = read::yaml(&mut Sources::default(), "written.yaml", &text);
    assert_eq!(again.as_ref(), Ok(document), "{text}");
}
