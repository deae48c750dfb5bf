//! Which kernel of absorbed decode is the fastest for a shape, on GPUs where it was measured.
//!
//! A model of the machine chooses a kernel by what it has to move and to multiply. Where a [`Table`] of a GPU has a [`Line`] for a [`Shape`],
//! measured times choose instead. `mla-gen tune` writes tables, a person reads them in a diff, and both the compiler, which has to bring a
//! chosen kernel along, and the runtime, which has to launch it, consult the same ones.
//!
//! Kernels are told apart by the rows of queries that a block of theirs has: [`BLOCKS`].

#![forbid(unsafe_code)]

mod line;
mod table;
mod text;

pub use line::{Line, Situation};
pub use table::{Table, tables};

/// Rows of queries that a block has, from few to many: a kernel each.
pub const BLOCKS: [u32; 4] = [16, 32, 64, 128];

/// What a kernel has to be faster by than the model's for it to count: times of one kernel are apart by as much.
pub const NOISE: f64 = 1.02;

/// Number types of cached entries that there are kernels for.
const KEYS: [&str; 1] = ["bf16"];

/// All that a kernel is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// The number type of cached entries, `bf16`.
    pub keys: &'static str,
    /// Heads of a query, those that this device has.
    pub heads: u32,
    /// New tokens of a request, the one with the most.
    pub new: u32,
    /// Width of latents.
    pub latent: u32,
    /// Width of the rotated part of keys.
    pub rope: u32,
}

impl Shape {
    /// Rows of queries of one request.
    pub fn rows(&self) -> u32 {
        self.heads.saturating_mul(self.new)
    }
}
