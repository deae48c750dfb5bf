use mla_runtime::mla_layer;

#[mla_layer(
    module = SelfAttention, hidden_size = 4096, num_attention_heads = 32, num_query_groups = 8,
    kv_channels = 128, attn_mask_type = causal, rope(type = plain, theta = 500000.0, layout = half),
    qk_clip(threshold = 100.0, alpha = 0.5), build(phases = [forward, decode]),
)]
struct QkClipInInference {
    linear_qkv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
