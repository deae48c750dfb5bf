//! Attention, forward and backward.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::missing;
use crate::backend::{
    Attention, AttentionBackward, AttentionParts, Landings, Parts, PartsMut, Strided,
};
use crate::element::{Element, Scalar};
use crate::error::Result;

type Accum<T> = <T as Element>::Accum;

pub(super) fn attend<T: CudaElement, E: Scalar>(
    _: &CudaDevice,
    _: &Attention<'_, Cuda<T>, E>,
) -> Result<AttentionParts<Cuda<T>>> {
    missing("attend")
}

pub(super) fn attend_backward<T: CudaElement>(
    _: &CudaDevice,
    _: &AttentionBackward<'_, Cuda<T>>,
    _: &Landings,
    _: &mut [CudaBuffer<Accum<T>>],
) -> Result<()> {
    missing("attend_backward")
}

pub(super) fn bias_backward<T: CudaElement>(
    _: &CudaDevice,
    _: &AttentionBackward<'_, Cuda<T>>,
    _: &CudaBuffer<Accum<T>>,
) -> Result<()> {
    missing("bias_backward")
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

pub(super) fn sink_backward<T: CudaElement>(
    _: &CudaDevice,
    _: &CudaBuffer<Accum<T>>,
    _: &Strided<'_, Cuda<T>, T>,
    _: &CudaBuffer<Accum<T>>,
    _: &Strided<'_, Cuda<T>, T>,
    _: &CudaBuffer<Accum<T>>,
) -> Result<()> {
    missing("sink_backward")
}
