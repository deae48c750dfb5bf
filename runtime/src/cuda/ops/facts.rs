//! What the choice of a kernel for attention looks at.

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
        // Of what there is one there is no next
        let stride = |count: usize, stride: usize| match count {
            0 | 1 => true,
            _ => (stride * size_of::<S>()).is_multiple_of(16),
        };
        Self {
            rows: x.rows,
            heads: x.heads,
            width: x.width,
            aligned: x.buffer.place(x.offset).is_multiple_of(16)
                && stride(x.rows, x.row_stride)
                && stride(x.heads, x.head_stride),
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
