//! What a device does to parameters, and what waits in the host's memory.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::missing;
use crate::element::{Element, Scalar};
use crate::error::Result;
use crate::offload::HostMemory;
use crate::parameters::ParameterOps;

type Accum<T> = <T as Element>::Accum;

impl<T: CudaElement> ParameterOps<Self> for Cuda<T> {
    fn widen(_: &CudaDevice, _: &CudaBuffer<T>, _: &mut CudaBuffer<Accum<T>>) -> Result<()> {
        missing("widen")
    }

    fn narrow(_: &CudaDevice, _: &CudaBuffer<Accum<T>>, _: &mut CudaBuffer<T>) -> Result<()> {
        missing("narrow")
    }

    fn on_host<const N: usize, const M: usize, R>(
        _: &CudaDevice,
        _: [&mut CudaBuffer<Accum<T>>; N],
        _: [&CudaBuffer<Accum<T>>; M],
        _: impl FnOnce([&mut [Accum<T>]; N], [&[Accum<T>]; M]) -> R,
    ) -> Result<R> {
        missing("on_host")
    }

    fn add(_: &CudaDevice, _: &mut CudaBuffer<Accum<T>>, _: &CudaBuffer<Accum<T>>) -> Result<()> {
        missing("add")
    }

    fn scale_rows(
        _: &CudaDevice,
        _: &mut CudaBuffer<Accum<T>>,
        _: &CudaBuffer<Accum<T>>,
        _: usize,
    ) -> Result<()> {
        missing("scale_rows")
    }

    fn square_norm(_: &CudaDevice, _: &CudaBuffer<Accum<T>>) -> Result<f64> {
        missing("square_norm")
    }

    fn is_finite(_: &CudaDevice, _: &CudaBuffer<Accum<T>>) -> Result<bool> {
        missing("is_finite")
    }
}

impl<T: CudaElement> HostMemory<Self> for Cuda<T> {
    type Kept<S: Scalar> = Vec<S>;

    fn put<S: Scalar>(device: &CudaDevice, buffer: CudaBuffer<S>) -> Result<Vec<S>> {
        device.download(&buffer)
    }

    fn take<S: Scalar>(device: &CudaDevice, kept: Vec<S>) -> Result<CudaBuffer<S>> {
        device.upload(&kept)
    }
}
