//! Checkpoints: safetensors files, sharded or not, and tensors made in memory.
//!
//! ```text
//! Weights::open ─┐
//! Weights::from_tensors ─┼─▶ Weights ─ exactly(prefix, TENSORS) ─▶ Selected ─ read::<T>(name) ─▶ Vec<T>
//! Weights::random ─┘
//! ```
//!
//! A layer asks for exactly the tensors that it has, by Hugging Face's names. A checkpoint may give them another system's
//! ([`Naming`]), and fp8 weights come with their scales. What is missing, left over, misshapen or of an element type that this
//! release can't compute with is listed, all of it, in one [`WeightSet`].

pub(crate) mod blocks;
mod checkpoint;
mod coded;
pub mod generator;
mod header;
mod index;
mod naming;
mod select;
mod selected;
mod set;
mod shard;
mod source;
mod stored;

pub(crate) use checkpoint::with_final_dot;
pub use checkpoint::{TensorShape, Weights};
pub(crate) use coded::{CodedRows, CodedTensor};
pub use naming::Naming;
pub use selected::Selected;
pub use set::{Mistake, WeightSet};
#[cfg(feature = "proof")]
pub(crate) use shard::Shard;
pub use stored::DType;
#[cfg(feature = "proof")]
pub(crate) use stored::Stored;

#[cfg(test)]
mod tests;
