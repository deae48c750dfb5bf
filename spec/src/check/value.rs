//! Typed readers of the tree. A [`Table`] remembers which keys were read, so that one which nothing reads is an error.

use super::codes;
use super::foreign::{self, Place};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::document::ModuleSpec;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::suggest::suggest;

/// A mapping whose keys must all be known.
pub(super) struct Table<'a> {
    /// How messages name it, backticks included.
    owner: String,
    /// Where a missing key is reported.
    anchor: Span,
    /// Whose foreign options are recognised.
    place: Place,
    items: Vec<(Field<'a>, bool)>,
    known: Vec<&'static str>,
    missing: Vec<&'static str>,
}

/// One `key: value` of a [`Table`].
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) key: &'a Spanned<String>,
    pub(super) value: &'a Node,
}

/// A word that the language does not have, and what to say about it.
pub(super) struct Later {
    /// The code of the refusal.
    pub(super) code: Code,
    /// What the words stand for: `a phase`.
    pub(super) what: &'static str,
    /// Words that exist elsewhere, each with a remedy.
    pub(super) words: &'static [(&'static str, &'static str)],
}

/// The words that a value may be.
pub(super) struct Words<'w, T> {
    /// Those of the language.
    pub(super) choices: &'w [(&'static str, T)],
    /// Other systems' spellings of them.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// Words of other systems that this release lacks.
    pub(super) later: Option<&'w Later>,
}

impl<'a> Table<'a> {
    /// The parameters of a module.
    pub(super) fn params(spec: &'a ModuleSpec, place: Place) -> Self {
        let items = spec
            .params
            .iter()
            .map(|param| {
                (
                    Field {
                        key: &param.key,
                        value: &param.value,
                    },
                    false,
                )
            })
            .collect();
        let owner = format!("`{}`", quoted(&spec.module.value));
        Self {
            owner,
            anchor: spec.module.span,
            place,
            items,
            known: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// A value that must be a mapping, such as `rope`. A single word was mostly meant for its key `main`.
    pub(super) fn map(
        name: &str,
        main: Option<&str>,
        node: &'a Node,
        anchor: Span,
        place: Place,
        out: &mut Diagnostics,
    ) -> Option<Self> {
        let NodeKind::Map(entries) = &node.kind else {
            let wrong = wrong_kind(name, "a mapping", node);
            out.push(match (&node.kind, main) {
                (NodeKind::Scalar(Scalar::Str(word)), Some(main)) => wrong.help(format!(
                    "write `{name}: {{ {main}: {}, .. }}`",
                    quoted(word)
                )),
                _ => wrong,
            });
            return None;
        };
        let items = entries
            .iter()
            .map(|entry| {
                (
                    Field {
                        key: &entry.key,
                        value: &entry.value,
                    },
                    false,
                )
            })
            .collect();
        let anchor = if anchor.is_none() { node.span } else { anchor };
        Some(Self {
            owner: format!("`{name}`"),
            anchor,
            place,
            items,
            known: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// The first entry with this key, which is then known and read.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let (field, read) = self
            .items
            .iter_mut()
            .find(|(field, _)| field.key.value == key)?;
        *read = true;
        Some(*field)
    }

    /// As [`Table::take`]; [`Table::finish`] reports the key where it is missing.
    pub(super) fn require(&mut self, key: &'static str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.missing.push(key);
        }
        field
    }

    /// Whether a key that is not there looks misspelt, so that its absence needs no report of its own.
    pub(super) fn is_misspelt(&self, key: &'static str) -> bool {
        self.items
            .iter()
            .filter(|(_, read)| !read)
            .any(
                |(field, _)| match foreign::option(self.place, &field.key.value) {
                    Some(option) => option.ours == Some(key),
                    None => suggest(&field.key.value, [key]).is_some(),
                },
            )
    }

    /// Where a missing key is reported.
    pub(super) fn anchor(&self) -> Span {
        self.anchor
    }

    /// Reports the keys that nothing read and the required ones that are not there.
    pub(super) fn finish(self, out: &mut Diagnostics) {
        let mut misspelt = Vec::new();
        for (index, (field, read)) in self.items.iter().enumerate() {
            if *read {
                continue;
            }
            let key = quoted(&field.key.value);
            if self.items[..index]
                .iter()
                .any(|(earlier, _)| earlier.key.value == field.key.value)
            {
                let message = format!("{} has the key `{key}` twice", self.owner);
                let twice = Diagnostic::error(
                    codes::UNKNOWN_KEY,
                    message,
                    field.key.span,
                    "written again here",
                );
                out.push(twice.help("keep one of them"));
            } else if let Some(option) = foreign::option(self.place, &field.key.value) {
                misspelt.extend(option.ours.filter(|ours| self.missing.contains(ours)));
                out.push(option.refuse(&key, field.key.span));
            } else {
                let near = suggest(&field.key.value, self.known.iter().copied());
                misspelt.extend(near);
                out.push(self.unknown(&key, field.key.span, near));
            }
        }
        self.report_missing(&misspelt, out);
    }

    fn unknown(&self, key: &str, span: Span, near: Option<&'static str>) -> Diagnostic {
        let message = format!("{} has no key `{key}`", self.owner);
        let unknown = Diagnostic::error(codes::UNKNOWN_KEY, message, span, "not known here");
        match near {
            Some(near) => unknown.help(format!("did you mean `{near}`?")),
            None if self.known.is_empty() => {
                unknown.help("remove it: this module takes no parameters")
            }
            None => unknown.help(format!(
                "remove it; the keys known here are {}",
                listed(&self.known)
            )),
        }
    }

    fn report_missing(&self, misspelt: &[&'static str], out: &mut Diagnostics) {
        let missing: Vec<_> = self
            .missing
            .iter()
            .copied()
            .filter(|key| !misspelt.contains(key))
            .collect();
        if missing.is_empty() {
            return;
        }
        let names = listed(&missing);
        let message = format!("{} lacks {names}", self.owner);
        let lacks = Diagnostic::error(
            codes::MISSING_KEY,
            message,
            self.anchor,
            format!("needs {names}"),
        );
        out.push(lacks.help(format!(
            "add {}: nothing that changes numbers has a default",
            if missing.len() == 1 { "it" } else { "them" }
        )));
    }
}

impl<'a> Field<'a> {
    /// The key as messages quote it.
    pub(super) fn name(&self) -> &'a str {
        &self.key.value
    }

    /// An integer between two bounds, both included.
    pub(super) fn integer(
        &self,
        min: u32,
        max: u32,
        out: &mut Diagnostics,
    ) -> Option<Spanned<u32>> {
        let wanted = format!("an integer from {min} to {max}");
        let NodeKind::Scalar(Scalar::Int(value)) = &self.value.kind else {
            out.push(wrong_kind(self.name(), &wanted, self.value));
            return None;
        };
        match u32::try_from(*value) {
            Ok(inside) if (min..=max).contains(&inside) => {
                Some(Spanned::new(inside, self.value.span))
            }
            _ => {
                let message = format!("`{}` must be {wanted}, found `{value}`", self.name());
                let outside = Diagnostic::error(
                    codes::OUT_OF_BOUNDS,
                    message,
                    self.value.span,
                    "outside of these bounds",
                );
                out.push(outside.help(format!("give {wanted}")));
                None
            }
        }
    }

    /// A finite number; integers count.
    pub(super) fn number(&self, out: &mut Diagnostics) -> Option<Spanned<f64>> {
        let value = match &self.value.kind {
            NodeKind::Scalar(Scalar::Float(value)) if value.is_finite() => *value,
            NodeKind::Scalar(Scalar::Int(value)) => *value as f64,
            _ => {
                out.push(wrong_kind(self.name(), "a finite number", self.value));
                return None;
            }
        };
        Some(Spanned::new(value, self.value.span))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, out: &mut Diagnostics) -> Option<bool> {
        if let NodeKind::Scalar(Scalar::Bool(value)) = &self.value.kind {
            return Some(*value);
        }
        out.push(wrong_kind(self.name(), "`true` or `false`", self.value));
        None
    }

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
                "nothing would be built",
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
    if let Some(later) = words.later
        && let Some((_, remedy)) = later
            .words
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
    {
        let message = format!("`{name}: {found}` is not in this release");
        let label = format!("known, but not yet {}", later.what);
        out.push(Diagnostic::error(later.code, message, node.span, label).help(*remedy));
        return None;
    }
    let message = format!("`{name}` must be {}, found `{found}`", one_of(&names));
    let unknown = Diagnostic::error(codes::UNKNOWN_WORD, message, node.span, "not one of them");
    let alias = words
        .aliases
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(text))
        .map(|(_, ours)| *ours);
    out.push(
        match alias.or_else(|| suggest(text, names.iter().copied())) {
            Some(ours) => unknown.help(format!("did you mean `{ours}`?")),
            None => unknown.help("write one of these words"),
        },
    );
    None
}

/// A value that is not of the kind wanted.
pub(super) fn wrong_kind(name: &str, wanted: &str, node: &Node) -> Diagnostic {
    let message = format!("`{name}` must be {wanted}, found {}", shown(node));
    let label = match &node.kind {
        NodeKind::Scalar(Scalar::Float(_)) => "this has a fraction or an exponent".to_owned(),
        _ => format!("this is {}", node.kind_name()),
    };
    let wrong = Diagnostic::error(codes::WRONG_KIND, message, node.span, label);
    match &node.kind {
        NodeKind::Scalar(Scalar::Str(text)) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
            wrong.help("write the number without quotes")
        }
        NodeKind::Scalar(Scalar::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
            wrong.help(format!("write `{value:.0}`"))
        }
        _ => wrong.help(format!("give {wanted}")),
    }
}

/// A value as messages show it: short scalars in backticks, the rest by kind.
pub(super) fn shown(node: &Node) -> String {
    match &node.kind {
        NodeKind::Scalar(Scalar::Null) => "null".to_owned(),
        NodeKind::Scalar(Scalar::Bool(value)) => format!("`{value}`"),
        NodeKind::Scalar(Scalar::Int(value)) => format!("`{value}`"),
        NodeKind::Scalar(Scalar::Float(value)) => format!("`{value:?}`"),
        NodeKind::Scalar(Scalar::Str(text)) if looks_like_another_kind(text) => {
            format!("`\"{}\"`", quoted(text))
        }
        NodeKind::Scalar(Scalar::Str(text)) => format!("`{}`", quoted(text)),
        NodeKind::Seq(_) | NodeKind::Map(_) => node.kind_name().to_owned(),
    }
}

/// Whether a string needs its quotes in a message to be told from a number, a boolean or nothing.
fn looks_like_another_kind(text: &str) -> bool {
    text.parse::<f64>().is_ok() || ["", "true", "false", "null", "~"].contains(&text)
}

/// The user's word as it may stand between backticks: escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut quoted: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        quoted.push_str("..");
    }
    quoted
}

/// `` `a`, `b` and `c` ``.
pub(super) fn listed(names: &[&str]) -> String {
    joined(names, "and")
}

/// `` `a`, `b` or `c` ``.
pub(super) fn one_of(names: &[&str]) -> String {
    joined(names, "or")
}

fn joined(names: &[&str], last: &str) -> String {
    let ticked: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match ticked.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}
