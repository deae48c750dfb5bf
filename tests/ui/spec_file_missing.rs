use mla_runtime::mla_layer;

#[mla_layer(spec = "../../spec/models/moonlit.yaml")]
struct MoonlightAttention;

fn main() {}
