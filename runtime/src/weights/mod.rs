//! Checkpoints: safetensors files, sharded or not, and tensors made in memory.
//!
//! ```text
//! Weights::open ─┐
//! Weights::from_tensors ─┼─▶ Weights ─ exactly(prefix, TENSORS) ─▶ Selected ─ read::<T>(name) ─▶ Vec<T>
//! Weights::random ─┘
//! ```
//!
//! A layer asks for exactly the tensors that it has. What is missing, left over, misshapen or of an element type that this
//! release can't compute with is listed, all of it, in one [`WeightSet`].

mod checkpoint;
pub mod generator;
mod header;
mod index;
mod selected;
mod set;
mod shard;
mod stored;

pub use checkpoint::{TensorShape, Weights};
pub use selected::Selected;
pub use set::{Mistake, WeightSet};
#[cfg(feature = "proof")]
pub(crate) use shard::Shard;
pub use stored::DType;
#[cfg(feature = "proof")]
pub(crate) use stored::Stored;

#[cfg(test)]
mod tests;
