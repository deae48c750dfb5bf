//! Shows diagnostics as rustc shows its own.

mod json;

pub use json::json;

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Diagnostics, Label, Severity};
use crate::span::{Place, Sources, Span, Text, TextId};

/// Most diagnostics shown in full; a text with more is broken in one place that all of them come from.
const MAX_SHOWN: usize = 100;

/// Every diagnostic with the lines it is about, a blank line between two; ends with a newline where there is any.
///
/// Labels that stand in no text (macro tokens, imported values) become lines of their own. A summary line is the
/// door's business.
pub fn text(diagnostics: &Diagnostics, sources: &Sources, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut shown: Vec<_> = diagnostics
        .iter()
        .take(MAX_SHOWN)
        .map(|one| report(one, sources, &renderer))
        .collect();
    let left_out = diagnostics.iter().count().saturating_sub(MAX_SHOWN);
    if left_out > 0 {
        shown.push(format!("... and {left_out} more\n"));
    }
    shown.join("\n")
}

/// One diagnostic without source lines, for a door that points at the primary place by other means:
/// message and code on the first line, then what each secondary label says, the notes and the help. `place` says in
/// words where a secondary label stands, if the door knows.
pub fn without_source(diagnostic: &Diagnostic, place: impl Fn(Span) -> Option<String>) -> String {
    let mut text = format!("{} [{}]", one_line(&diagnostic.message), diagnostic.code);
    if !diagnostic.primary.text.is_empty() {
        text.push_str(&format!("\n  here: {}", one_line(&diagnostic.primary.text)));
    }
    for label in &diagnostic.secondary {
        text.push_str(&format!("\n  also: {}", one_line(&label.text)));
        if let Some(place) = place(label.span) {
            text.push_str(&format!(" ({})", one_line(&place)));
        }
    }
    for note in &diagnostic.notes {
        text.push_str(&format!("\n  note: {}", one_line(note)));
    }
    if let Some(help) = &diagnostic.help {
        text.push_str(&format!("\n  help: {}", one_line(help)));
    }
    text
}

fn report(diagnostic: &Diagnostic, sources: &Sources, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level
        .primary_title(one_line(&diagnostic.message))
        .id(diagnostic.code.to_string());
    let mut group = Group::with_title(title).elements(snippets(diagnostic, sources));
    for label in unplaced(diagnostic, sources) {
        group = group.element(Level::NOTE.message(one_line(&label.text)));
    }
    for note in &diagnostic.notes {
        group = group.element(Level::NOTE.message(one_line(note)));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(one_line(help)));
    }
    let mut report = renderer.render(&[group]);
    report.push('\n');
    report
}

/// One snippet per text that a label stands in, the primary label's first.
fn snippets<'a>(
    diagnostic: &'a Diagnostic,
    sources: &'a Sources,
) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
    let mut texts: Vec<TextId> = Vec::new();
    for label in labels(diagnostic) {
        if let Some((id, ..)) = placed(label.span, sources)
            && !texts.contains(&id)
        {
            texts.push(id);
        }
    }
    texts
        .into_iter()
        .filter_map(|id| snippet(id, diagnostic, sources))
        .collect()
}

fn snippet<'a>(
    id: TextId,
    diagnostic: &'a Diagnostic,
    sources: &'a Sources,
) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
    let text = sources.text(id)?;
    let mut snippet = Snippet::source(text.content.as_str()).path(text.name.as_str());
    for (kind, label) in std::iter::once((AnnotationKind::Primary, &diagnostic.primary)).chain(
        diagnostic
            .secondary
            .iter()
            .map(|label| (AnnotationKind::Context, label)),
    ) {
        if let Some((of, _, range)) = placed(label.span, sources)
            && of == id
        {
            snippet = snippet.annotation(kind.span(range).label(one_line(&label.text)));
        }
    }
    Some(snippet)
}

/// Labels that stand in no text and say something.
fn unplaced<'a>(diagnostic: &'a Diagnostic, sources: &Sources) -> impl Iterator<Item = &'a Label> {
    labels(diagnostic)
        .filter(|label| placed(label.span, sources).is_none() && !label.text.is_empty())
}

fn labels(diagnostic: &Diagnostic) -> impl Iterator<Item = &Label> {
    std::iter::once(&diagnostic.primary).chain(&diagnostic.secondary)
}

/// The text that a span stands in, and its range there, on character boundaries.
fn placed(span: Span, sources: &Sources) -> Option<(TextId, &Text, Range<usize>)> {
    match sources.place(span)? {
        Place::Token(_) => None,
        Place::Text { text: id, range } => {
            let text = sources.text(*id)?;
            let inside = |offset: usize| {
                (0..=offset.min(text.content.len()))
                    .rev()
                    .find(|&at| text.content.is_char_boundary(at))
            };
            let (start, end) = (inside(range.start)?, inside(range.end)?);
            Some((*id, text, start..end.max(start)))
        }
    }
}

/// The text with control characters escaped: a spec can't move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}
