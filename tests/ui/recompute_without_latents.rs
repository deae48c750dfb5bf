use mla_runtime::mla_layer;

#[mla_layer(
    module = SelfAttention, hidden_size = 4096, num_attention_heads = 32, num_query_groups = 8,
    kv_channels = 128, attn_mask_type = causal, rope(type = plain, theta = 500000.0, layout = half),
    build(phases = [train], recompute = [mla_up_proj, layernorm], offload = [q_down_proj]),
)]
struct RecomputeWithoutLatents {
    linear_qkv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
