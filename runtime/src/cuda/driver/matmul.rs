//! Products of matrices in the device's memory.

use super::{Address, Work};

/// What matrices hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NumberType {
    /// fp8 of 4 bits of exponent and 3 of mantissa.
    E4m3,
    /// bf16.
    Bf16,
    /// f16.
    F16,
    /// f32.
    F32,
    /// f64.
    F64,
}

impl NumberType {
    /// The type of a scalar's name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "e4m3" => Some(Self::E4m3),
            "bf16" => Some(Self::Bf16),
            "f16" => Some(Self::F16),
            "f32" => Some(Self::F32),
            "f64" => Some(Self::F64),
            _ => None,
        }
    }

    /// The scalar's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::E4m3 => "e4m3",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::E4m3 => 1,
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// A matrix, or one for each of a batch. Strides count elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Operand {
    /// The first element.
    pub(crate) at: Address,
    /// What it holds.
    pub(crate) number: NumberType,
    /// From one row to the next.
    pub(crate) row_stride: usize,
    /// From one column to the next.
    pub(crate) column_stride: usize,
    /// From one matrix of the batch to the next.
    pub(crate) batch_stride: usize,
}

/// `C[m, n] = Σ_k A[m, k] B[k, n]`, or with `accumulate` that added to C, for each of a batch; summed in `f32`, or `f64` where a matrix
/// holds that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Matmul {
    /// Rows of A and C.
    pub(crate) m: usize,
    /// Columns of B and C.
    pub(crate) n: usize,
    /// Columns of A, rows of B.
    pub(crate) k: usize,
    /// Products.
    pub(crate) batch: usize,
    /// `[m, k]`.
    pub(crate) a: Operand,
    /// `[k, n]`.
    pub(crate) b: Operand,
    /// `[m, n]`.
    pub(crate) c: Operand,
    /// Whether the product is added to what C holds.
    pub(crate) accumulate: bool,
}

impl Matmul {
    /// Each matrix once, C twice where it is added to.
    pub(crate) fn work(&self) -> Work {
        let bytes = |rows: usize, columns: usize, number: NumberType| {
            self.batch * rows * columns * number.bytes()
        };
        let results = bytes(self.m, self.n, self.c.number) * if self.accumulate { 2 } else { 1 };
        Work::moving(
            bytes(self.m, self.k, self.a.number) + bytes(self.k, self.n, self.b.number) + results,
        )
        .adding(self.batch * self.m * self.n * self.k)
    }
}
