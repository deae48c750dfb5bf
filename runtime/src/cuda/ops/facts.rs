//! What the choice of a kernel for attention looks at.

use super::super::driver::Address;
use super::super::{Cuda, CudaElement};
use crate::backend::{Pages, Strided};
use crate::element::Scalar;
use crate::segments::Segments;

/// Why a kernel does not run.
pub(super) type Reason = &'static str;

/// What matters of a strided window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    /// Whether the copy engine can read it.
    pub(super) aligned: bool,
}

impl Window {
    pub(super) fn of<T: CudaElement, S: Scalar>(x: &Strided<'_, Cuda<T>, S>) -> Self {
        Self::at(
            x.buffer.place(x.offset),
            [x.rows, x.heads, x.width],
            [x.row_stride, x.head_stride],
            size_of::<S>(),
        )
    }

    /// Of elements of so many bytes; strides count elements, from one row to the next, and from one head to the next.
    pub(super) fn at(
        at: Address,
        [rows, heads, width]: [usize; 3],
        [row_stride, head_stride]: [usize; 2],
        bytes: usize,
    ) -> Self {
        // Of what there is one there is no next
        let reads = |count: usize, stride: usize| count < 2 || (stride * bytes).is_multiple_of(16);
        Self {
            rows,
            heads,
            width,
            aligned: at.is_multiple_of(16) && reads(rows, row_stride) && reads(heads, head_stride),
        }
    }
}

/// Queries of the longest segment.
pub(super) fn most_queries(segments: &Segments) -> usize {
    let lengths = segments.list().iter().map(|segment| segment.queries.len());
    lengths.max().unwrap_or(0)
}

/// Whether tables name a block for each key.
pub(super) fn covers(pages: &Pages, segments: &Segments) -> bool {
    let mut tables = segments.list().iter().zip(pages.tables());
    pages.tables().len() >= segments.list().len()
        && tables.all(|(segment, table)| segment.keys.len() <= table.len() * pages.page())
}

/// The reason of the first rule that does not hold.
pub(super) fn all_hold(rules: &[(bool, Reason)]) -> Result<(), Reason> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some(&(_, reason)) => Err(reason),
        None => Ok(()),
    }
}
