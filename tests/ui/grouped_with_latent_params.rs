use mla_runtime::mla_layer;

#[mla_layer(
    module = SelfAttention, hidden_size = 4096, num_attention_heads = 32, num_query_groups = 8,
    attn_mask_type = causal, rope(type = plain, theta = 500000.0, layout = half), kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
)]
struct GroupedWithLatentParams {
    linear_qkv: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
    linear_kv_down_proj: Linear,
    kv_layernorm: IdentityOp,
}

fn main() {}
