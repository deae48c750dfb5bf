//! Keys that people write at linear, norm and core modules.

use super::{Foreign, idle, later, moved, renamed};

#[rustfmt::skip] // a table: one option a line
pub(super) const LEAF: &[Foreign] = &[
    renamed("epsilon", "eps", "write `eps`"),
    renamed("variance_epsilon", "eps", "write `eps`"),
    renamed("rms_norm_eps", "eps", "write `eps`"),
    renamed("layernorm_epsilon", "eps", "write `eps`"),
    renamed("add_bias_linear", "bias", "write `bias`"),
    renamed("use_bias", "bias", "write `bias`"),
    idle("k_channels", "remove it: head dims are `qk_nope_head_dim`, `qk_rope_head_dim` and `v_head_dim`"),
    idle("v_channels", "remove it: head dims are `qk_nope_head_dim`, `qk_rope_head_dim` and `v_head_dim`"),
    later("cp_comm_type", "remove it, or wait: context parallelism is not in this release"),
    later("zero_centered_gamma", "remove it, or wait: norm weights are taken as they are in this release"),
    idle("hidden_size", "remove it: sizes follow from the parameters of `MLASelfAttention`"),
    idle("input_size", "remove it: sizes follow from the parameters of `MLASelfAttention`"),
    idle("output_size", "remove it: sizes follow from the parameters of `MLASelfAttention`"),
    idle("in_features", "remove it: sizes follow from the parameters of `MLASelfAttention`"),
    idle("out_features", "remove it: sizes follow from the parameters of `MLASelfAttention`"),
    idle("skip_bias_add", "remove it: a bias is always added where it is"),
    idle("parallel_mode", "remove it: the slot says how a projection may be split"),
    idle("gather_output", "remove it: the slot says how a projection may be split"),
    idle("init_method", "remove it: weights are loaded, not initialised"),
    moved("attn_mask_type", "write it among the parameters of the attention module"),
    moved("softmax_scale", "write it among the parameters of the attention module"),
    moved("attention_dropout", "write it among the parameters of the attention module"),
    moved("softmax_type", "write it among the parameters of the attention module"),
    moved("window_size", "write it among the parameters of the attention module"),
    moved("attn_logits_soft_cap", "write it among the parameters of the attention module"),
    moved("query_scaling", "write it among the parameters of the attention module"),
    moved("topk", "write it among the parameters of the indexer, in the slot `indexer`"),
    moved("index_topk", "write `topk` among the parameters of the indexer, in the slot `indexer`"),
    renamed("gated_norm_rank", "rank", "write `rank`"),
    renamed("params_dtype", "dtype", "write `dtype: f32`, where a gate or an indexer's weights are computed so"),
];
