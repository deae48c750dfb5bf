//! Windows of slices, whichever the backend: what kernels of the backward pass read.

use super::super::{Cpu, CpuElement, same};
use crate::backend::Strided;
use crate::element::Scalar;

/// A strided `[rows, heads, width]` window of a slice; all strides count elements.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a, S> {
    values: &'a [S],
    offset: usize,
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    row_stride: usize,
    head_stride: usize,
}

impl<'a, S: Scalar> Window<'a, S> {
    /// Rows times heads.
    pub(super) fn lines(&self) -> usize {
        self.rows * self.heads
    }

    /// Line `i`, counted row by row and head by head.
    #[inline(always)]
    pub(super) fn line(&self, i: usize) -> &'a [S] {
        self.part(i / self.heads, i % self.heads)
    }

    /// The values of one row and head.
    #[inline(always)]
    pub(super) fn part(&self, row: usize, head: usize) -> &'a [S] {
        let start = self.offset + row * self.row_stride + head * self.head_stride;
        // An empty window may stand behind the last value of its buffer
        if self.width == 0 {
            &[]
        } else {
            &self.values[start..start + self.width]
        }
    }

    /// One head's values from row `row` on, and from one row to the next.
    pub(super) fn tail(&self, row: usize, head: usize) -> (&'a [S], usize) {
        let start = self.offset + row * self.row_stride + head * self.head_stride;
        (&self.values[start..], self.row_stride)
    }

    /// The window over values of type `D`, when that is what `S` is.
    pub(super) fn over<D: Scalar>(&self) -> Option<Window<'a, D>> {
        Some(Window {
            values: same(self.values)?,
            offset: self.offset,
            rows: self.rows,
            heads: self.heads,
            width: self.width,
            row_stride: self.row_stride,
            head_stride: self.head_stride,
        })
    }
}

impl<'a, T: CpuElement, S: Scalar> From<Strided<'a, Cpu<T>, S>> for Window<'a, S> {
    fn from(x: Strided<'a, Cpu<T>, S>) -> Self {
        Self {
            values: x.buffer,
            offset: x.offset,
            rows: x.rows,
            heads: x.heads,
            width: x.width,
            row_stride: x.row_stride,
            head_stride: x.head_stride,
        }
    }
}
