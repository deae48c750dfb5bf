//! `docs/diagnostics.md`: every rule, and what becomes of the conditions that other systems assert.

use std::fmt::Write;

use super::conditions::{Answer, Condition, SYSTEMS};
use super::{Rule, all, example, whole};
use crate::diagnostic::{Code, Severity};
use crate::document::Body;
use crate::span::Sources;

/// What comes before the rules. The first line says how to make the file again.
const HEAD: &str = "\
<!-- Generated: BLESS=1 cargo test -p mla-spec --test diagnostics_document -->

# Diagnostics

Every refusal has a code. `mla-gen explain CODE` prints one rule; these are all of them. An example that is not a whole spec shows
only what matters of one. Examples are run by tests: the wrong ones are refused with their code, the right ones are accepted.
";

/// The document, in Markdown.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    let ends = CHAPTERS
        .iter()
        .skip(1)
        .map(|(_, first)| *first)
        .chain([u16::MAX]);
    for ((title, first), end) in CHAPTERS.into_iter().zip(ends) {
        let rules: Vec<&Rule> = all()
            .filter(|rule| (first..end).contains(&rule.code.0))
            .collect();
        if rules.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {title}\n");
        rules
            .into_iter()
            .for_each(|rule| text.push_str(&section(rule)));
    }
    text.push_str(CONDITIONS_HEAD);
    for system in SYSTEMS {
        let _ = write!(text, "\n### {}\n\n", system.name);
        system
            .conditions
            .iter()
            .for_each(|condition| text.push_str(&line(condition)));
    }
    text
}

/// The chapters, by the first code of each; a chapter ends where the next begins.
const CHAPTERS: [(&str, u16); 12] = [
    ("Reading", 0),
    ("Keys, names and sizes", 100),
    ("Modules and slots", 200),
    ("Norms", 300),
    ("Rope and scales", 400),
    ("Masks, logits and gates", 500),
    ("Sparse attention", 520),
    ("Training", 540),
    ("Build", 600),
    ("Grouped and cross attention", 650),
    ("Importing", 700),
    ("Models", 900),
];

const CONDITIONS_HEAD: &str = "
## What other systems assert

Each condition that another system asserts, mostly while it runs, and what becomes of it here: a diagnostic, an error of the runtime, or
nothing that can be written down.
";

fn section(rule: &Rule) -> String {
    let excerpt = if example::is_excerpt(rule.wrong) || example::is_excerpt(rule.right) {
        " (excerpt)"
    } else {
        ""
    };
    let (wrong, right) = (rule.wrong.trim_end(), rule.right.trim_end());
    let fence = if wrong.trim_start().starts_with('{') {
        "json"
    } else {
        "yaml"
    };
    format!(
        "\n### {}: {}\n\n{} Why: {}\n\nWrong{excerpt}:\n\n```{fence}\n{wrong}\n```\n\nRight{excerpt}:\n\n```{fence}\n{right}\n```\n",
        rule.code,
        rule.title,
        sentence(rule.rule),
        sentence(rule.why)
    )
}

fn line(condition: &Condition) -> String {
    let answer = match condition.answer {
        Answer::Refused(spec) => match refusal(spec) {
            Some(code) => format!("refused, {code}"),
            None => "not refused".to_owned(),
        },
        Answer::Met(how) => format!("an error: {how}"),
        Answer::Never(why) => format!("can't occur: {why}"),
    };
    format!(
        "- {}. {}: **{answer}**.\n",
        condition.number, condition.text
    )
}

/// The code of the first error in a spec, or in what of it differs from the base; `None` where it is accepted.
pub fn refusal(spec: &str) -> Option<Code> {
    let mut sources = Sources::default();
    let found = match crate::read::yaml(&mut sources, "example.yaml", &whole(spec)) {
        Ok(document) => match document.body {
            Body::Layer(_) => crate::check(&document).1,
            Body::Model(_) => crate::check_model(&document).1,
        },
        Err(found) => found,
    };
    let first = found
        .iter()
        .find(|diagnostic| diagnostic.severity == Severity::Error);
    first.map(|diagnostic| diagnostic.code)
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let capital: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    format!("{capital}{}.", letters.as_str().trim_end_matches('.'))
}
