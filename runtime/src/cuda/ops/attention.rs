//! Attention.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::missing;
use crate::backend::{Attention, AttentionParts, Parts, PartsMut};
use crate::element::{Element, Scalar};
use crate::error::Result;

type Accum<T> = <T as Element>::Accum;

pub(super) fn attend<T: CudaElement, E: Scalar>(
    _: &CudaDevice,
    _: &Attention<'_, Cuda<T>, E>,
) -> Result<AttentionParts<Cuda<T>>> {
    missing("attend")
}

pub(super) fn merge<T: CudaElement>(
    _: &CudaDevice,
    _: PartsMut<'_, Cuda<T>>,
    _: Parts<'_, Cuda<T>>,
    _: usize,
) -> Result<()> {
    missing("merge")
}

pub(super) fn sink<T: CudaElement>(
    _: &CudaDevice,
    _: &CudaBuffer<Accum<T>>,
    _: &CudaBuffer<Accum<T>>,
    _: Option<&CudaBuffer<Accum<T>>>,
    _: usize,
) -> Result<()> {
    missing("sink")
}
