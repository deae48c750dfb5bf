use mla_runtime::mla_layer;

#[mla_layer(spec = "../../spec/models/moonlight.yaml")]
struct KimiAttention;

fn main() {}
