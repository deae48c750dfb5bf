//! Keys that people will try beside the layers of a model.

use super::{Foreign, idle, moved, renamed};

#[rustfmt::skip] // a table: one option a line
pub(super) const MODEL: &[Foreign] = &[
    renamed("num_layers", "num_hidden_layers", "write `num_hidden_layers`"),
    renamed("n_layers", "num_hidden_layers", "write `num_hidden_layers`"),
    renamed("base_num_decoder_layers", "num_hidden_layers", "write `num_hidden_layers`"),
    renamed("layer_types", "pattern", "write `pattern`"),
    renamed("indexer_types", "pattern", "write `pattern`: a layer whose indexer is shared is a layer of another name"),
    renamed("index_topk_pattern", "pattern", "write `pattern`: a layer whose indexer is shared is a layer of another name"),
    renamed("block_configs", "layers", "name each block below `layers`, and list them in `pattern`"),
    renamed("kv_source_layers", "kv_source", "write `kv_source`"),
    idle("index_topk_freq", "write the layers out in `pattern`: systems count from different offsets"),
    idle("index_skip_topk_offset", "write the layers out in `pattern`: systems count from different offsets"),
    idle("no_rope_layers", "name a layer with `rope: { type: none }`, and list it in `pattern`: systems disagree on what 1 means"),
    idle("no_rope_freq", "name a layer with `rope: { type: none }`, and list it in `pattern`"),
    renamed("pipeline_model_parallel_size", "pipeline_stages", "write `pipeline_stages`: the first layer of every stage but the first"),
    renamed("pp", "pipeline_stages", "write `pipeline_stages`: the first layer of every stage but the first"),
    moved("params", "write it below one of the `layers`"),
    moved("submodules", "write it below one of the `layers`"),
    moved("module", "write it below one of the `layers`"),
    moved("build", "write it beside `model`"),
    moved("name", "write it beside `model`"),
];

#[rustfmt::skip] // a table: one option a line
pub(super) const NAMED_LAYER: &[Foreign] = &[
    renamed("base", "like", "write `like`"),
    renamed("extends", "like", "write `like`"),
    renamed("inherits", "like", "write `like`"),
    moved("hidden_size", "write it below `params`"),
    moved("rope", "write it below `params`"),
    moved("attn_mask_type", "write it below `params`"),
    moved("window_size", "write it below `params`"),
    moved("core_attention", "write it below `submodules`"),
    moved("indexer", "write it below `submodules`, inside `core_attention`"),
    moved("cache", "write it below `build`"),
    moved("name", "remove it: the key above is the layer's name"),
];
