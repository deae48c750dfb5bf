//! Closed lists of words, and lists of them.

use super::codes;
use super::text::{listed, one_of, quoted, shown, wrong_kind};
use super::value::Field;
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::node::{Node, NodeKind, Scalar};
use crate::span::Spanned;
use crate::suggest::suggest;

/// Words that are known and no choice here, and what to say about them.
pub(super) struct Others {
    /// The code of the refusal.
    pub(super) code: Code,
    /// What is wrong with them: `is not in this release`.
    pub(super) verdict: &'static str,
    /// What is seen there: `known, but not yet a phase`.
    pub(super) label: &'static str,
    /// The words, each with a remedy.
    pub(super) words: &'static [(&'static str, &'static str)],
}

/// The words that a value may be.
pub(super) struct Words<'w, T> {
    /// Those of the language.
    pub(super) choices: &'w [(&'static str, T)],
    /// Other systems' spellings of them.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// Words that are known but are no choice.
    pub(super) others: Option<&'w Others>,
}

impl Field<'_> {
    /// One of the words.
    pub(super) fn word<T: Copy + PartialEq>(
        &self,
        words: &Words<'_, T>,
        out: &mut Diagnostics,
    ) -> Option<Spanned<T>> {
        word(self.name(), self.value, words, out)
    }

    /// A list of such words that is not empty and holds none twice.
    pub(super) fn words<T: Copy + PartialEq>(
        &self,
        words: &Words<'_, T>,
        out: &mut Diagnostics,
    ) -> Vec<Spanned<T>> {
        let NodeKind::Seq(nodes) = &self.value.kind else {
            let list = wrong_kind(self.name(), "a list", self.value);
            out.push(match &self.value.kind {
                NodeKind::Scalar(Scalar::Str(one)) => {
                    list.help(format!("write `[{}]`", quoted(one)))
                }
                _ => list,
            });
            return Vec::new();
        };
        if nodes.is_empty() {
            let message = format!("`{}` is empty", self.name());
            let empty = Diagnostic::error(
                codes::EMPTY_LIST,
                message,
                self.value.span,
                "nothing is listed",
            );
            out.push(empty.help(format!(
                "list at least one of {}, or remove the key",
                listed(&words.names())
            )));
        }
        let mut found: Vec<Spanned<T>> = Vec::new();
        for node in nodes {
            let Some(value) = word(self.name(), node, words, out) else {
                continue;
            };
            if let Some(first) = found.iter().find(|earlier| earlier.value == value.value) {
                let message = format!("`{}` lists {} twice", self.name(), shown(node));
                let twice = Diagnostic::error(
                    codes::WRITTEN_TWICE,
                    message,
                    node.span,
                    "listed again here",
                );
                out.push(
                    twice
                        .and(first.span, "first listed here")
                        .help("remove one of them"),
                );
            } else {
                found.push(value);
            }
        }
        found
    }
}

impl<T: Copy + PartialEq> Words<'_, T> {
    /// The word for a value.
    pub(super) fn name_of(&self, value: T) -> &'static str {
        self.choices
            .iter()
            .find(|(_, choice)| *choice == value)
            .map_or("", |(name, _)| name)
    }

    fn names(&self) -> Vec<&'static str> {
        self.choices.iter().map(|(name, _)| *name).collect()
    }
}

/// One of the words, written as a string.
fn word<T: Copy + PartialEq>(
    name: &str,
    node: &Node,
    words: &Words<'_, T>,
    out: &mut Diagnostics,
) -> Option<Spanned<T>> {
    let names = words.names();
    let NodeKind::Scalar(Scalar::Str(text)) = &node.kind else {
        out.push(wrong_kind(name, &one_of(&names), node));
        return None;
    };
    if let Some((_, value)) = words.choices.iter().find(|(choice, _)| choice == text) {
        return Some(Spanned::new(*value, node.span));
    }
    let found = quoted(text);
    if let Some(others) = words.others
        && let Some((_, remedy)) = others
            .words
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
    {
        let message = format!("`{name}: {found}` {}", others.verdict);
        let other = Diagnostic::error(others.code, message, node.span, others.label);
        out.push(other.help(*remedy));
        return None;
    }
    let message = format!("`{name}` must be {}, found `{found}`", one_of(&names));
    let (label, remedy) = match names[..] {
        [only] => ("another word".to_owned(), format!("write `{only}`")),
        _ => (
            "not one of them".to_owned(),
            "write one of these words".to_owned(),
        ),
    };
    let unknown = Diagnostic::error(codes::UNKNOWN_WORD, message, node.span, label);
    let alias = words
        .aliases
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(text))
        .map(|(_, ours)| *ours);
    out.push(
        match alias.or_else(|| suggest(text, names.iter().copied())) {
            Some(ours) => unknown.help(format!("did you mean `{ours}`?")),
            None => unknown.help(remedy),
        },
    );
    None
}
