use mla_runtime::mla_layer;

#[mla_layer(spec = "../specs/err/yarn_two_magnitudes.yaml")]
struct YarnTwoMagnitudes;

fn main() {}
