//! Where attention's kernels write.

use super::super::driver::Address;
use super::super::{Accum, Cuda, CudaBuffer, CudaElement};
use crate::backend::AttentionParts;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// As elements; 0: as accumulators.
    pub(super) elements: Address,
    pub(super) accumulators: Address,
    pub(super) lse: Address,
    pub(super) max_logit: Address,
    /// Whether anybody reads the largest logits; kernels that are faster without them may leave them out.
    pub(super) tells_most: bool,
}

impl Output {
    /// As attention's parts.
    pub(super) fn parts<T: CudaElement>(parts: &AttentionParts<Cuda<T>>) -> Self {
        Self {
            elements: 0,
            accumulators: parts.out.at(),
            lse: parts.lse.at(),
            max_logit: parts.max_logit.at(),
            tells_most: true,
        }
    }

    /// Rounded to elements. `lines`: room for each row and head's log-sum-exp, and its largest logit, which nobody reads.
    pub(super) fn rounded<T: CudaElement>(
        out: &CudaBuffer<T>,
        lines: [&CudaBuffer<Accum<T>>; 2],
    ) -> Self {
        Self {
            elements: out.at(),
            accumulators: 0,
            lse: lines[0].at(),
            max_logit: lines[1].at(),
            tells_most: false,
        }
    }

    /// Bytes of a number of the output.
    pub(super) fn number_bytes<T: CudaElement>(&self) -> usize {
        match self.elements {
            0 => size_of::<Accum<T>>(),
            _ => size_of::<T>(),
        }
    }
}
