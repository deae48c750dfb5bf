use mla_runtime::mla_layer;

#[mla_layer(spec = "../../spec/models/moonlight.yaml")]
struct MoonlightAttention {
    linear_proj: RowParallelLinear,
}

fn main() {}
