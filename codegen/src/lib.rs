//! The compiler of mla-gen: from a checked attention layer to Rust.
//!
//! It is pure: a spec in, a map of file names to texts out. Only [`Builder`], the door for build scripts, reads and writes
//! files.

#![forbid(unsafe_code)]

mod builder;
mod digest;
mod emit;
mod files;
pub mod plan;
pub mod report;

pub use builder::{BuildError, Builder};
pub use digest::{decode_digest, model_digest, spec_digest};
pub use emit::{
    CubinFile, Kernels, Options, Origin, ProofsOn, cubins, cuda, emit, emit_model,
    emit_module_text, model_modules,
};
pub use files::{Files, module_name};
