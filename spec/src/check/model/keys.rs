//! The keys of `model` besides layers and pattern: where tensors lie, and who attends to whose.

use std::collections::BTreeMap;

use super::Attention;
use crate::check::codes;
use crate::check::text::{quoted, wrong_kind};
use crate::check::value::{Field, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::model::Prefix;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// Reads `prefix`: where checkpoints hold an attention's tensors.
pub(super) fn prefix(
    table: &mut Table<'_>,
    attentions_per_layer: Option<u32>,
    out: &mut Diagnostics,
) -> Option<Prefix> {
    let Some(field) = table.take("prefix") else {
        return Some(Prefix::usual(attentions_per_layer?));
    };
    let text = string(
        &field,
        "a text such as `model.layers.{layer}.self_attn`",
        out,
    )?;
    let Some(complaint) = complaint(&text.value, attentions_per_layer?) else {
        return Some(Prefix(text.value));
    };
    let message = format!("`{}` can't say where tensors lie", quoted(&text.value));
    let wrong = Diagnostic::error(codes::PREFIX, message, text.span, complaint);
    out.push(wrong.help(format!(
        "write such as `{}`",
        Prefix::usual(attentions_per_layer?).pattern()
    )));
    None
}

/// Why a text is no prefix.
fn complaint(text: &str, attentions_per_layer: u32) -> Option<&'static str> {
    let several = attentions_per_layer > 1;
    let holes = |hole: &str| text.matches(hole).count();
    let rest = text.replace("{layer}", "0").replace("{attention}", "0");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match (holes("{layer}"), holes("{attention}")) {
        (0, _) => Some("has no `{layer}`"),
        (_, 0) if several => Some("has no `{attention}`, and a layer has several"),
        (2.., _) | (_, 2..) => Some("has a hole twice"),
        (_, 1) if !several => Some("a layer has one attention, so there is no `{attention}`"),
        _ if !rest.chars().all(plain) => Some("is made of letters, digits, `_`, `-` and `.`"),
        _ => None,
    }
}

/// A text. `None`: refused.
pub(super) fn string(
    field: &Field<'_>,
    wanted: &str,
    out: &mut Diagnostics,
) -> Option<Spanned<String>> {
    if let NodeKind::Scalar(Scalar::Str(text)) = &field.value.kind {
        return Some(Spanned::new(text.clone(), field.value.span));
    }
    out.push(wrong_kind(field.name(), wanted, field.value));
    None
}

/// Which earlier attention some attentions take theirs from, as far as it is stated.
pub(super) struct Sources {
    /// The key that states them.
    pub(super) key: &'static str,
    /// Consumer, its place, and its source; absent where that was refused.
    pub(super) stated: BTreeMap<usize, (Span, Option<Spanned<usize>>)>,
}

impl Sources {
    /// Reads a mapping from consumers to sources, or a list with the source of every attention, itself where it takes none.
    pub(super) fn read(
        table: &mut Table<'_>,
        key: &'static str,
        attentions: Option<&[Attention]>,
        out: &mut Diagnostics,
    ) -> Self {
        let mut sources = Self {
            key,
            stated: BTreeMap::new(),
        };
        let (Some(field), Some(attentions)) = (table.take(key), attentions) else {
            return sources;
        };
        match &field.value.kind {
            NodeKind::Seq(items) => sources.list(&field, items, attentions.len(), out),
            NodeKind::Map(entries) => {
                for entry in entries {
                    let field = Field {
                        key: &entry.key,
                        value: &entry.value,
                    };
                    sources.pair(&field, attentions.len(), out);
                }
            }
            _ => {
                let wanted = "a mapping from attentions to their sources, or a list of sources";
                out.push(wrong_kind(key, wanted, field.value));
            }
        }
        sources
    }

    fn pair(&mut self, field: &Field<'_>, count: usize, out: &mut Diagnostics) {
        let source = index(field, field.value, count, out);
        match field.name().parse::<usize>() {
            Ok(consumer) if consumer < count => {
                self.stated.insert(consumer, (field.key.span, source));
            }
            _ => {
                let message = format!("`{}` has no attention `{}`", self.key, quoted(field.name()));
                let label = "not a number of an attention";
                let outside =
                    Diagnostic::error(codes::OUT_OF_BOUNDS, message, field.key.span, label);
                out.push(outside.help(format!(
                    "attentions are numbered from \"0\" to \"{}\"",
                    count.saturating_sub(1)
                )));
            }
        }
    }

    fn list(&mut self, field: &Field<'_>, items: &[Node], count: usize, out: &mut Diagnostics) {
        if items.len() != count {
            let message = format!(
                "`{}` has {} entries and needs {count}",
                self.key,
                items.len()
            );
            let label = "one for every attention";
            let length = Diagnostic::error(codes::LIST_LENGTH, message, field.value.span, label);
            out.push(length.help(
                "list every attention's source, its own number where it has none, or map consumers to sources",
            ));
            return;
        }
        for (consumer, item) in items.iter().enumerate() {
            let source = index(field, item, count, out);
            if source.is_none_or(|source| source.value != consumer) {
                self.stated.insert(consumer, (item.span, source));
            }
        }
    }
}

/// The number of an attention.
fn index(
    field: &Field<'_>,
    node: &Node,
    count: usize,
    out: &mut Diagnostics,
) -> Option<Spanned<usize>> {
    let last = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
    let field = Field {
        key: field.key,
        value: node,
    };
    let index = field.integer(0, last, out)?;
    Some(Spanned::new(index.value as usize, index.span))
}
