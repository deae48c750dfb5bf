use mla_runtime::mla_layer;

#[mla_layer(
    hidden_size = 2048, num_attention_heads = 16, q_lora_rank = 768, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128, attn_mask_type = causal,
    rope(type = plain, theta = 10000.0, layout = interleaved),
    build(weights = fp8_blocks),
)]
struct WeightsCodedWithNorm {
    linear_q_down_proj: Linear,
    q_layernorm: IdentityOp,
    #[mla(normalization = RMSNorm, eps = 1.0e-6)]
    linear_q_up_proj: LayerNormColumnParallelLinear,
    linear_kv_down_proj: Linear,
    kv_layernorm: IdentityOp,
    #[mla(normalization = RMSNorm, eps = 1.0e-6)]
    linear_kv_up_proj: LayerNormColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
