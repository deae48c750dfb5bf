use mla_runtime::mla_layer;

#[mla_layer(
    module = CrossAttention, hidden_size = 1024, num_attention_heads = 16, kv_channels = 64,
    context_hidden_size = 768, attn_mask_type = no_mask, qk_clip(threshold = 100.0, alpha = 0.5),
    core_attention_bias = post_scale_bias, build(phases = [train]),
)]
struct CrossQkClipWithBias {
    linear_q: ColumnParallelLinear,
    linear_kv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
