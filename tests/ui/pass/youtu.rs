//! Youtu-LLM in Rust: a path of a spec, relative to the folder of Cargo.toml or to this file.

use mla_runtime::mla_layer;

/// Youtu-LLM-2B's attention.
#[mla_layer(spec = "../spec/models/youtu.yaml")]
pub struct YoutuAttention;
