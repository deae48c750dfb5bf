//! What the kernels are told, as their texts lay it out.

use bytemuck::{Pod, Zeroable};

use super::super::super::super::driver::{Address, TensorMap};
use super::super::super::super::{Cuda, CudaElement};
use super::super::super::attention_backward::Lines;
use crate::backend::Strided;

/// `Source` of `flash_delta.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Source {
    at: Address,
    row_stride: i64,
    head_stride: i64,
}

impl<T: CudaElement> From<&Strided<'_, Cuda<T>, T>> for Source {
    fn from(x: &Strided<'_, Cuda<T>, T>) -> Self {
        Self {
            at: x.buffer.place(x.offset),
            row_stride: x.row_stride as i64,
            head_stride: x.head_stride as i64,
        }
    }
}

/// `FlashDelta` of `flash_delta.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FlashDelta {
    pub(super) out: Source,
    pub(super) d_out: Source,
    pub(super) lse: Address,
    pub(super) tiles: Address,
    pub(super) seen_by: Address,
    pub(super) sums: Address,
    pub(super) d_queries: Address,
    pub(super) turns: Address,
    pub(super) rope_turns: Address,
    pub(super) heads: i32,
    pub(super) count: i32,
    pub(super) rope_counts: i32,
    pub(super) unused: i32,
}

/// `Gradient` of `written.cuh`: where rows of a gradient go, as elements or as accumulators.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(in super::super::super) struct Gradient {
    narrow: Address,
    wide: Address,
    row_stride: i64,
    head_stride: i64,
}

impl<T: CudaElement> From<&Strided<'_, Cuda<T>, T>> for Gradient {
    fn from(x: &Strided<'_, Cuda<T>, T>) -> Self {
        Self {
            narrow: x.buffer.place(x.offset),
            wide: 0,
            row_stride: x.row_stride as i64,
            head_stride: x.head_stride as i64,
        }
    }
}

impl Gradient {
    /// As elements of lines that lie one behind the other.
    pub(super) fn of_lines(lines: Lines, heads: usize) -> Self {
        Self {
            narrow: lines.at,
            wide: 0,
            row_stride: lines.line * heads as i64,
            head_stride: lines.line,
        }
    }

    /// Whether whole vectors can be written.
    pub(super) fn is_aligned(&self) -> bool {
        const ELEMENT: u64 = 2;
        const VECTOR: u64 = 8;
        let strides = [self.row_stride, self.head_stride].map(|stride| stride as u64 * ELEMENT);
        [self.narrow, strides[0], strides[1]]
            .iter()
            .all(|bytes| bytes.is_multiple_of(VECTOR))
    }
}

/// `FlashBackward` of `flash_backward_tiles.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FlashBackward {
    pub(super) q: TensorMap,
    pub(super) q_rope: TensorMap,
    pub(super) k: TensorMap,
    pub(super) k_rope: TensorMap,
    pub(super) v: TensorMap,
    pub(super) d_out: TensorMap,
    pub(super) blocks: Address,
    pub(super) tasks: Address,
    pub(super) sums: Address,
    pub(super) limits: Address,
    pub(super) d_queries: Address,
    pub(super) d_k: Gradient,
    pub(super) d_v: Gradient,
    pub(super) d_k_rope: Address,
    pub(super) taken: Address,
    pub(super) seen_by: Address,
    pub(super) turns: Address,
    pub(super) rope_turns: Address,
    pub(super) rope_stride: i64,
    pub(super) count: i32,
    pub(super) tiles: i32,
    pub(super) key_blocks: i32,
    pub(super) per_key: i32,
    pub(super) per_rope: i32,
    pub(super) scale: f32,
    pub(super) scale_log2: f32,
    pub(super) bend: f32,
    pub(super) unused: [i32; 2],
}

/// `FlashQueries` of `flash_queries.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FlashQueries {
    pub(super) d_queries: Address,
    pub(super) tiles: Address,
    pub(super) d_q: Gradient,
    pub(super) d_q_rope: Gradient,
    pub(super) count: i32,
    pub(super) scale: f32,
}

// As large as the kernels take them
const _: () = assert!(
    size_of::<FlashDelta>() == 120
        && size_of::<FlashBackward>() == 960
        && size_of::<FlashQueries>() == 88
);
