//! `docs/diagnostics.md` is what the rules say, and the conditions in it are what they claim to be.

use std::path::Path;

use mla_spec::Code;
use mla_spec::explain::conditions::{Answer, SYSTEMS};
use mla_spec::explain::{document, refusal};

#[test]
fn the_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/diagnostics.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == document(),
        "docs/diagnostics.md is stale: run BLESS=1 cargo test -p mla-spec --test diagnostics_document"
    );
}

#[test]
fn what_is_said_to_be_refused_is_refused() {
    let mut accepted = Vec::new();
    for system in SYSTEMS {
        for condition in system.conditions {
            if let Answer::Refused(spec) = condition.answer
                && refusal(spec).is_none()
            {
                accepted.push(format!(
                    "{} {}: {}",
                    system.name, condition.number, condition.text
                ));
            }
        }
    }
    assert!(
        accepted.is_empty(),
        "accepted after all:\n{}",
        accepted.join("\n")
    );
}

/// Refused for what it is: not because its text can't be read, nor because nobody here has heard of its key.
#[test]
fn refusals_know_what_they_refuse() {
    const UNKNOWN_KEY: Code = Code(101);
    let mut unknown = Vec::new();
    for system in SYSTEMS {
        for condition in system.conditions {
            if let Answer::Refused(spec) = condition.answer
                && let Some(code) = refusal(spec)
                && code <= UNKNOWN_KEY
            {
                unknown.push(format!("{} {}: {code}", system.name, condition.number));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn numbers_are_unique_in_each_list() {
    for system in SYSTEMS {
        let numbers: std::collections::BTreeSet<&str> = system
            .conditions
            .iter()
            .map(|condition| condition.number)
            .collect();
        assert_eq!(numbers.len(), system.conditions.len(), "{}", system.name);
    }
}
