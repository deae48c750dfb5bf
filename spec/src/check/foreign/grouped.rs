//! Keys that people will try beside attention without latents. What isn't here is as beside latent attention.

use super::{Foreign, idle, moved, renamed};

#[rustfmt::skip] // a table: one option a line
pub(super) const GROUPED: &[Foreign] = &[
    // other names of what the language has
    renamed("num_key_value_heads", "num_query_groups", "write `num_query_groups`"),
    renamed("num_kv_heads", "num_query_groups", "write `num_query_groups`"),
    renamed("base_num_kv_heads", "num_query_groups", "write `num_query_groups`"),
    renamed("n_kv_heads", "num_query_groups", "write `num_query_groups`"),
    idle("group_query_attention", "remove it: `num_query_groups` says how many heads share a key"),
    renamed("head_dim", "kv_channels", "write `kv_channels`"),
    renamed("qk_head_dim", "kv_channels", "write `kv_channels`"),
    renamed("k_channels", "kv_channels", "write `kv_channels`: keys and values are of one length"),
    renamed("v_channels", "kv_channels", "write `kv_channels`: keys and values are of one length"),
    renamed("rotary_percent", "rotary_dim", "write `rotary_dim`, in elements of a head"),
    renamed("partial_rotary_factor", "rotary_dim", "write `rotary_dim`, in elements of a head"),
    renamed("qk_pos_emb_head_dim", "rotary_dim", "write `rotary_dim`, in elements of a head"),
    renamed("encoder_hidden_size", "context_hidden_size", "write `context_hidden_size`"),
    renamed("cross_attention_dim", "context_hidden_size", "write `context_hidden_size`"),
    renamed("kv_hidden_size", "context_hidden_size", "write `context_hidden_size`"),
    // what slots say
    idle("qk_layernorm", "fill the slots `q_layernorm` and `k_layernorm`; a norm is there exactly if its slot says so"),
    idle("use_qk_norm", "fill the slots `q_layernorm` and `k_layernorm`; a norm is there exactly if its slot says so"),
    idle("normalization", "choose the norm in `q_layernorm` and `k_layernorm`"),
    idle("attention_bias", "write `bias: true` at the projections that have one"),
    idle("qkv_bias", "write `bias: true` at the projections that have one"),
    idle("add_qkv_bias", "write `bias: true` at `linear_qkv`, or at `linear_q` and `linear_kv`"),
    idle("add_bias_linear", "write `bias: true` at `linear_proj`, and at the other projections that have one"),
    idle("use_bias_in_projections", "write `bias: true` at the projections that have one"),
    idle("fused_qkv", "fill the slot `linear_qkv`"),
    idle("fused_single_qkv_rope", "remove it: fusing rope is the compiler's choice"),
    // what only latent attention has
    idle("mla_down_proj_fusion", "remove it: there are no down projections without latents"),
    idle("cache_mla_latents", "remove it: there are no latents; `cache: { format: naive_bf16 }` in `build` says how keys are kept"),
    idle("mla_naive_kvcache", "remove it: keys and values are always cached as they are"),
    idle("fuse_qkv_rmsnorm", "remove it: `q_layernorm` and `k_layernorm` may differ in `eps`, so they are never merged"),
    idle("share_kv_projections", "remove it: `linear_kv` makes keys and values, each from rows of its own"),
    idle("use_sliced_mla_proj", "remove it: there are no latents"),
    idle("mla_qk_head_chunk_size", "remove it: there are no latents"),
    idle("apply_query_key_layer_scaling", "remove it: dividing logits by the layer's number and multiplying back changes nothing in exact arithmetic"),
    idle("use_mup", "remove it, and state the softmax scale that it makes"),
    moved("flash_decode", "write it in `build`: it says how, not what"),
];
