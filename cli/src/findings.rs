//! What is said of a text.

use mla_spec::{Diagnostics, Severity, Sources, render};

use crate::talk;

/// Diagnostics of a text, as they are shown. A spec that is accepted may have warnings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// For a person, a blank line behind each; empty where there is nothing to say.
    pub(crate) text: String,
    /// For a program, an object to a line, in rustc's shape.
    pub(crate) json: String,
}

impl Findings {
    pub(crate) fn of(found: &Diagnostics, sources: &Sources) -> Self {
        if found.is_empty() {
            return Self::default();
        }
        Self {
            text: render::text(found, sources, talk::color()) + "\n",
            json: render::json(found, sources),
        }
    }
}

/// How many errors and warnings make a text refused, and where to read on.
pub(crate) fn summary(shown: &str, found: &Diagnostics) -> String {
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut summary = format!("`{shown}` is refused: {}", talk::counted(errors, "error"));
    if warnings > 0 {
        summary.push_str(&format!(", {}", talk::counted(warnings, "warning")));
    }
    if let Some(first) = found.iter().find(|one| one.severity == Severity::Error) {
        summary.push_str(&format!("; `mla-gen explain {}` says more", first.code));
    }
    summary
}
