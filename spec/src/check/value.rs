//! Typed readers of the tree. A [`Table`] remembers which keys were read, so that one which nothing reads is an error.

use super::codes;
use super::foreign::{self, Place};
use super::text::{listed, quoted, shown, wrong_kind};
use super::vocabulary;
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

/// What an optional key says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stated<T> {
    /// Nothing: it is not there.
    Absent,
    /// Something that was refused; what the user means is anybody's guess.
    Refused,
    /// This.
    Given {
        /// The value.
        value: T,
        /// Where its key stands.
        key: Span,
    },
}

impl<T> Stated<T> {
    /// The value, `default` where the key is absent, nothing where it was refused.
    pub(super) fn or(self, default: T) -> Option<T> {
        match self {
            Stated::Absent => Some(default),
            Stated::Refused => None,
            Stated::Given { value, .. } => Some(value),
        }
    }

    /// The value, `Some(None)` where the key is absent, nothing where it was refused.
    pub(super) fn optional(self) -> Option<Option<T>> {
        match self {
            Stated::Absent => Some(None),
            Stated::Refused => None,
            Stated::Given { value, .. } => Some(Some(value)),
        }
    }

    /// The value and where its key stands, if there is one.
    pub(super) fn given(&self) -> Option<(&T, Span)> {
        match self {
            Stated::Given { value, key } => Some((value, *key)),
            Stated::Absent | Stated::Refused => None,
        }
    }

    /// Whether the key is not there, under no name.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Stated::Absent)
    }

    /// Another value at the same place; a closure that answers `None` has refused it.
    pub(super) fn and_then<U>(self, then: impl FnOnce(T) -> Option<U>) -> Stated<U> {
        match self {
            Stated::Absent => Stated::Absent,
            Stated::Refused => Stated::Refused,
            Stated::Given { value, key } => match then(value) {
                Some(value) => Stated::Given { value, key },
                None => Stated::Refused,
            },
        }
    }
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

    /// The first entry with a key that the caller refuses. It is gone afterwards, and nothing suggests it.
    pub(super) fn take_stray(&mut self, key: &str) -> Option<Field<'a>> {
        let at = self
            .items
            .iter()
            .position(|(field, _)| field.key.value == key)?;
        Some(self.items.remove(at).0)
    }

    /// As [`Table::take`]; [`Table::finish`] reports the key where it is missing.
    pub(super) fn require(&mut self, key: &'static str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.missing.push(key);
        }
        field
    }

    /// An optional key, read by `reader`, which answers `None` where it refuses.
    pub(super) fn stated<T>(
        &mut self,
        key: &'static str,
        reader: impl FnOnce(Field<'a>) -> Option<T>,
    ) -> Stated<T> {
        match self.take(key) {
            None if self.is_misspelt(key) => Stated::Refused,
            None => Stated::Absent,
            Some(field) => match reader(field) {
                Some(value) => Stated::Given {
                    value,
                    key: field.key.span,
                },
                None => Stated::Refused,
            },
        }
    }

    /// Whether a key that is not there looks misspelt, so that its absence needs no report of its own.
    pub(super) fn is_misspelt(&self, key: &'static str) -> bool {
        self.items
            .iter()
            .filter(|(_, read)| !read)
            .map(|(field, _)| field.key.value.as_str())
            .any(|other| match foreign::option(self.place, other) {
                Some(option) => option.ours == Some(key),
                None => !vocabulary::has(other) && suggest(other, [key]).is_some(),
            })
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

    /// A number that holds to `inside`; `wanted` says to what.
    pub(super) fn bounded(
        &self,
        wanted: &str,
        inside: impl Fn(f64) -> bool,
        out: &mut Diagnostics,
    ) -> Option<f64> {
        self.bounded_as(codes::NUMBER_OUT_OF_BOUNDS, wanted, inside, out)
    }

    /// As [`Field::bounded`], refused with a code of the caller's.
    pub(super) fn bounded_as(
        &self,
        code: Code,
        wanted: &str,
        inside: impl Fn(f64) -> bool,
        out: &mut Diagnostics,
    ) -> Option<f64> {
        let value = self.number(out)?;
        if inside(value.value) {
            return Some(value.value);
        }
        let message = format!(
            "`{}` must be {wanted}, found {}",
            self.name(),
            shown(self.value)
        );
        let outside = Diagnostic::error(code, message, value.span, "outside of these bounds");
        out.push(outside.help(format!("give a number {wanted}")));
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, out: &mut Diagnostics) -> Option<bool> {
        if let NodeKind::Scalar(Scalar::Bool(value)) = &self.value.kind {
            return Some(*value);
        }
        out.push(wrong_kind(self.name(), "`true` or `false`", self.value));
        None
    }

    /// The items of a list.
    pub(super) fn list(&self, out: &mut Diagnostics) -> Option<&'a [Node]> {
        if let NodeKind::Seq(items) = &self.value.kind {
            return Some(items);
        }
        out.push(wrong_kind(self.name(), "a list", self.value));
        None
    }

    /// The field with one item of its list in place of the whole.
    pub(super) fn item(&self, item: &'a Node) -> Self {
        Self {
            key: self.key,
            value: item,
        }
    }
}
