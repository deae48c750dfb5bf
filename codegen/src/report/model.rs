//! A whole model's attentions, a row for each run of equal ones.

use mla_spec::CheckedModel;

use super::report;

/// Some attentions of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// Index of the attention, counted from 0.
    pub index: usize,
    /// Name of its layer in the spec.
    pub layer: String,
    /// The attention whose selection it attends to.
    pub topk_source: Option<usize>,
    /// The attention whose latents it attends to.
    pub kv_source: Option<usize>,
    /// Its pipeline stage.
    pub stage: u32,
    /// Its parameters.
    pub parameters: u128,
    /// Bytes that it caches per token.
    pub cache_bytes: u64,
}

/// A whole model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// Its attentions.
    pub rows: Vec<LayerRow>,
}

/// The table of a model's attentions.
pub fn model(model: &CheckedModel) -> ModelReport {
    let costs: Vec<(u128, u64)> = model
        .layers
        .iter()
        .map(|layer| {
            let report = report(&layer.checked);
            let parameters = report.parameters.iter().map(|module| module.count).sum();
            let cache = report.cache.map_or(0, |cache| cache.bytes_per_token());
            (parameters, cache)
        })
        .collect();
    let row = |(index, at): (usize, &mla_spec::LayerAt)| LayerRow {
        index,
        layer: model.layers[at.layer].name.clone(),
        topk_source: at.topk_source,
        kv_source: at.kv_source,
        stage: at.stage,
        parameters: costs[at.layer].0,
        cache_bytes: costs[at.layer].1,
    };
    ModelReport {
        name: model.name.clone(),
        rows: model.indices.iter().enumerate().map(row).collect(),
    }
}
