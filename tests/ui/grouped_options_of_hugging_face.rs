use mla_runtime::mla_layer;

#[mla_layer(
    module = SelfAttention, hidden_size = 4096, num_attention_heads = 32, attn_mask_type = causal,
    rope(type = plain, theta = 500000.0, layout = half), num_key_value_heads = 8, head_dim = 128,
    attention_bias = true,
)]
struct GroupedOptionsOfHuggingFace {
    linear_qkv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    #[mla(eps = 1.0e-6)]
    q_norm: RMSNorm,
    o_proj: RowParallelLinear,
}

fn main() {}
