//! Values of a system whose absent keys have defaults that the system states, not the checkpoint's modeling code.

use super::assemble::Comments;
use super::config::{Config, Given};
use super::lints;
use crate::span::{Span, Spanned};

/// Reads values, remembers which were absent, and says so behind them.
///
/// A value of the wrong kind is reported where it is read, and the default stands in for it: what is imported is refused
/// anyway, and everything else is still looked at.
pub(super) struct Reader<'a, 'c> {
    pub(super) config: &'a Config<'c>,
    pub(super) comments: Comments,
    /// Whose defaults they are, for messages.
    whose: &'static str,
    absent_sizes: Vec<String>,
    absent_numbers: Vec<String>,
}

impl<'a, 'c> Reader<'a, 'c> {
    pub(super) fn new(config: &'a Config<'c>, whose: &'static str) -> Self {
        Self {
            config,
            comments: Comments::default(),
            whose,
            absent_sizes: Vec::new(),
            absent_numbers: Vec::new(),
        }
    }

    /// A size, said at `path` of the spec.
    pub(super) fn size(&mut self, key: &str, path: &str, default: u32) -> Spanned<u32> {
        let value = self.or_default(self.config.size(key), key, path, default);
        if value.span.is_none() {
            self.absent_sizes.push(key.to_owned());
        }
        value
    }

    /// A number, said at `path` of the spec.
    pub(super) fn real(&mut self, key: &str, path: &str, default: f64) -> Spanned<f64> {
        let value = self.or_default(self.config.real(key), key, path, default);
        if value.span.is_none() {
            self.absent_numbers.push(key.to_owned());
        }
        value
    }

    /// A switch. Its default is no news.
    pub(super) fn flag(&self, key: &str, default: bool) -> Spanned<bool> {
        let given = self.config.flag(key).value();
        given.unwrap_or(Spanned::unplaced(default))
    }

    /// A word. Its default is no news.
    pub(super) fn word(&self, key: &str, default: &'c str) -> Spanned<&'c str> {
        let given = self.config.word(key).value();
        given.unwrap_or(Spanned::unplaced(default))
    }

    /// A number that may be left out for want of the thing itself.
    pub(super) fn optional(&self, key: &str) -> Option<Spanned<f64>> {
        self.config.real(key).value()
    }

    /// Where a key stands, or where it is missed.
    pub(super) fn place(&self, key: &str) -> Span {
        let entry = self.config.entry(key);
        entry.map_or(self.config.span, |entry| entry.key.span)
    }

    /// Whether a key is there, `null` included.
    pub(super) fn has(&self, key: &str) -> bool {
        self.config.entry(key).is_some()
    }

    /// Takes a default that is said elsewhere.
    pub(super) fn forget(&mut self, key: &str) {
        self.absent_sizes.retain(|absent| absent != key);
        self.absent_numbers.retain(|absent| absent != key);
    }

    /// Says once which defaults were taken, and hands over the comments.
    pub(super) fn finish(self) -> Comments {
        lints::absent_sizes(self.config, self.whose, &self.absent_sizes);
        lints::absent_numbers(self.config, self.whose, &self.absent_numbers);
        self.comments
    }

    fn or_default<T>(&mut self, given: Given<T>, key: &str, path: &str, default: T) -> Spanned<T> {
        match given {
            Given::Value(value) => value,
            Given::Wrong => Spanned::unplaced(default),
            Given::Absent | Given::Null(_) => {
                self.comments
                    .add(path, &format!("{key} is absent: one of {}", self.whose));
                Spanned::unplaced(default)
            }
        }
    }
}
