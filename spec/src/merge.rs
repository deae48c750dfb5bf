//! `like`: one tree over another, and what of a tree differs from another.
//!
//! A mapping merges into a mapping key by key, at any depth. A mapping that names another `module` or another `type` replaces the
//! whole: parameters of one module mean nothing to another. `null` takes an inherited key away; everything else replaces. A slot
//! that is filled by a bare name counts as a mapping with that `module`.

use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::Spanned;

/// Keys that say what the other keys of a mapping mean.
const KINDS: [&str; 2] = ["module", "type"];

/// `over` laid over `base`. Each part keeps its span.
pub(crate) fn merged(base: &Node, over: &Node) -> Node {
    let (Some(base_entries), Some(over_entries)) = (entries(base, over), entries(over, base))
    else {
        return over.clone();
    };
    if KINDS
        .iter()
        .any(|kind| names_another(&base_entries, &over_entries, kind))
    {
        return over.clone();
    }
    let mut merged = base_entries;
    for entry in over_entries {
        let at = merged
            .iter()
            .position(|inherited| inherited.key.value == entry.key.value);
        match (at, is_null(&entry.value)) {
            (Some(at), true) => {
                merged.remove(at);
            }
            (Some(at), false) => {
                merged[at] = Entry {
                    value: self::merged(&merged[at].value, &entry.value),
                    key: entry.key,
                };
            }
            // Nothing to take away: whoever reads the key says so.
            (None, _) => merged.push(entry),
        }
    }
    Node {
        kind: NodeKind::Map(merged),
        span: over.span,
    }
}

/// What, laid over `base`, makes `target`; `None` where nothing differs. Keys keep the order of `target`.
pub(crate) fn difference(base: &Node, target: &Node) -> Option<Node> {
    if base == target {
        return None;
    }
    let (Some(base_entries), Some(target_entries)) = (entries(base, target), entries(target, base))
    else {
        return Some(target.clone());
    };
    if KINDS
        .iter()
        .any(|kind| find(&base_entries, kind) != find(&target_entries, kind))
    {
        return Some(target.clone());
    }
    let changed = target_entries.iter().filter_map(|entry| {
        let value = match find(&base_entries, &entry.key.value) {
            Some(inherited) => difference(inherited, &entry.value)?,
            None => entry.value.clone(),
        };
        Some(Entry {
            key: entry.key.clone(),
            value,
        })
    });
    let gone = base_entries
        .iter()
        .filter(|entry| find(&target_entries, &entry.key.value).is_none())
        .map(|entry| Entry {
            key: entry.key.clone(),
            value: Scalar::Null.into(),
        });
    Some(Node {
        kind: NodeKind::Map(changed.chain(gone).collect()),
        span: target.span,
    })
}

/// The entries of a mapping, or of the one that a module's bare name stands for where the other side is a mapping of such a kind.
fn entries(node: &Node, other: &Node) -> Option<Vec<Entry>> {
    match (&node.kind, &other.kind) {
        (NodeKind::Map(entries), _) => Some(entries.clone()),
        (NodeKind::Scalar(Scalar::Str(_)), NodeKind::Map(others)) if is_spec(others) => {
            Some(vec![Entry {
                key: Spanned::new("module".to_owned(), node.span),
                value: node.clone(),
            }])
        }
        _ => None,
    }
}

/// Whether these are the entries of a module's spec.
fn is_spec(entries: &[Entry]) -> bool {
    ["module", "params", "submodules"]
        .iter()
        .any(|key| find(entries, key).is_some())
}

fn names_another(base: &[Entry], over: &[Entry], kind: &str) -> bool {
    find(over, kind).is_some_and(|named| find(base, kind) != Some(named))
}

fn is_null(node: &Node) -> bool {
    node.kind == NodeKind::Scalar(Scalar::Null)
}

fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Node> {
    entries
        .iter()
        .find(|entry| entry.key.value == key)
        .map(|entry| &entry.value)
}
