//! The proved model: which layer stands where, and which of them share what.
//!
//! Only [`check_model`](crate::check_model()) makes one. Attentions are numbered from 0 in the order in which they run, which is the
//! numbering of [`CheckedModel::indices`] and of every source. A decoder layer has one of them, or
//! [`CheckedModel::attentions_per_layer`] (LongCat: 28 layers, 56 attentions; attention 7 is the second of layer 3).

use crate::layer::Checked;

/// A model's attention layers.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedModel {
    /// Name of the model: an upper-camel-case Rust identifier, and the start of the layers' type names.
    pub name: String,
    /// The layers that differ from each other, in the order in which they first run. Each becomes one module.
    pub layers: Vec<CheckedLayer>,
    /// One entry per attention, in the order in which they run.
    pub indices: Vec<LayerAt>,
    /// Attentions in a decoder layer; at least 1, and a divisor of the number of [`indices`](Self::indices).
    pub attentions_per_layer: u32,
    /// The first decoder layer of each pipeline stage, ascending, starting with 0.
    pub stages: Vec<u32>,
    /// Where checkpoints hold an attention's tensors.
    pub prefix: Prefix,
}

/// A layer that stands in a model at least once.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedLayer {
    /// Its name in the spec: lower case words with underscores between.
    pub name: String,
    /// The layer, under the name of its type, and how it is built.
    pub checked: Checked,
}

/// One attention of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerAt {
    /// Which of [`CheckedModel::layers`].
    pub layer: usize,
    /// The earlier attention whose selection it attends to (L-14); `None` unless its indexer is shared.
    pub topk_source: Option<usize>,
    /// The earlier attention whose latents it attends to (S-16); `None` unless they are another's.
    pub kv_source: Option<usize>,
    /// Its pipeline stage, from 0. Sources stand in the same one.
    pub stage: u32,
}

/// Where checkpoints hold an attention's tensors: `model.layers.{layer}.self_attn`, or with several attentions per layer
/// `model.layers.{layer}.self_attn.{attention}`. Made of letters, digits, `_`, `-` and `.` besides the two holes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(pub(crate) String);

impl CheckedModel {
    /// The layer at an index; `None` behind the last.
    pub fn layer(&self, index: usize) -> Option<&CheckedLayer> {
        self.layers.get(self.indices.get(index)?.layer)
    }

    /// Number of decoder layers.
    pub fn num_hidden_layers(&self) -> usize {
        self.indices.len() / self.attentions_per_layer.max(1) as usize
    }

    /// The decoder layer of an attention, and its number inside that layer.
    pub fn position(&self, index: usize) -> (usize, usize) {
        let per_layer = self.attentions_per_layer.max(1) as usize;
        (index / per_layer, index % per_layer)
    }

    /// Where checkpoints hold an attention's tensors, such as `model.layers.3.self_attn`.
    pub fn prefix_of(&self, index: usize) -> String {
        let (layer, attention) = self.position(index);
        self.prefix.of(layer, attention)
    }

    /// The attentions that attend to what this one picks.
    pub fn topk_consumers(&self, index: usize) -> impl Iterator<Item = usize> {
        self.consumers(move |at| at.topk_source == Some(index))
    }

    /// The attentions that attend to this one's latents.
    pub fn kv_consumers(&self, index: usize) -> impl Iterator<Item = usize> {
        self.consumers(move |at| at.kv_source == Some(index))
    }

    fn consumers(&self, of: impl Fn(&LayerAt) -> bool) -> impl Iterator<Item = usize> {
        self.indices
            .iter()
            .enumerate()
            .filter(move |(_, at)| of(at))
            .map(|(index, _)| index)
    }
}

impl Prefix {
    /// What it is where the spec doesn't say.
    pub(crate) fn usual(attentions_per_layer: u32) -> Self {
        Self(match attentions_per_layer {
            1 => "model.layers.{layer}.self_attn".to_owned(),
            _ => "model.layers.{layer}.self_attn.{attention}".to_owned(),
        })
    }

    /// The pattern, with its holes `{layer}` and `{attention}`.
    pub fn pattern(&self) -> &str {
        &self.0
    }

    /// The prefix of an attention.
    pub fn of(&self, layer: usize, attention: usize) -> String {
        self.0
            .replace("{layer}", &layer.to_string())
            .replace("{attention}", &attention.to_string())
    }
}
