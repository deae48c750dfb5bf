use mla_runtime::MlaLayer;
use mla_runtime::slots::RowParallelLinear;

#[derive(MlaLayer)]
#[mla(hidden_size = 2048)]
union ItemIsAUnion {
    linear_proj: RowParallelLinear,
}

fn main() {}
