use mla_runtime::mla_layer;

#[mla_layer(
    hidden_size = 7168.0, num_attention_heads = 16, q_lora_rank = null, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 63,
    attn_mask_type = causal, rope(type = plain, theta = 1, mscale = 1.0),
    softmax_scale = 3,
    build(phases = [prefill, decode, decode], dtype = fp32, cache(format = fp8, page_size = 0), targets = [rocm]),
)]
struct EverythingAtOnce {
    linear_q_down_proj: Linear,
    linear_q_up_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    kv_layernorm: RMSNorm,
    #[mla(normalization = RMSNorm, eps = 1e-6)]
    linear_kv_up_proj: LayerNormColumnParallelLinear,
    core_attention: SparseAttention,
}

fn main() {}
