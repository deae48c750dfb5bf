//! What a command has to do, whatever way it does it.

use std::ops::Add;

/// What a command has to move and to compute at least: what it is measured by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes: each input once, each output once. What is gathered counts as often as it is named.
    pub bytes: u64,
    /// Floating-point operations of products: two for each product that is added.
    pub flops: u64,
}

impl Work {
    /// Moves so many bytes, and computes little beside.
    pub(crate) fn moving(bytes: usize) -> Self {
        Self {
            bytes: bytes as u64,
            flops: 0,
        }
    }

    /// The same, and adds so many products besides.
    pub(crate) fn adding(self, products: usize) -> Self {
        Self {
            flops: self.flops + 2 * products as u64,
            ..self
        }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            flops: self.flops + other.flops,
        }
    }
}
