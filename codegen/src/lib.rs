//! The compiler of mla-gen: from a checked attention layer to Rust.

#![forbid(unsafe_code)]

mod digest;
pub mod plan;

pub use digest::spec_digest;
