//! Keys that people will try: other systems' options, and ours in the wrong place. Each is refused by name, with what
//! to write instead.
//!
//! Other systems accept many of these beside latent attention and then ignore them; here nothing is ignored.

mod grouped;

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
    /// The `rope` mapping.
    Rope,
    /// `query_scaling` and the scales of latents.
    Scaling,
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
        Place::Attention => ATTENTION,
        Place::Grouped => return beside_grouped(key),
        Place::Leaf => LEAF,
        Place::Indexer => INDEXER,
        Place::Rope => ROPE,
        Place::Scaling => SCALING,
        Place::Build => BUILD,
    };
    list.iter().find(|option| option.key == key)
}

/// What is known about a key beside attention without latents.
fn beside_grouped(key: &str) -> Option<&'static Foreign> {
    let tables = grouped::GROUPED.iter().chain(ATTENTION);
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
                (foreign(), format!("here this is said by `{ours}`"))
            }
        };
        Diagnostic::error(codes::FOREIGN_OPTION, message, span, label).help(self.remedy)
    }
}

#[rustfmt::skip] // a table: one option a line
const ATTENTION: &[Foreign] = &[
    // other names of what the language has
    renamed("num_heads", "num_attention_heads", "write `num_attention_heads`"),
    renamed("num_query_heads", "num_attention_heads", "write `num_attention_heads`"),
    renamed("base_num_query_heads", "num_attention_heads", "write `num_attention_heads`"),
    renamed("emb_dim", "hidden_size", "write `hidden_size`"),
    renamed("base_emb_dim", "hidden_size", "write `hidden_size`"),
    renamed("qk_pos_emb_head_dim", "qk_rope_head_dim", "write `qk_rope_head_dim`: the rotated part of a head alone"),
    renamed("rope_theta", "rope", "write `theta` inside `rope`"),
    renamed("rotary_base", "rope", "write `theta` inside `rope`"),
    renamed("rope_max_timescale", "rope", "write `theta` inside `rope`"),
    renamed("rope_type", "rope", "write `type` inside `rope`"),
    renamed("rope_scaling", "rope", "write the scaling's keys inside `rope`"),
    renamed("rope_parameters", "rope", "write them inside `rope`"),
    renamed("rope_interleave", "rope", "write `layout: interleaved` or `layout: half` inside `rope`"),
    renamed("rotary_interleaved", "rope", "write `layout: interleaved` or `layout: half` inside `rope`"),
    renamed("rotary_scaling_factor", "rope", "write `factor` inside `rope`"),
    moved("mscale", "write it inside `rope`, next to `type: yarn`"),
    moved("mscale_all_dim", "write it inside `rope`, next to `type: yarn`"),
    moved("beta_fast", "write it inside `rope`, next to `type: yarn`"),
    moved("beta_slow", "write it inside `rope`, next to `type: yarn`"),
    moved("original_max_position_embeddings", "write it inside `rope`, next to `type: yarn`"),
    renamed("attention_type", "attn_mask_type", "write `attn_mask_type`"),
    renamed("n_heads", "num_attention_heads", "write `num_attention_heads`"),
    renamed("n_embd", "hidden_size", "write `hidden_size`"),
    renamed("dim", "hidden_size", "write `hidden_size`"),
    renamed("causal", "attn_mask_type", "write `attn_mask_type: causal` or `attn_mask_type: no_mask`"),
    renamed("is_causal", "attn_mask_type", "write `attn_mask_type: causal` or `attn_mask_type: no_mask`"),
    renamed("rope_pairwise", "rope", "write `layout` inside `rope`, and `rope_layout` in `build.cache` for cached keys"),
    renamed("rope_factor", "rope", "write `factor` inside `rope`"),
    idle("rotary_pos_emb", "remove it: frequencies follow from `rope`"),
    idle("flash_attention_version", "remove it: the form of attention is planned; `form` in `build` forces it"),
    idle("batch_invariant_mode", "remove it: generated code is deterministic"),
    idle("hidden_dropout", "remove it: what follows `linear_proj` stands behind the layer"),
    later("delay_wgrad_compute", "remove it, or wait: training is not in this release"),
    later("o_lora_rank", "remove it, or wait: a low-rank output projection is not in this release"),
    later("experimental_attention_variant", "remove it, or wait: sparse attention is not in this release"),
    idle("rms_norm_eps", "write `eps` at each norm: checkpoints differ from their config here"),
    idle("layernorm_epsilon", "write `eps` at each norm: checkpoints differ from their config here"),
    idle("normalization_layer_epsilon", "write `eps` at each norm: checkpoints differ from their config here"),
    idle("normalization", "choose the norm in `q_layernorm` and `kv_layernorm`, or in a `LayerNormColumnParallelLinear`"),
    idle("attention_bias", "write `bias: true` at the down projections and at `linear_proj`, where checkpoints have one"),
    idle("add_bias_linear", "write `bias: true` at `linear_proj`, the only projection it reaches beside latent attention"),
    idle("use_bias_in_projections", "write `bias: true` at `linear_proj`, the only projection it reaches"),
    idle("add_qkv_bias", "write `bias: true` at the down projections; q, k and v themselves have none in latent attention"),
    idle("mla_down_proj_fusion", "fill the slot `linear_qkv_down_proj` instead of the two down projections"),
    idle("cache_mla_latents", "write `cache: { format: latent_bf16 }` in `build`"),
    idle("mla_naive_kvcache", "write `cache: { format: naive_bf16 }` in `build` for expanded keys and values"),
    // what follows from other keys and would contradict them
    idle("num_query_groups", "remove it: latent attention has no query groups, every head expands its own key"),
    idle("num_key_value_heads", "remove it: latent attention has no key-value heads of its own, the latent serves all heads"),
    idle("num_kv_heads", "remove it: latent attention has no key-value heads of its own, the latent serves all heads"),
    idle("group_query_attention", "remove it: latent attention can't be combined with grouped queries"),
    idle("kv_channels", "remove it: head dims are `qk_nope_head_dim`, `qk_rope_head_dim` and `v_head_dim`"),
    idle("head_dim", "remove it: head dims are `qk_nope_head_dim`, `qk_rope_head_dim` and `v_head_dim`"),
    idle("qk_head_dim", "write `qk_nope_head_dim`: other systems mean either that or the sum with `qk_rope_head_dim`"),
    idle("query_pre_attn_scalar", "remove it: the scale follows from the head dims and from yarn's `mscale_all_dim`"),
    idle("apply_query_key_layer_scaling", "remove it: dividing logits by the layer's number never reaches latent attention"),
    idle("use_mup", "remove it: its softmax scale never reaches latent attention"),
    idle("rotary_percent", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("partial_rotary_factor", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("qk_layernorm", "fill the slots `q_layernorm` and `kv_layernorm`; a norm is there exactly if its slot says so"),
    idle("use_qk_norm", "fill the slots `q_layernorm` and `kv_layernorm`; a norm is there exactly if its slot says so"),
    idle("qk_l2_norm", "remove it: latent attention has no per-head norm of query and key"),
    idle("fuse_qkv_rmsnorm", "remove it: the two latent norms may differ in `eps`, so they are never merged"),
    idle("fused_qkv", "remove it: latent attention has no joint q, k and v projection; see `linear_qkv_down_proj`"),
    idle("fused_single_qkv_rope", "remove it: latent attention has no joint q, k and v projection"),
    idle("share_kv_projections", "remove it: keys and values already share `linear_kv_up_proj`"),
    idle("use_sliced_mla_proj", "remove it: slicing `linear_kv_up_proj` is the compiler's choice"),
    idle("mla_qk_head_chunk_size", "remove it: chunking over heads is the compiler's choice"),
    idle("apply_rope_fusion", "remove it: fusing rope is the compiler's choice"),
    idle("rotary_emb", "remove it: frequencies follow from `rope`"),
    idle("max_position_embeddings", "remove it: positions are an input of the layer, and yarn has its own original length"),
    idle("attention_softmax_in_fp32", "remove it: softmax is always accumulated in f32 or wider"),
    idle("float32_logits", "remove it: softmax is always accumulated in f32 or wider"),
    idle("float32_qk_product", "remove it: logits are always accumulated in f32 or wider"),
    idle("initializer_range", "remove it: weights are loaded, not initialised"),
    // what changes the computation and is not in this release
    idle("no_rope_freq", "describe one layer per spec: a layer without rope has `rope: { type: none }`"),
    idle("no_rope_layers", "describe one layer per spec: a layer without rope has `rope: { type: none }`"),
    idle("is_nope_layer", "write `rope: { type: none }`"),
    later("sliding_window", "remove it, or wait: sliding windows are not in this release"),
    later("sliding_window_size", "remove it, or wait: sliding windows are not in this release"),
    later("window_attn_skip_freq", "remove it, or wait: sliding windows are not in this release"),
    later("attention_sink", "remove it, or wait: attention sinks are not in this release"),
    later("attn_sink", "remove it, or wait: attention sinks are not in this release"),
    later("dropout_rate", "remove it if it is 0: there is no training phase in this release"),
    later("attn_logit_softcapping", "remove it, or wait: soft caps are not in this release"),
    idle("attention_bias_tensor", "remove it: latent attention takes no additive bias on its logits"),
    idle("alibi_slopes", "remove it: latent attention takes no additive bias on its logits"),
    later("qk_clip", "remove it, or wait: QK-clip belongs to training, which is not in this release"),
    later("qk_clip_threshold", "remove it, or wait: QK-clip belongs to training, which is not in this release"),
    later("qk_clip_alpha", "remove it, or wait: QK-clip belongs to training, which is not in this release"),
    later("use_qk_clip", "remove it, or wait: QK-clip belongs to training, which is not in this release"),
    later("llama_4_scaling", "remove it, or wait: scaling queries by position is not in this release"),
    later("llama_4_scaling_beta", "remove it, or wait: scaling queries by position is not in this release"),
    later("temperature_tuning", "remove it, or wait: scaling queries by position is not in this release"),
    later("mla_scale_q_lora", "remove it, or wait: constant scales on the latents are not in this release"),
    later("mla_scale_kv_lora", "remove it, or wait: constant scales on the latents are not in this release"),
    later("mrope_section", "remove it, or wait: rope over several axes is not in this release"),
    later("layernorm_zero_centered_gamma", "remove it, or wait: norm weights are taken as they are in this release"),
    later("gated_norm_rank", "remove it, or wait: gated norms are not in this release"),
    later("index_topk", "remove it, or wait: sparse attention is not in this release"),
    later("index_n_heads", "remove it, or wait: sparse attention is not in this release"),
    later("index_head_dim", "remove it, or wait: sparse attention is not in this release"),
    later("use_indexer", "remove it, or wait: sparse attention is not in this release"),
    later("quantization_config", "remove it, or wait: quantised weights are not in this release"),
    // what belongs elsewhere in a spec
    moved("eps", "write it at each norm: `{ module: RMSNorm, params: { eps: .. } }`"),
    moved("bias", "write it at the projection that has one: `{ module: Linear, params: { bias: true } }`"),
    moved("theta", "write it inside `rope`"),
    moved("layout", "write it inside `rope`"),
    moved("rope_layout", "write `layout` inside `rope`"),
    moved("factor", "write it inside `rope`"),
    moved("phases", "write it in `build`: it says how, not what"),
    moved("cache", "write it in `build`: it says how, not what"),
    moved("form", "write it in `build`: it says how, not what"),
    moved("targets", "write it in `build`: it says how, not what"),
    moved("page_size", "write it in `cache`, in `build`"),
    moved("dtype", "write it in `build`: it says how, not what"),
    idle("torch_dtype", "write `dtype` in `build`: it says how, not what"),
    idle("params_dtype", "write `dtype` in `build`: it says how, not what"),
    moved("block_size_tokens", "write `page_size` in `build.cache`"),
    idle("attention_backend", "remove it: the form of attention is planned; `form` in `build` forces it"),
    // what belongs to a whole model
    idle("num_layers", "remove it: a spec describes one layer"),
    idle("num_hidden_layers", "remove it: a spec describes one layer"),
    idle("layer_number", "remove it: a spec describes one layer, wherever it stands"),
    idle("layer_idx", "remove it: a spec describes one layer, wherever it stands"),
    later("kv_source_layers", "remove it, or wait: sharing latents between layers is not in this release"),
];

#[rustfmt::skip] // a table: one option a line
const LEAF: &[Foreign] = &[
    renamed("epsilon", "eps", "write `eps`"),
    renamed("variance_epsilon", "eps", "write `eps`"),
    renamed("rms_norm_eps", "eps", "write `eps`"),
    renamed("layernorm_epsilon", "eps", "write `eps`"),
    renamed("add_bias_linear", "bias", "write `bias`"),
    renamed("use_bias", "bias", "write `bias`"),
    idle("softmax_scale", "remove it: the scale follows from the head dims and from yarn's `mscale_all_dim`"),
    later("attention_dropout", "remove it if it is 0: there is no training phase in this release"),
    later("softmax_type", "remove it if it is `vanilla`; attention sinks are not in this release"),
    later("window_size", "remove it, or wait: sliding windows are not in this release"),
    moved("attn_mask_type", "write it among the parameters of `MLASelfAttention`"),
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
];

const INDEXER: &[Foreign] = &[];
const SCALING: &[Foreign] = &[];

#[rustfmt::skip] // a table: one option a line
const ROPE: &[Foreign] = &[
    renamed("rope_type", "type", "write `type`"),
    renamed("rope_theta", "theta", "write `theta`"),
    renamed("base", "theta", "write `theta`"),
    renamed("rotary_base", "theta", "write `theta`"),
    renamed("rope_max_timescale", "theta", "write `theta`"),
    renamed("rope_interleave", "layout", "write `layout: interleaved` or `layout: half`"),
    renamed("rotary_interleaved", "layout", "write `layout: interleaved` or `layout: half`"),
    renamed("interleaved", "layout", "write `layout: interleaved` or `layout: half`"),
    renamed("is_neox_style", "layout", "write `layout: half` for true, `layout: interleaved` for false"),
    renamed("rope_factor", "factor", "write `factor`"),
    renamed("scaling_factor", "factor", "write `factor`"),
    renamed("rotary_scaling_factor", "factor", "write `factor`"),
    renamed("original_seq_len", "original_max_position_embeddings", "write `original_max_position_embeddings`"),
    renamed("attn_factor", "attention_factor", "write `attention_factor`"),
    renamed("rope_truncate", "truncate", "write `truncate`"),
    renamed("original_max_position", "original_max_position_embeddings", "write `original_max_position_embeddings`"),
    idle("partial_rotary_factor", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("rotary_percent", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("rotary_dim", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("dim", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("rope_attention_scaling", "write `mscale` and `mscale_all_dim`, which say what cos and sin are multiplied by"),
    idle("apply_scale", "write `attention_factor: 1.0` for false"),
    idle("rope_pairwise", "write `rope_layout` in `build.cache` for the order of cached keys"),
    later("llama_4_scaling_beta", "remove it, or wait: scaling queries by position is not in this release"),
    later("mrope_section", "remove it, or wait: rope over several axes is not in this release"),
];

#[rustfmt::skip] // a table: one option a line
const BUILD: &[Foreign] = &[
    moved("rope", "write it among the parameters of `MLASelfAttention`: it says what, not how"),
    moved("attn_mask_type", "write it among the parameters of `MLASelfAttention`: it says what, not how"),
    renamed("torch_dtype", "dtype", "write `dtype`"),
    renamed("params_dtype", "dtype", "write `dtype`"),
    renamed("kv_cache_dtype", "cache", "write `cache: { format: .. }`"),
    renamed("block_size", "page_size", "write `page_size`"),
    renamed("block_size_tokens", "page_size", "write `page_size`"),
    renamed("chunked_prefill", "context_chunk", "write `context_chunk`, in tokens"),
    idle("absorb", "write `form: mqa` for the absorbed form, `form: mha` for the expanded one"),
    idle("cache_mla_latents", "write `format: latent_bf16` in `cache`"),
    idle("mla_naive_kvcache", "write `format: naive_bf16` in `cache`"),
    later("tensor_parallel", "remove it, or wait: parallel layers are not in this release"),
    later("tensor_parallel_size", "remove it, or wait: parallel layers are not in this release"),
    later("tensor_model_parallel_size", "remove it, or wait: parallel layers are not in this release"),
    later("parallel", "remove it, or wait: parallel layers are not in this release"),
    later("tp", "remove it, or wait: parallel layers are not in this release"),
    later("cp", "remove it, or wait: parallel layers are not in this release"),
    later("pp", "remove it, or wait: parallel layers are not in this release"),
    later("context_parallel_size", "remove it, or wait: parallel layers are not in this release"),
    later("recompute", "remove it, or wait: recomputation belongs to training, which is not in this release"),
    later("recompute_granularity", "remove it, or wait: recomputation belongs to training, which is not in this release"),
    later("recompute_modules", "remove it, or wait: recomputation belongs to training, which is not in this release"),
    later("quantization", "remove it, or wait: quantised weights are not in this release"),
    later("quant", "remove it, or wait: quantised weights are not in this release"),
    later("kv_quant_axis", "remove it, or wait: quantised caches are not in this release"),
    later("quantize_kvcache", "remove it, or wait: quantised caches are not in this release"),
    later("kv_quant_dtype", "remove it, or wait: quantised caches are not in this release"),
    idle("attention_backend", "remove it: the form of attention is planned; `form` forces it"),
    later("cuda_graph", "remove it: there is no CUDA in this release"),
    idle("deterministic_mode", "remove it: generated code is deterministic"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_key_stands_once_in_its_table() {
        for table in [ATTENTION, LEAF, ROPE, BUILD] {
            let keys: BTreeSet<&str> = table.iter().map(|option| option.key).collect();
            assert_eq!(keys.len(), table.len());
        }
    }

    #[test]
    fn remedies_are_written_like_messages() {
        for option in [ATTENTION, LEAF, ROPE, BUILD].into_iter().flatten() {
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
