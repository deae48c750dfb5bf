use mla_runtime::mla_layer;

#[mla_layer(hidden_size = 2048)]
struct ItemIsATupleStruct(RowParallelLinear);

fn main() {}
