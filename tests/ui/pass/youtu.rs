//! Youtu-LLM in Rust: a path of a spec, relative to the folder of Cargo.toml or to this file.

use mla_runtime::{Cpu, Load, mla_layer};

/// Youtu-LLM-2B's attention.
#[mla_layer(spec = "../spec/models/youtu.yaml")]
pub struct YoutuAttention;

#[test]
fn it_is_the_generated_layer() {
    type Generated = mla_generated::youtu::YoutuAttention<Cpu>;
    assert_eq!(YoutuAttention::<Cpu>::TENSORS, Generated::TENSORS);
}
