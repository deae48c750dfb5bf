use mla_runtime::mla_layer;

#[mla_layer(
    module = CrossAttention, hidden_size = 1024, num_attention_heads = 16, kv_channels = 64,
    context_hidden_size = 768, attn_mask_type = causal_bottom_right,
    build(phases = [forward, prefill, decode], flash_decode = true),
)]
struct CrossCached {
    linear_q: ColumnParallelLinear,
    linear_kv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
