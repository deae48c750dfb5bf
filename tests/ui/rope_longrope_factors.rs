use mla_runtime::mla_layer;

#[mla_layer(
    hidden_size = 2048, num_attention_heads = 16, q_lora_rank = 768, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 4, v_head_dim = 128, attn_mask_type = causal,
    rope(
        type = longrope, theta = 10000.0, layout = half, short_factor = [1.0, 0.0],
        long_factor = [1.0, 2.0, 3.0], original_max_position_embeddings = 4096, attention_factor = 1.19,
        select = always,
    ),
)]
struct RopeLongropeFactors {
    linear_q_down_proj: Linear,
    #[mla(eps = 1.0e-6)]
    q_layernorm: RMSNorm,
    linear_q_up_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    #[mla(eps = 1.0e-6)]
    kv_layernorm: RMSNorm,
    linear_kv_up_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
