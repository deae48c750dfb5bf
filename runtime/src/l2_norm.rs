//! The norm without a weight that generic self-attention may put behind rope (features C-04, R-10: `qk_l2_norm`).

use crate::backend::{Backend, GradientOps};
use crate::error::{Result, expect_count};
use crate::heads::{Heads, HeadsView};
use crate::norm::checked_eps;

/// `y = x / sqrt(mean(x²) + ε)` per head: of length `sqrt(D)`, not 1, as Megatron's `L2Norm` and Llama 4's compute it.
///
/// # Errors
/// When `eps` is negative or not finite, or the device refuses.
pub fn heads<'a, B: Backend + 'a, const H: usize, const D: usize>(
    x: impl Into<HeadsView<'a, B, H, D>>,
    eps: f64,
) -> Result<Heads<B, H, D>> {
    let x = x.into();
    Ok(Heads {
        device: x.device.clone(),
        buffer: B::rms_norm(x.device, x.strided(), None, checked_eps(eps)?)?,
        rows: x.rows(),
    })
}

/// The gradient of `x`, `dy` being that of [`heads`]' result: with `n` that result, `dx = (dy − n mean(dy n)) / sqrt(mean(x²) + ε)`.
///
/// # Errors
/// When `x` and `dy` have different numbers of rows, or as [`heads`].
pub fn heads_backward<'x, 'y, B, const H: usize, const D: usize>(
    x: impl Into<HeadsView<'x, B, H, D>>,
    dy: impl Into<HeadsView<'y, B, H, D>>,
    eps: f64,
) -> Result<Heads<B, H, D>>
where
    B: Backend + 'x + 'y,
{
    let (x, dy, eps) = (x.into(), dy.into(), checked_eps(eps)?);
    expect_count("rows of a norm's gradient", dy.rows(), x.rows())?;
    Ok(Heads {
        device: x.device.clone(),
        buffer: B::Gradients::rms_norm_backward(x.device, x.strided(), dy.strided(), None, eps)?,
        rows: x.rows(),
    })
}
