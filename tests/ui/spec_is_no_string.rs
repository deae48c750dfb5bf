use mla_runtime::mla_layer;

#[mla_layer(spec = specs.yaml)]
struct SpecIsNoString;

fn main() {}
