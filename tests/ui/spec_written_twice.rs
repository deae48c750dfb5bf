use mla_runtime::mla_layer;

#[mla_layer(spec = "../../spec/models/youtu.yaml", spec = "../../spec/models/moonlight.yaml")]
struct MoonlightAttention;

fn main() {}
