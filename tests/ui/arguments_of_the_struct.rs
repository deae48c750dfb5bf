use mla_runtime::mla_layer;

#[mla_layer(
    name = ArgumentsOfTheStruct,
    params(hidden_size = 2048, num_attention_heads = 16),
    submodules(linear_proj = RowParallelLinear),
)]
struct ArgumentsOfTheStruct {
    linear_q_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    #[mla(module = RMSNorm, params(eps = 1e-6))]
    kv_layernorm: RMSNorm,
    linear_kv_up_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

fn main() {}
