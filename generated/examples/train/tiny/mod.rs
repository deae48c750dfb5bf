//! A character model of two blocks whose attentions are generated layers, and what trains it.
//!
//! ```text
//! text ─ Batch ─▶ Model::learn ─▶ gradients ─ unscaled, clipped ─▶ AdamW ─▶ master weights ─ QK-clip ─▶ Model::assign
//! ```
//!
//! - [`text`]: characters as tokens, and batches of them; [`random`] says where they begin.
//! - [`model`]: [`ends`] (embedding, last norm, output head) and two [`block`]s, each a generated attention and what stands
//!   [`around`] it. [`loss`] is what the model is told.
//! - [`parameters`]: everything that is trained, as one thing: gradients, master weights, moments. [`optimiser`] moves it.
//! - [`trainer`]: one step after the other; [`checkpoint`]: stops and goes on, to the bit; [`sample`]: what the model writes.
//!
//! All of it is generic over the backend: the example trains in `f32` and `bf16`, a test compares gradients in `f64`.

pub(crate) mod around;
pub(crate) mod block;
pub(crate) mod checkpoint;
pub(crate) mod ends;
pub(crate) mod loss;
pub(crate) mod model;
pub(crate) mod optimiser;
pub(crate) mod parameters;
pub(crate) mod random;
pub(crate) mod sample;
pub(crate) mod text;
pub(crate) mod trainer;

use mla_generated::{tiny_dense, tiny_sparse};
use mla_runtime::{Mask, Rows};

/// What stops a training: the runtime's errors, and this example's own.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Width of the residual stream.
pub(crate) const WIDTH: usize = tiny_dense::HIDDEN_SIZE;
const _: () = assert!(WIDTH == tiny_sparse::HIDDEN_SIZE);

/// The residual stream.
pub(crate) type Hidden<B> = Rows<B, WIDTH>;

/// ε of the norms around the attentions.
const NORM_EPS: f64 = 1e-6;

/// How the rows of a batch fall into sequences, as attention is told.
#[derive(Debug)]
pub(crate) struct Sequences {
    /// Each row's place in its sequence.
    pub(crate) positions: Vec<u32>,
    /// Which rows make a sequence.
    pub(crate) mask: Mask,
}

impl Sequences {
    /// `rows` rows in sequences of `length`; one that is left over is shorter.
    pub(crate) fn of(rows: usize, length: usize) -> Self {
        let length = length.max(1);
        let ends = (0..rows).step_by(length).chain([rows]);
        Self {
            positions: (0..rows).map(|row| (row % length) as u32).collect(),
            mask: Mask::cu_seqlens(&ends.map(|end| end as u32).collect::<Vec<_>>()),
        }
    }
}
