//! How each layer of a model is built: the model's `build`, and under it the layer's own.

use std::collections::BTreeMap;

use super::layers::Named;
use crate::check::codes;
use crate::check::text::listed;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Severity};
use crate::document::ModuleSpec;
use crate::layer::Checked;
use crate::merge::merged;
use crate::node::{Node, NodeKind};
use crate::span::Span;

/// What a layer may say for itself; the rest holds for the whole model.
#[rustfmt::skip] // a list of words
const OWN_KEYS: [&str; 9] = ["cache", "form", "expect", "context_chunk", "flash_decode", "recompute", "offload", "fold", "weights"];

/// Codes that say that a layer has no use for a key of `build`. In the model's own section that is a mistake only where no layer
/// has one.
const UNREAD: [Code; 8] = [
    codes::UNUSED_BUILD_KEY,
    codes::CACHE_LAYOUT_WITHOUT_ROPE,
    codes::INDEX_FORMAT_UNREAD,
    codes::FLASH_DECODE_OF_LATENTS,
    codes::FLASH_DECODE,
    codes::BUILD_KEY_OF_LATENTS,
    codes::ACTIVATION_OF_ANOTHER_LAYER,
    codes::NOTHING_TO_FOLD,
];

/// Checks every layer that the pattern has. The others, and refused ones, are `None`.
pub(super) fn layers(
    named: &[Named],
    model: Option<&Node>,
    out: &mut Diagnostics,
) -> Vec<Option<Checked>> {
    let mut unread = Unread::default();
    let checked = named
        .iter()
        .map(|layer| {
            let spec = layer.spec.as_ref().filter(|_| layer.used)?;
            refuse_keys_of_the_model(layer, out);
            unread.layers += 1;
            unread.layer(layer, spec, model, out)
        })
        .collect();
    unread.report(out);
    checked
}

/// Keys of the model's section, by place, that some layers have no use for.
#[derive(Default)]
struct Unread {
    layers: usize,
    keys: BTreeMap<Span, (usize, Diagnostic)>,
}

impl Unread {
    /// Checks a layer, without the keys of the model's section that it has no use for.
    fn layer(
        &mut self,
        layer: &Named,
        spec: &ModuleSpec,
        model: Option<&Node>,
        out: &mut Diagnostics,
    ) -> Option<Checked> {
        let mut inherited = model.cloned();
        loop {
            let build = joined(inherited.as_ref(), layer.build.as_ref());
            let mut found = Diagnostics::new();
            let checked =
                crate::check::layer(Some(String::new()), spec, build.as_ref(), &mut found);
            let pruned = inherited
                .as_mut()
                .is_some_and(|inherited| self.prune(inherited, &found));
            if !pruned {
                let refused = found.has_errors();
                for diagnostic in found {
                    out.push(layer.noted(diagnostic));
                }
                return checked.filter(|_| !refused);
            }
        }
    }

    /// Takes keys out that were not read, and answers whether there were any.
    fn prune(&mut self, build: &mut Node, found: &Diagnostics) -> bool {
        let mut pruned = false;
        for diagnostic in found {
            let error = diagnostic.severity == Severity::Error;
            if error
                && UNREAD.contains(&diagnostic.code)
                && let Some(key) = take(build, diagnostic.primary.span)
            {
                let seen = self.keys.entry(key).or_insert((0, diagnostic.clone()));
                seen.0 += 1;
                pruned = true;
            }
        }
        pruned
    }

    /// Reports what no layer at all has a use for.
    fn report(self, out: &mut Diagnostics) {
        for (_, (times, diagnostic)) in self.keys {
            if times == self.layers {
                out.push(diagnostic);
            }
        }
    }
}

/// The layer's own section over the model's.
fn joined(model: Option<&Node>, own: Option<&Node>) -> Option<Node> {
    match (model, own) {
        (Some(model), Some(own)) => Some(merged(model, own)),
        (model, own) => model.or(own).cloned(),
    }
}

/// Removes the entry whose key or value stands at `span`, or the item of a list, at any depth; answers where the key or the item
/// stands. A list that is left without items goes too.
fn take(node: &mut Node, span: Span) -> Option<Span> {
    if span.is_none() {
        return None;
    }
    let entries = match &mut node.kind {
        NodeKind::Map(entries) => entries,
        NodeKind::Seq(items) => {
            let at = items.iter().position(|item| item.span == span)?;
            return Some(items.remove(at).span);
        }
        NodeKind::Scalar(_) => return None,
    };
    let at = entries
        .iter()
        .position(|entry| entry.key.span == span || is_scalar_at(&entry.value, span));
    match at {
        Some(at) => Some(entries.remove(at).key.span),
        None => {
            let taken = entries
                .iter_mut()
                .find_map(|entry| take(&mut entry.value, span));
            entries.retain(|entry| entry.value.kind != NodeKind::Seq(Vec::new()));
            taken
        }
    }
}

/// A mapping's span is its first key's, so only other values are recognised by theirs.
fn is_scalar_at(node: &Node, span: Span) -> bool {
    node.span == span && !matches!(node.kind, NodeKind::Map(_))
}

/// What holds for all layers can't be said by one.
fn refuse_keys_of_the_model(layer: &Named, out: &mut Diagnostics) {
    let Some(NodeKind::Map(entries)) = layer.build.as_ref().map(|build| &build.kind) else {
        return;
    };
    for entry in entries {
        let key = entry.key.value.as_str();
        if ["phases", "dtype", "targets"].contains(&key) {
            let message = format!("`{key}` holds for all layers of a model");
            let label = "said by one layer";
            let own = Diagnostic::error(codes::LAYER_BUILD_KEY, message, entry.key.span, label);
            out.push(own.help(format!(
                "write it in the model's `build`; a layer may have {} of its own",
                listed(&OWN_KEYS)
            )));
        }
    }
}
