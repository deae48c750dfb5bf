//! Moonlight in Rust: the attribute, plain queries, and everything a user does with a layer.

use mla_runtime::{Batch, Cpu, CpuDevice, Mask, Result, Rows, Tensor, Weights, mla_layer};

/// Moonlight-16B-A3B's attention.
#[mla_layer(
    hidden_size = 2048, num_attention_heads = 16, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
    attn_mask_type = causal, rope(type = plain, theta = 50000.0, layout = interleaved),
    build(phases = [forward, prefill, decode], dtype = f32, cache(format = latent_f32, page_size = 64), targets = [cpu]),
)]
pub struct MoonlightAttention {
    linear_q_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    #[mla(eps = 1e-6)] // the code's default, not the config's rms_norm_eps (1e-5)
    kv_layernorm: RMSNorm,
    linear_kv_up_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}
