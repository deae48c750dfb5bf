//! Keys that people will try: other systems' options, and ours in the wrong place. Each is refused by name, with what
//! to write instead.
//!
//! Other systems accept many of these beside latent attention and then ignore them; here nothing is ignored.

mod attention;
mod build;
mod grouped;
mod indexer;
mod leaf;
mod models;
mod rope;
mod training;

use super::codes;
use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// Where a key was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Parameters of `MLASelfAttention`.
    Attention,
    /// Parameters of `SelfAttention` or `CrossAttention`.
    Grouped,
    /// Parameters of a linear, norm or core module.
    Leaf,
    /// Parameters of an indexer and mappings in them.
    Indexer,
    /// The `model` section.
    Model,
    /// A named layer of a model.
    NamedLayer,
    /// The `rope` mapping.
    Rope,
    /// `query_scaling` and the scales of latents.
    Scaling,
    /// `qk_clip`, or the `loss` of an indexer.
    Training,
    /// The `build` section or a mapping in it.
    Build,
}

/// A key that stands where the language has none of that name.
pub(super) struct Foreign {
    key: &'static str,
    kind: Kind,
    /// The key that says the same here, if one does.
    pub(super) ours: Option<&'static str>,
    remedy: &'static str,
}

/// Why there is no such key.
enum Kind {
    /// Another system's name for something that the language has.
    Renamed,
    /// It belongs to another mapping.
    Moved,
    /// It would change nothing: it follows from other keys, or is no concern of a layer.
    Idle,
    /// It would change the layer in a way that this release lacks.
    Later,
}

const fn renamed(key: &'static str, ours: &'static str, remedy: &'static str) -> Foreign {
    Foreign {
        key,
        kind: Kind::Renamed,
        ours: Some(ours),
        remedy,
    }
}

const fn moved(key: &'static str, remedy: &'static str) -> Foreign {
    Foreign {
        key,
        kind: Kind::Moved,
        ours: None,
        remedy,
    }
}

const fn idle(key: &'static str, remedy: &'static str) -> Foreign {
    Foreign {
        key,
        kind: Kind::Idle,
        ours: None,
        remedy,
    }
}

const fn later(key: &'static str, remedy: &'static str) -> Foreign {
    Foreign {
        key,
        kind: Kind::Later,
        ours: None,
        remedy,
    }
}

/// What is known about a key at a place.
pub(super) fn option(place: Place, key: &str) -> Option<&'static Foreign> {
    let list = match place {
        Place::Attention => attention::ATTENTION,
        Place::Grouped => return beside_grouped(key),
        Place::Leaf => leaf::LEAF,
        Place::Indexer => indexer::INDEXER,
        Place::Model => models::MODEL,
        Place::NamedLayer => models::NAMED_LAYER,
        Place::Rope => rope::ROPE,
        Place::Scaling => indexer::SCALING,
        Place::Training => training::TRAINING,
        Place::Build => build::BUILD,
    };
    list.iter().find(|option| option.key == key)
}

/// What is known about a key beside attention without latents.
fn beside_grouped(key: &str) -> Option<&'static Foreign> {
    let tables = grouped::GROUPED.iter().chain(attention::ATTENTION);
    tables.into_iter().find(|option| option.key == key)
}

impl Foreign {
    /// The refusal of this option, written at `span`.
    pub(super) fn refuse(&self, key: &str, span: Span) -> Diagnostic {
        let foreign = || format!("`{key}` is another system's option");
        let (message, label) = match (&self.kind, self.ours) {
            (Kind::Moved, _) => (
                format!("`{key}` doesn't belong here"),
                "not among these keys".to_owned(),
            ),
            (Kind::Later, _) => (
                format!("`{key}` is not in this release"),
                "known, but not yet an option".to_owned(),
            ),
            (Kind::Renamed | Kind::Idle, None) => {
                (foreign(), "would change nothing here".to_owned())
            }
            (Kind::Renamed | Kind::Idle, Some(ours)) => {
                (foreign(), format!("the same is said by `{ours}`"))
            }
        };
        Diagnostic::error(codes::FOREIGN_OPTION, message, span, label).help(self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> [&'static [Foreign]; 10] {
        [
            attention::ATTENTION,
            grouped::GROUPED,
            models::MODEL,
            models::NAMED_LAYER,
            leaf::LEAF,
            indexer::INDEXER,
            indexer::SCALING,
            rope::ROPE,
            training::TRAINING,
            build::BUILD,
        ]
    }

    #[test]
    fn each_key_stands_once_in_its_table() {
        for table in all() {
            let keys: BTreeSet<&str> = table.iter().map(|option| option.key).collect();
            assert_eq!(keys.len(), table.len());
        }
    }

    #[test]
    fn remedies_are_written_like_messages() {
        for option in all().into_iter().flatten() {
            let remedy = option.remedy;
            assert!(
                !remedy.ends_with('.') && remedy.starts_with(char::is_lowercase),
                "{remedy}"
            );
            assert_eq!(remedy.matches('`').count() % 2, 0, "{remedy}");
            assert_eq!(
                matches!(option.kind, Kind::Later),
                remedy.contains("in this release"),
                "{}",
                option.key
            );
        }
    }
}
