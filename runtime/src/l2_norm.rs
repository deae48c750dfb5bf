//! The norm without a weight that generic self-attention may put behind rope (features C-04, R-10: `qk_l2_norm`).

use crate::backend::Backend;
use crate::error::Result;
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
