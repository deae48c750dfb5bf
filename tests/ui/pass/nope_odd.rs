//! A layer without rope in Rust: the derive, whose struct stays as the description.

use mla_runtime::slots::{
    ColumnParallelLinear, DotProductAttention, LayerNorm, Linear, RowParallelLinear,
};
use mla_runtime::{Cpu, Describes, MlaLayer};

/// No rope part at all, and a naive cache on odd pages.
#[derive(MlaLayer)]
#[mla(
    hidden_size = 45, num_attention_heads = 3, kv_lora_rank = 17,
    qk_nope_head_dim = 9, qk_rope_head_dim = 0, v_head_dim = 15, // so there is no `rope`
    attn_mask_type = causal,
)]
#[mla(build(phases = [forward, prefill, decode], dtype = f32, cache(format = naive_f32, page_size = 5), targets = [cpu]))]
pub(crate) struct NopeOddAttention {
    linear_q_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    #[mla(eps = 1e-5)]
    kv_layernorm: LayerNorm,
    linear_kv_up_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

/// The generated layer, reached through its description.
pub(crate) type Layer = <NopeOddAttention as Describes>::Layer<Cpu<f64>>;
