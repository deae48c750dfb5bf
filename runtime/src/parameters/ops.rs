//! What a device does to parameters.

use crate::backend::{Accum, Backend};
use crate::error::Result;

/// The primitives behind [`ParameterSet`](super::ParameterSet) and [`Module`](super::Module), a part of [`Backend`].
///
/// Callers guarantee that the lengths of one call's buffers agree.
pub trait ParameterOps<B: Backend> {
    /// `to ← from`, exactly.
    fn widen(
        device: &B::Device,
        from: &B::Buffer<B::Elem>,
        to: &mut B::Buffer<Accum<B>>,
    ) -> Result<()>;

    /// `to ← from`, rounded to nearest, ties to even.
    fn narrow(
        device: &B::Device,
        from: &B::Buffer<Accum<B>>,
        to: &mut B::Buffer<B::Elem>,
    ) -> Result<()>;

    /// Lends flat values to the host: `work` may change those of `changed`. What it returns is handed through.
    fn on_host<const N: usize, const M: usize, R>(
        device: &B::Device,
        changed: [&mut B::Buffer<Accum<B>>; N],
        read: [&B::Buffer<Accum<B>>; M],
        work: impl FnOnce([&mut [Accum<B>]; N], [&[Accum<B>]; M]) -> R,
    ) -> Result<R>;

    /// `x ← x + y`.
    fn add(device: &B::Device, x: &mut B::Buffer<Accum<B>>, y: &B::Buffer<Accum<B>>) -> Result<()>;

    /// `x[i] ← x[i] · factors[i / width]`.
    fn scale_rows(
        device: &B::Device,
        x: &mut B::Buffer<Accum<B>>,
        factors: &B::Buffer<Accum<B>>,
        width: usize,
    ) -> Result<()>;

    /// `Σ x²`, squared and summed in `f64`.
    fn square_norm(device: &B::Device, x: &B::Buffer<Accum<B>>) -> Result<f64>;

    /// Whether no value is infinite or a NaN.
    fn is_finite(device: &B::Device, x: &B::Buffer<Accum<B>>) -> Result<bool>;
}
