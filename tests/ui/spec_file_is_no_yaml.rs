use mla_runtime::mla_layer;

#[mla_layer(spec = "spec_file_is_no_yaml.rs")]
struct SpecFileIsNoYaml;

fn main() {}
