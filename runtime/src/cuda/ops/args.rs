//! What kernels are told, as their texts lay it out.

use bytemuck::{Pod, Zeroable};

use super::super::Cuda;
use super::super::CudaElement;
use super::super::driver::Address;
use crate::backend::{Rotation, Strided};
use crate::element::Scalar;

/// Threads of a block.
pub(super) const THREADS: usize = 128;

/// `Window` of `prelude.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Window {
    data: Address,
    rows: i64,
    row_stride: i64,
    head_stride: i64,
    heads: i32,
    width: i32,
}

impl<T: CudaElement, S: Scalar> From<&Strided<'_, Cuda<T>, S>> for Window {
    fn from(x: &Strided<'_, Cuda<T>, S>) -> Self {
        Self {
            data: x.buffer.place(x.offset),
            rows: x.rows as i64,
            row_stride: x.row_stride as i64,
            head_stride: x.head_stride as i64,
            heads: x.heads as i32,
            width: x.width as i32,
        }
    }
}

/// `Turn` of `pairs.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Turn {
    cos: Address,
    sin: Address,
    pairs: i32,
    start: i32,
    half_in: i32,
    half_out: i32,
}

impl Turn {
    /// Of no pairs: nothing is turned.
    pub(super) const NONE: Self = Self {
        cos: 0,
        sin: 0,
        pairs: 0,
        start: 0,
        half_in: 0,
        half_out: 0,
    };

    pub(super) fn of<T: CudaElement>(rotation: &Rotation<'_, Cuda<T>>) -> Self {
        Self {
            cos: rotation.cos.at(),
            sin: rotation.sin.at(),
            pairs: rotation.pairs as i32,
            start: rotation.start as i32,
            half_in: i32::from(rotation.half_in),
            half_out: i32::from(rotation.half_out),
        }
    }
}

/// Values of a window.
pub(super) fn len<T: CudaElement, S: Scalar>(x: &Strided<'_, Cuda<T>, S>) -> usize {
    x.rows * x.heads * x.width
}

/// Bytes of a window.
pub(super) fn bytes<T: CudaElement, S: Scalar>(x: &Strided<'_, Cuda<T>, S>) -> usize {
    len(x) * size_of::<S>()
}

/// Blocks for a loop over so many values: some for each thread, where there are many.
pub(super) fn blocks(values: usize) -> [usize; 3] {
    const MOST: usize = 132 * 16;
    [values.div_ceil(THREADS).min(MOST), 1, 1]
}
