use mla_runtime::mla_layer;

#[mla_layer(
    hidden_size = 2048, num_attention_heads = 16, q_lora_rank = 768, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
    attn_mask_type = causal, rope(type = plain, theta = 10000.0, layout = interleaved),
)]
struct SlotsOfHuggingFace {
    q_a_proj: Linear,
    #[mla(eps = 1e-6)]
    q_a_layernorm: RMSNorm,
    q_b_proj: ColumnParallelLinear,
    kv_a_proj_with_mqa: Linear,
    #[mla(eps = 1e-6)]
    kv_a_layernorm: RMSNorm,
    kv_b_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    o_proj: RowParallelLinear,
}

fn main() {}
