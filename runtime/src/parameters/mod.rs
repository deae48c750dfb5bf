//! What of a layer is trained: its parameters, and what has their shapes: gradients, master weights, an optimiser's moments.
//!
//! ```text
//! Layer ── parameters(device) ─▶ Parameters ── tensors, save ─▶ checkpoint, by Hugging Face's names
//!       ◀────── assign ────────            ◀──────── load ───
//! ```
//!
//! A layer's `Parameters` mirrors the layer: a field per module, each a [`ParameterGroup`] of [`Parameter`]s in the accumulation type. The
//! layer itself holds working weights in the element type. Reading them widens, which is exact; assigning rounds to nearest, ties to even.
//! Rows stand as they do in the working weights; [`ParameterLayout`] knows which rows belong to which tensor of a checkpoint.

mod accumulate;
mod file;
mod groups;
mod layout;
mod module;
mod ops;
mod set;

pub use file::save;
pub use groups::{
    GatedNormParameters, KeyPoolParameters, LinearParameters, LogPositionParameters,
    NormLinearParameters, NormParameters, Parameter, ParameterGroup, SinkParameters,
};
pub use layout::ParameterLayout;
pub use module::Module;
pub(crate) use module::shifted;
pub use ops::ParameterOps;
pub use set::{NamedTensor, ParameterAt, ParameterSet, Trainable};
