//! Gradients of norms, gates, activations and biases.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::{missing, pointwise, products};
use crate::backend::{Gamma, GateGradients, GradientOps, HeadMatrices, Place, Strided};
use crate::element::{Element, Scalar};
use crate::error::Result;

impl<T: CudaElement> GradientOps<Self> for Cuda<T> {
    fn add(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        into: &mut CudaBuffer<T>,
        place: Place,
    ) -> Result<()> {
        pointwise::add_window(device, &x, into, place)
    }

    fn outer_products<S: Scalar>(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, S>,
        into: &mut CudaBuffer<<T as Element>::Accum>,
        matrices: HeadMatrices,
    ) -> Result<()> {
        products::outer_products(device, &x, &dy, into, matrices)
    }

    fn column_sums<S: Scalar>(
        _: &CudaDevice,
        _: Strided<'_, Self, S>,
        _: &mut CudaBuffer<<T as Element>::Accum>,
    ) -> Result<()> {
        missing("column_sums")
    }

    fn accum_linear_backward(
        device: &CudaDevice,
        dy: &CudaBuffer<<T as Element>::Accum>,
        weight: &CudaBuffer<<T as Element>::Accum>,
        sizes: (usize, usize, usize),
    ) -> Result<CudaBuffer<T>> {
        products::accum_linear_backward::<T>(device, dy, weight, sizes)
    }

    fn rms_norm_backward(
        _: &CudaDevice,
        _: Strided<'_, Self, T>,
        _: Strided<'_, Self, T>,
        _: Option<Gamma<'_, Self>>,
        _: f64,
    ) -> Result<CudaBuffer<T>> {
        missing("rms_norm_backward")
    }

    fn layer_norm_backward(
        _: &CudaDevice,
        _: Strided<'_, Self, T>,
        _: Strided<'_, Self, T>,
        _: &CudaBuffer<T>,
        _: f64,
        _: &mut CudaBuffer<<T as Element>::Accum>,
        _: &mut CudaBuffer<<T as Element>::Accum>,
    ) -> Result<CudaBuffer<T>> {
        missing("layer_norm_backward")
    }

    fn gate_backward<S: Scalar>(
        _: &CudaDevice,
        _: &CudaBuffer<T>,
        _: &CudaBuffer<T>,
        _: Strided<'_, Self, S>,
    ) -> Result<GateGradients<Self, S>> {
        missing("gate_backward")
    }

    fn silu_backward(_: &CudaDevice, _: &CudaBuffer<T>, _: &mut CudaBuffer<T>) -> Result<()> {
        missing("silu_backward")
    }

    fn dots(
        _: &CudaDevice,
        _: Strided<'_, Self, T>,
        _: Strided<'_, Self, T>,
    ) -> Result<CudaBuffer<<T as Element>::Accum>> {
        missing("dots")
    }
}
