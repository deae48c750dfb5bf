//! The gradients of attention.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::missing;
use crate::backend::{AttentionBackward, Landings, Strided};
use crate::element::Element;
use crate::error::Result;

type Accum<T> = <T as Element>::Accum;

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
