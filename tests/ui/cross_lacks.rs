use mla_runtime::mla_layer;

#[mla_layer(
    module = CrossAttention, hidden_size = 1024, num_attention_heads = 16, kv_channels = 64,
    context_hidden_size = 768, attn_mask_type = no_mask, num_query_groups = 4,
    rope(type = plain, theta = 10000.0, layout = half), attention_output_gate = per_head, qk_l2_norm = true,
    window_size = [4, 4], build(phases = [forward]),
)]
struct CrossLacks {
    linear_q: ColumnParallelLinear,
    linear_kv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
    #[mla(eps = 1.0e-6)]
    q_layernorm: RMSNorm,
    linear_qkv: ColumnParallelLinear,
}

fn main() {}
