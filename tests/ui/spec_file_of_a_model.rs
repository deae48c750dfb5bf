use mla_runtime::mla_layer;

#[mla_layer(spec = "../../spec/models/small-shared.yaml")]
struct SmallShared;

fn main() {}
