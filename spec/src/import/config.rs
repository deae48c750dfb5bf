//! A config object being read: typed look-ups that remember which keys were asked for and what was wrong.

use std::cell::{Cell, RefCell};

use super::codes;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// What a key holds: absent and `null` are different words for some keys, the same for others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Given<T> {
    /// The key is not there.
    Absent,
    /// The key holds `null`.
    Null(Span),
    /// The key holds a value.
    Value(Spanned<T>),
    /// The key holds something else; that is reported already.
    Wrong,
}

impl<T> Given<T> {
    /// The value, where there is one.
    pub(super) fn value(self) -> Option<Spanned<T>> {
        match self {
            Given::Value(value) => Some(value),
            Given::Absent | Given::Null(_) | Given::Wrong => None,
        }
    }
}

/// One JSON object of a config.
pub(super) struct Config<'a> {
    entries: &'a [Entry],
    /// Its opening bracket: where absent keys are missed.
    pub(super) span: Span,
    asked: Vec<Cell<bool>>,
    /// Entries whose value was found wrong: said once, however often the key is read.
    wrong: Vec<Cell<bool>>,
    diagnostics: &'a RefCell<Diagnostics>,
}

impl<'a> Config<'a> {
    /// An object whose problems go to `diagnostics`.
    pub(super) fn new(
        entries: Spanned<&'a [Entry]>,
        diagnostics: &'a RefCell<Diagnostics>,
    ) -> Self {
        let Spanned {
            value: entries,
            span,
        } = entries;
        let unmarked = || entries.iter().map(|_| Cell::new(false)).collect();
        Self {
            entries,
            span,
            asked: unmarked(),
            wrong: unmarked(),
            diagnostics,
        }
    }

    /// An object inside this one.
    pub(super) fn inner(&self, entries: Spanned<&'a [Entry]>) -> Config<'a> {
        Config::new(entries, self.diagnostics)
    }

    /// The same object, with nothing asked for yet.
    pub(super) fn same(&self) -> Config<'a> {
        Config::new(Spanned::new(self.entries, self.span), self.diagnostics)
    }

    /// Whether it has any entry.
    pub(super) fn says_anything(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Reports a problem.
    pub(super) fn report(&self, diagnostic: Diagnostic) {
        self.diagnostics.borrow_mut().push(diagnostic);
    }

    /// The entry under `key`, which counts as asked for from now on.
    pub(super) fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.find(key).map(|index| &self.entries[index])
    }

    fn find(&self, key: &str) -> Option<usize> {
        let index = self
            .entries
            .iter()
            .position(|entry| entry.key.value == key)?;
        self.asked[index].set(true);
        Some(index)
    }

    /// The entries that nobody asked for.
    pub(super) fn unasked(&self) -> impl Iterator<Item = &'a Entry> + '_ {
        self.entries
            .iter()
            .zip(&self.asked)
            .filter(|(_, asked)| !asked.get())
            .map(|(entry, _)| entry)
    }

    /// A size: an integer that fits `u32`. A float without fraction counts, since Python writes one now and then.
    pub(super) fn size(&self, key: &str) -> Given<u32> {
        self.look_up(
            key,
            "an integer between 0 and 4294967295",
            |node| match &node.kind {
                NodeKind::Scalar(Scalar::Int(value)) => u32::try_from(*value).ok(),
                NodeKind::Scalar(Scalar::Float(value)) => whole(*value),
                _ => None,
            },
        )
    }

    /// A real number; integers count.
    pub(super) fn real(&self, key: &str) -> Given<f64> {
        self.look_up(key, "a number", |node| match &node.kind {
            NodeKind::Scalar(Scalar::Int(value)) => Some(*value as f64),
            NodeKind::Scalar(Scalar::Float(value)) => Some(*value),
            _ => None,
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Given<bool> {
        self.look_up(key, "`true` or `false`", |node| match &node.kind {
            NodeKind::Scalar(Scalar::Bool(value)) => Some(*value),
            _ => None,
        })
    }

    /// A string.
    pub(super) fn word(&self, key: &str) -> Given<&'a str> {
        self.look_up(key, "a string", |node| match &node.kind {
            NodeKind::Scalar(Scalar::Str(value)) => Some(value.as_str()),
            _ => None,
        })
    }

    /// A string, where the key holds one; anything else is no problem.
    pub(super) fn word_if_any(&self, key: &str) -> Option<&'a str> {
        match &self.entry(key)?.value.kind {
            NodeKind::Scalar(Scalar::Str(word)) => Some(word),
            _ => None,
        }
    }

    /// A list of nodes.
    pub(super) fn list(&self, key: &str) -> Given<&'a [Node]> {
        self.look_up(key, "a list", |node| match &node.kind {
            NodeKind::Seq(items) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// An object.
    pub(super) fn object(&self, key: &str) -> Given<&'a [Entry]> {
        self.look_up(key, "an object", |node| match &node.kind {
            NodeKind::Map(entries) => Some(entries.as_slice()),
            _ => None,
        })
    }

    /// The layer that is meant, counted from 0; `count` is the key that says how many there are.
    pub(super) fn layer(&self, wanted: Option<u32>, count: &str) -> Option<u32> {
        let layer = wanted.unwrap_or(0);
        let there = self.size(count).value();
        let Some(there) = there.filter(|there| layer >= there.value) else {
            return Some(layer);
        };
        let message = format!("there is no layer {layer}: the model has {}", there.value);
        let (code, label) = (codes::LAYER_OUT_OF_RANGE, "the number of layers");
        self.report(
            Diagnostic::error(code, message, there.span, label).help("layers count from 0"),
        );
        None
    }

    fn look_up<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Node) -> Option<T>,
    ) -> Given<T> {
        let Some(index) = self.find(key) else {
            return Given::Absent;
        };
        let entry = &self.entries[index];
        if entry.value.kind == NodeKind::Scalar(Scalar::Null) {
            return Given::Null(entry.value.span);
        }
        match read(&entry.value) {
            Some(value) => Given::Value(Spanned::new(value, entry.value.span)),
            None => {
                if !self.wrong[index].replace(true) {
                    self.report(wrong_value(key, &entry.value, wanted));
                }
                Given::Wrong
            }
        }
    }
}

/// The error of a key that holds something of the wrong kind or range.
pub(super) fn wrong_value(key: &str, found: &Node, wanted: &str) -> Diagnostic {
    let seen = match &found.kind {
        NodeKind::Scalar(Scalar::Int(value)) => format!("`{value}`"),
        NodeKind::Scalar(Scalar::Float(value)) => format!("`{value}`"),
        _ => found.kind_name().to_owned(),
    };
    Diagnostic::error(
        codes::WRONG_VALUE,
        format!("`{key}` is {seen}, wanted {wanted}"),
        found.span,
        format!("wanted {wanted}"),
    )
}

/// The integer that a float without fraction stands for.
pub(super) fn whole(value: f64) -> Option<u32> {
    (value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value)).then_some(value as u32)
}
