//! What a device must be able to do in a backward pass, beside what it does in a forward one: gradients of products, norms, gates.

use crate::backend::{Accum, Backend, HeadMatrices, Place, Strided};
use crate::element::Scalar;
use crate::error::Result;

/// Primitives of the backward pass. As those of [`Backend`], they trust counts and windows. Gradients of activations are of the element
/// type; what is added to, where nothing else is said, is of the accumulation type, and never cleared first.
pub trait GradientOps<B: Backend> {
    /// `into[row * stride + offset + head * head_stride ..] += x[row, head, :]`, summed in the accumulation type.
    fn add(
        device: &B::Device,
        x: Strided<'_, B, B::Elem>,
        into: &mut B::Buffer<B::Elem>,
        place: Place,
    ) -> Result<()>;

    /// `M_h[k, n] += Σ_r x[r, h, k] · dy[r, h, n]`, the M_h windows of `into` that do not overlap: the gradient of
    /// [`Backend::head_product`]'s matrices. `S` is the element or the accumulation type, here and below.
    fn outer_products<S: Scalar>(
        device: &B::Device,
        x: Strided<'_, B, B::Elem>,
        dy: Strided<'_, B, S>,
        into: &mut B::Buffer<Accum<B>>,
        matrices: HeadMatrices,
    ) -> Result<()>;

    /// `into[i] += Σ_r x[r, i]`: the gradient of a bias.
    fn column_sums<S: Scalar>(
        device: &B::Device,
        x: Strided<'_, B, S>,
        into: &mut B::Buffer<Accum<B>>,
    ) -> Result<()>;

    /// `dx = dy W`, rounded once: dy `[rows, out]` and `weight` `[out, in]` contiguous; sizes are rows, out and in.
    fn accum_linear_backward(
        device: &B::Device,
        dy: &B::Buffer<Accum<B>>,
        weight: &B::Buffer<Accum<B>>,
        sizes: (usize, usize, usize),
    ) -> Result<B::Buffer<B::Elem>>;

    /// The gradient `dx` of [`Backend::rms_norm`]; `weight` is γ and what its gradient is added to.
    fn rms_norm_backward(
        device: &B::Device,
        x: Strided<'_, B, B::Elem>,
        dy: Strided<'_, B, B::Elem>,
        weight: Option<(&B::Buffer<B::Elem>, &mut B::Buffer<Accum<B>>)>,
        eps: f64,
    ) -> Result<B::Buffer<B::Elem>>;

    /// The gradient `dx` of [`Backend::layer_norm`]; those of γ and β are added to `d_gamma` and `d_beta`.
    fn layer_norm_backward(
        device: &B::Device,
        x: Strided<'_, B, B::Elem>,
        dy: Strided<'_, B, B::Elem>,
        gamma: &B::Buffer<B::Elem>,
        eps: f64,
        d_gamma: &mut B::Buffer<Accum<B>>,
        d_beta: &mut B::Buffer<Accum<B>>,
    ) -> Result<B::Buffer<B::Elem>>;

    /// Of `y[i] = x[i] · σ(gates[i / n])`, `n` as many values as there are for each gate: the gradients of `x`, contiguous as it is, and
    /// of the gates.
    fn gate_backward<S: Scalar>(
        device: &B::Device,
        x: &B::Buffer<B::Elem>,
        dy: &B::Buffer<B::Elem>,
        gates: Strided<'_, B, S>,
    ) -> Result<(B::Buffer<B::Elem>, B::Buffer<S>)>;

    /// `dy ← dy · (σ(x) + x σ'(x))`: the gradient of [`Backend::silu`].
    fn silu_backward(
        device: &B::Device,
        x: &B::Buffer<B::Elem>,
        dy: &mut B::Buffer<B::Elem>,
    ) -> Result<()>;

    /// `Σ_i x[r, h, i] · y[r, h, i]` for each row and head.
    fn dots(
        device: &B::Device,
        x: Strided<'_, B, B::Elem>,
        y: Strided<'_, B, B::Elem>,
    ) -> Result<B::Buffer<Accum<B>>>;
}
