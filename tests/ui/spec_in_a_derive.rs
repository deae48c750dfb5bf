use mla_runtime::MlaLayer;

#[derive(MlaLayer)]
#[mla(spec = "../../spec/models/moonlight.yaml")]
struct Moonlight;

fn main() {}
