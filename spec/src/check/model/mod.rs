//! Proves a model: its layers one by one, then where they stand and what they share.

mod build;
mod keys;
mod layers;
mod pattern;
mod sharing;
mod stages;

use super::foreign::Place;
use super::name;
use super::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{Body, Document, ModelSpec};
use crate::layer::{Checked, Layer};
use crate::model::{CheckedLayer, CheckedModel, LayerAt, Prefix};
use crate::node::Node;
use crate::read::OTHER_BODY;
use crate::span::{Span, Spanned};
use keys::Sources;
use layers::Named;
use stages::Stages;

/// Most attentions of a model.
const MOST_ATTENTIONS: usize = 4096;

/// Checks the document of a model and collects every diagnostic, from top to bottom. The model is there exactly when none is an
/// error.
pub fn check_model(document: &Document) -> (Option<CheckedModel>, Diagnostics) {
    let mut out = Diagnostics::new();
    let name = name::check(&document.name, &mut out);
    let spec = match &document.body {
        Body::Model(spec) => spec,
        Body::Layer(layer) => {
            let message = "this spec describes a layer, and a model is wanted";
            let label = "one attention layer";
            let other = Diagnostic::error(OTHER_BODY, message, layer.module.span, label);
            out.push(other.help("write `model:` with the layer among its `layers`"));
            return (None, out);
        }
    };
    let model = read(name, spec, document.build.as_ref(), &mut out);
    (
        model.filter(|_| !out.has_errors()),
        super::in_reading_order(once_each(out)),
    )
}

/// Refuses a model where a layer is wanted.
pub(super) fn refuse(name: Span, out: &mut Diagnostics) {
    let message = "this spec describes a model, and a layer is wanted";
    let other = Diagnostic::error(OTHER_BODY, message, name, "has several layers");
    out.push(other.help(
        "describe one of its layers in a spec of its own, with `module`, `params` and `submodules`",
    ));
}

/// What the keys of `model` say; a part is absent where it was refused.
struct Keys {
    num_hidden_layers: Option<Spanned<u32>>,
    attentions_per_layer: Option<u32>,
    prefix: Option<Prefix>,
    topk_sources: Sources,
    kv_sources: Sources,
}

/// One attention: which named layer it is, and where the pattern says so.
#[derive(Clone, Copy)]
struct Attention {
    layer: usize,
    span: Span,
}

fn read(
    name: Option<String>,
    spec: &ModelSpec,
    build: Option<&Node>,
    out: &mut Diagnostics,
) -> Option<CheckedModel> {
    let mut table = Table::map("model", None, &spec.node, spec.node.span, Place::Model, out)?;
    let num_hidden_layers = table
        .require("num_hidden_layers")
        .and_then(|field| field.integer(1, MOST_ATTENTIONS as u32, out));
    let attentions_per_layer = table
        .stated("attentions_per_layer", |field| field.integer(1, 16, out))
        .and_then(|count| Some(count.value))
        .or(1);
    let prefix = keys::prefix(&mut table, attentions_per_layer, out);
    let stages = Stages::read(&mut table, num_hidden_layers, out);
    let mut named = table
        .require("layers")
        .and_then(|field| layers::read(&field, out))
        .unwrap_or_default();
    let pattern = table.require("pattern");
    let attentions = pattern.and_then(|field| pattern::read(&field, &mut named, out));
    let keys = Keys {
        num_hidden_layers,
        attentions_per_layer,
        prefix,
        topk_sources: Sources::read(&mut table, "topk_source", attentions.as_deref(), out),
        kv_sources: Sources::read(&mut table, "kv_source", attentions.as_deref(), out),
    };
    table.finish(out);
    if let (Some(field), Some(attentions)) = (pattern, &attentions) {
        pattern::check_length(&field, attentions.len(), &keys, out);
    }
    layers::refuse_unused(&named, attentions.is_some(), out);
    let checked = build::layers(&named, build, out);
    let names = layers::type_names(name.as_deref(), &named, out);
    layers::check_hidden_sizes(&named, &checked, out);
    let model = Model {
        named: &named,
        checked: &checked,
        attentions: attentions.as_deref()?,
        stages: &stages,
        per_layer: keys.attentions_per_layer?,
    };
    let sources = sharing::check(&model, &keys, out);
    model.finish(name?, names, keys.prefix?, &sources, out)
}

/// A model as far as it is known.
struct Model<'a> {
    named: &'a [Named],
    /// The layer behind each name; absent where it was refused or stands nowhere.
    checked: &'a [Option<Checked>],
    attentions: &'a [Attention],
    stages: &'a Stages,
    per_layer: u32,
}

impl Model<'_> {
    /// The layer at an index, where it was proved.
    fn at(&self, index: usize) -> Option<&Checked> {
        self.checked[self.attentions[index].layer].as_ref()
    }

    /// What messages call an attention: `` layer 5, `shared` ``.
    fn shown(&self, index: usize) -> String {
        let name = &self.named[self.attentions[index].layer].name.value;
        let per_layer = self.per_layer as usize;
        match per_layer {
            1 => format!("layer {index} (`{name}`)"),
            _ => format!(
                "attention {index} of layer {} (`{name}`)",
                index / per_layer
            ),
        }
    }

    fn stage(&self, index: usize) -> u32 {
        let layer = index / self.per_layer as usize;
        self.stages.of(u32::try_from(layer).unwrap_or(u32::MAX))
    }

    /// The model with each distinct layer once.
    fn finish(
        &self,
        name: String,
        types: Option<Vec<String>>,
        prefix: Prefix,
        sources: &sharing::Sources,
        out: &mut Diagnostics,
    ) -> Option<CheckedModel> {
        let types = types?;
        let mut layers: Vec<CheckedLayer> = Vec::new();
        // Which distinct layer a named one became.
        let mut became: Vec<Option<usize>> = vec![None; self.named.len()];
        for attention in self.attentions {
            if became[attention.layer].is_some() {
                continue;
            }
            let checked = self.checked[attention.layer].as_ref()?;
            let equal = layers.iter().position(|known| known.checked == *checked);
            if let Some(equal) = equal {
                layers::warn_of_equals(&self.named[attention.layer], &layers[equal].name, out);
            } else {
                layers.push(CheckedLayer {
                    name: self.named[attention.layer].name.value.clone(),
                    checked: checked.clone(),
                });
            }
            became[attention.layer] = Some(equal.unwrap_or(layers.len() - 1));
        }
        for layer in &mut layers {
            let named = self
                .named
                .iter()
                .position(|named| named.name.value == layer.name)?;
            layer.checked.layer = Layer {
                name: types[named].clone(),
                ..layer.checked.layer.clone()
            };
        }
        let indices = self
            .attentions
            .iter()
            .enumerate()
            .map(|(index, attention)| {
                Some(LayerAt {
                    layer: became[attention.layer]?,
                    topk_source: sources.topk[index],
                    kv_source: sources.kv[index],
                    stage: self.stage(index),
                })
            });
        Some(CheckedModel {
            name,
            layers,
            indices: indices.collect::<Option<_>>()?,
            attentions_per_layer: self.per_layer,
            stages: self.stages.starts(),
            prefix,
        })
    }
}

/// Layers that are like one another share their mistakes, and repeated ones their places: each is said once.
fn once_each(found: Diagnostics) -> Diagnostics {
    let mut once = Diagnostics::new();
    for diagnostic in found {
        let said = once.iter().any(|earlier: &Diagnostic| {
            earlier.code == diagnostic.code && earlier.primary == diagnostic.primary
        });
        if !said {
            once.push(diagnostic);
        }
    }
    once
}
