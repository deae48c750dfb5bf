//! Indexers: scores, the best keys of each query, pooled keys, and the loss that trains them.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::missing;
use crate::backend::{IndexLoss, IndexLossParts, Indexing, Pooling};
use crate::element::{Element, Scalar};
use crate::error::Result;

pub(super) fn select<T: CudaElement, E: Scalar>(
    _: &CudaDevice,
    _: &Indexing<'_, Cuda<T>, E>,
    _: usize,
) -> Result<CudaBuffer<i32>> {
    missing("index_select")
}

pub(super) fn scores<T: CudaElement>(
    _: &CudaDevice,
    _: &Indexing<'_, Cuda<T>, T>,
    _: usize,
) -> Result<CudaBuffer<<T as Element>::Accum>> {
    missing("index_scores")
}

pub(super) fn pool_keys<T: CudaElement>(
    _: &CudaDevice,
    _: &Pooling<'_, Cuda<T>>,
) -> Result<CudaBuffer<T>> {
    missing("pool_keys")
}

pub(super) fn loss<T: CudaElement>(
    _: &CudaDevice,
    _: &IndexLoss<'_, Cuda<T>>,
) -> Result<IndexLossParts<Cuda<T>>> {
    missing("index_loss")
}
