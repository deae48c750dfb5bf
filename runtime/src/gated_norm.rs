//! A norm with a low-rank gate on its own output (features B-12).

use crate::backend::{Backend, GradientOps};
use crate::error::Result;
use crate::gate;
use crate::linear::Linear;
use crate::norm::{Norm, RmsNorm};
use crate::parameters::GatedNormParameters;
use crate::rows::{Rows, RowsView};
use crate::weights::Selected;

/// `y = n · σ(W₂ silu(W₁ n))` with `n = RMSNorm(x)`, W₁ `[RANK, W]`, W₂ `[W, RANK]`.
#[derive(Debug)]
pub struct GatedRmsNorm<B: Backend, const W: usize, const RANK: usize> {
    pub(crate) norm: RmsNorm<B, W>,
    pub(crate) down: Linear<B, W, RANK>,
    pub(crate) up: Linear<B, RANK, W>,
}

impl<B: Backend, const W: usize, const RANK: usize> GatedRmsNorm<B, W, RANK> {
    /// Loads γ from `NAME.norm.weight`, W₁ from `NAME.mlp.fc1.weight` and W₂ from `NAME.mlp.fc2.weight`.
    ///
    /// # Errors
    /// When a tensor is unreadable or misshapen, or `eps` is negative or not finite.
    pub fn load(weights: &Selected<'_>, name: &str, eps: f64, device: &B::Device) -> Result<Self> {
        let linear = |part: &str| format!("{name}.mlp.{part}");
        Ok(Self {
            norm: RmsNorm::load(weights, &format!("{name}.norm"), eps, device)?,
            down: Linear::load(weights, &[&linear("fc1")], device)?,
            up: Linear::load(weights, &[&linear("fc2")], device)?,
        })
    }

    /// The normalised and gated rows.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a,
    {
        let mut normed = self.norm.forward(x)?;
        let mut inner = self.down.forward(&normed)?;
        B::silu(&inner.device, &mut inner.buffer)?;
        let gate = self.up.forward(&inner)?;
        B::gate(&normed.device, &mut normed.buffer, gate.view().strided())?;
        Ok(normed)
    }

    /// The gradient of `x`, `dy` being that of [`GatedRmsNorm::forward`]'s result; those of γ, W₁ and W₂ are added to `gradient`. What lies
    /// between the norm and the gate is computed again.
    ///
    /// # Errors
    /// When `x` and `dy` have different numbers of rows, or the device refuses.
    pub fn backward<'x, 'y>(
        &self,
        x: impl Into<RowsView<'x, B, W>>,
        dy: impl Into<RowsView<'y, B, W>>,
        gradient: &mut GatedNormParameters<B, W, RANK>,
    ) -> Result<Rows<B, W>>
    where
        B: 'x + 'y,
    {
        let (x, dy) = (x.into(), dy.into());
        let normed = self.norm.forward(x)?;
        let inner = self.down.forward(&normed)?;
        let mut lit = inner.copied()?;
        B::silu(&lit.device, &mut lit.buffer)?;
        let gates = self.up.forward(&lit)?;
        let (mut d_normed, d_gates) = gate::per_element_backward(&normed, &gates, &dy.to_rows()?)?;
        gradient.up.accumulate(&lit, &d_gates)?;
        let mut d_inner = self.up.backward_input(&d_gates)?;
        B::Gradients::silu_backward(&inner.device, &inner.buffer, &mut d_inner.buffer)?;
        gradient.down.accumulate(&normed, &d_inner)?;
        d_normed.add(&self.down.backward_input(&d_inner)?)?;
        self.norm.backward(x, &d_normed, &mut gradient.norm)
    }
}

impl<B: Backend, const W: usize, const RANK: usize> Norm<B, W> for GatedRmsNorm<B, W, RANK> {
    fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a,
    {
        Self::forward(self, x)
    }
}
