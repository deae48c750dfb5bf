use mla_runtime::mla_layer;

#[mla_layer(spec = "../specs/err/everything_at_once.yaml")]
struct EverythingAtOnce;

fn main() {}
