use mla_runtime::mla_layer;

#[mla_layer(hidden_size = 2048)]
fn attention() {}

fn main() {}
