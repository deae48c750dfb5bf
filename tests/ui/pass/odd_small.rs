//! A small odd layer in Rust: the attribute, every structural choice unlike DeepSeek's.

use mla_runtime::mla_layer;

/// Every size is odd or otherwise awkward.
#[mla_layer(
    hidden_size = 75, num_attention_heads = 5, q_lora_rank = 27, kv_lora_rank = 21,
    qk_nope_head_dim = 11, qk_rope_head_dim = 6, v_head_dim = 13,
    attn_mask_type = padding_causal,
    rope(
        type = yarn, theta = 777.5, layout = half, factor = 3.5, original_max_position_embeddings = 50,
        beta_fast = 4.0, beta_slow = 0.5, mscale = 0.9, mscale_all_dim = 0.4, truncate = false,
    ),
    build(
        phases = [forward, prefill, decode], dtype = f32,
        cache(format = latent_f32, page_size = 3, rope_layout = interleaved),
        context_chunk = 7, targets = [cpu],
    ),
)]
pub struct OddSmallAttention {
    #[mla(bias = true)]
    linear_qkv_down_proj: Linear,
    q_layernorm: IdentityOp,
    #[mla(normalization = RMSNorm, eps = 1e-5)]
    linear_q_up_proj: LayerNormColumnParallelLinear,
    kv_layernorm: IdentityOp,
    #[mla(normalization = LayerNorm, eps = 3e-6)]
    linear_kv_up_proj: LayerNormColumnParallelLinear,
    core_attention: DotProductAttention,
    #[mla(bias = true)]
    linear_proj: RowParallelLinear,
}
