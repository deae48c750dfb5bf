//! Diagnostics as tokens: `compile_error!` for errors, a use of something deprecated for warnings.

use mla_spec::read::tokens::{self, TokenSpans};
use mla_spec::{Diagnostic, Diagnostics, Place, Severity, Sources, render};
use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

/// Most diagnostics of a spec file shown in one error; a longer text is unreadable in a terminal.
const MAX_SHOWN: usize = 5;

/// One error.
pub(crate) fn at(span: Span, message: &str) -> TokenStream {
    quote_spanned!(span=> ::core::compile_error! { #message })
}

/// One warning. A macro has no other way to warn on a stable compiler than to use something deprecated.
fn warning_at(span: Span, message: &str) -> TokenStream {
    quote_spanned! {span=>
        const _: () = {
            #[deprecated(note = #message)]
            const MLA_LAYER: () = ();
            MLA_LAYER
        };
    }
}

/// Each diagnostic at its own token.
pub(crate) fn of_tokens(
    diagnostics: &Diagnostics,
    sources: &Sources,
    spans: &TokenSpans,
) -> TokenStream {
    diagnostics
        .iter()
        .map(|diagnostic| {
            let span = match sources.place(diagnostic.primary.span) {
                Some(Place::Token(index)) => spans.get(*index).unwrap_or_else(Span::call_site),
                _ => Span::call_site(),
            };
            let text = message(diagnostic, sources, spans);
            match diagnostic.severity {
                Severity::Error => at(span, &text),
                Severity::Warning => warning_at(span, &text),
            }
        })
        .collect()
}

/// The message, then what else there is to say, in Rust's spelling.
fn message(diagnostic: &Diagnostic, sources: &Sources, spans: &TokenSpans) -> String {
    let text = render::without_source(diagnostic, |span| match sources.place(span)? {
        Place::Token(index) => spans.get(*index).and_then(in_words),
        Place::Text { .. } => None,
    });
    match text.split_once('\n') {
        Some((first, rest)) => format!("{first}\n{}", tokens::in_rust(rest)),
        None => text,
    }
}

/// A token and its line: a macro can point at one place only, and names the others.
fn in_words(span: Span) -> Option<String> {
    if !proc_macro::is_available() {
        return None;
    }
    let line = span.unwrap().line();
    match span.source_text() {
        Some(token) if token.len() <= 64 => Some(format!("`{token}`, line {line}")),
        _ => Some(format!("line {line}")),
    }
}

/// The diagnostics of a spec file in one message at the literal that names it.
pub(crate) fn of_file(
    diagnostics: &Diagnostics,
    sources: &Sources,
    path: &syn::LitStr,
) -> TokenStream {
    let of = |severity| {
        diagnostics
            .iter()
            .filter(|one| one.severity == severity)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let mut tokens = TokenStream::new();
    if !errors.is_empty() {
        let head = format!("`{}` does not describe a layer", path.value());
        tokens.extend(at(
            path.span(),
            &format!("{head}\n\n{}", shown(errors, sources, &path.value())),
        ));
    }
    if !warnings.is_empty() {
        let head = format!("`{}` deserves a look", path.value());
        tokens.extend(warning_at(
            path.span(),
            &format!("{head}\n\n{}", shown(warnings, sources, &path.value())),
        ));
    }
    tokens
}

fn shown(list: Vec<Diagnostic>, sources: &Sources, path: &str) -> String {
    let left_out = list.len().saturating_sub(MAX_SHOWN);
    let mut first = Diagnostics::new();
    list.into_iter()
        .take(MAX_SHOWN)
        .for_each(|diagnostic| first.push(diagnostic));
    let mut text = render::text(&first, sources, false);
    if left_out > 0 {
        text.push_str(&format!(
            "\nand {left_out} more: run `mla-gen check {path}`\n"
        ));
    }
    text
}
