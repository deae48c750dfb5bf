//! Output gates: attention's output times the logistic function of a projection, computed in the accumulation type (features B-09, S-13).

use crate::attended::PerHead;
use crate::backend::Backend;
use crate::error::{Result, expect_count};
use crate::heads::Heads;
use crate::rows::{Rows, RowsView};

/// One gate per row and head: [`PerHead`] by reference, or rows of `H` columns.
pub trait HeadGates<B: Backend, const H: usize> {
    #[doc(hidden)]
    fn apply<const D: usize>(self, x: &mut Heads<B, H, D>) -> Result<()>;
}

impl<B: Backend, const H: usize> HeadGates<B, H> for &PerHead<B, H> {
    fn apply<const D: usize>(self, x: &mut Heads<B, H, D>) -> Result<()> {
        expect_count("rows of gates", self.rows(), x.rows())?;
        B::gate_parts(&x.device, &mut x.buffer, &self.buffer, D)
    }
}

impl<B: Backend, const H: usize> HeadGates<B, H> for RowsView<'_, B, H> {
    fn apply<const D: usize>(self, x: &mut Heads<B, H, D>) -> Result<()> {
        (&self.to_per_head()?).apply(x)
    }
}

impl<B: Backend, const H: usize> HeadGates<B, H> for &Rows<B, H> {
    fn apply<const D: usize>(self, x: &mut Heads<B, H, D>) -> Result<()> {
        self.view().apply(x)
    }
}

/// `x_h · σ(g_h)`: one gate for each head of each row.
///
/// # Errors
/// When there is not a row of gates per row of `x`, or the device refuses.
pub fn per_head<B: Backend, const H: usize, const D: usize>(
    mut x: Heads<B, H, D>,
    gates: impl HeadGates<B, H>,
) -> Result<Heads<B, H, D>> {
    gates.apply(&mut x)?;
    Ok(x)
}

/// One gate per value: [`PerHead`] of `W` by reference, or rows of `W` columns.
pub trait ElementGates<B: Backend, const W: usize> {
    #[doc(hidden)]
    fn gates(&self) -> usize;
    #[doc(hidden)]
    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()>;
}

impl<B: Backend, const W: usize> ElementGates<B, W> for &PerHead<B, W> {
    fn gates(&self) -> usize {
        PerHead::rows(self)
    }

    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()> {
        B::gate_parts(device, x, &self.buffer, 1)
    }
}

impl<B: Backend, const W: usize> ElementGates<B, W> for RowsView<'_, B, W> {
    fn gates(&self) -> usize {
        RowsView::rows(self)
    }

    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()> {
        B::gate(device, x, self.strided())
    }
}

impl<B: Backend, const W: usize> ElementGates<B, W> for &Rows<B, W> {
    fn gates(&self) -> usize {
        Rows::rows(self)
    }

    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()> {
        self.view().onto(device, x)
    }
}

/// Rows of `W` values: [`Rows`], or [`Heads`] whose heads times width are `W`.
pub trait Gated<B: Backend, const W: usize>: Sized {
    #[doc(hidden)]
    fn gated(self, gates: impl ElementGates<B, W>) -> Result<Self>;
}

impl<B: Backend, const W: usize> Gated<B, W> for Rows<B, W> {
    fn gated(mut self, gates: impl ElementGates<B, W>) -> Result<Self> {
        expect_count("rows of gates", gates.gates(), self.rows())?;
        gates.onto(&self.device, &mut self.buffer)?;
        Ok(self)
    }
}

impl<B: Backend, const H: usize, const D: usize, const W: usize> Gated<B, W> for Heads<B, H, D> {
    fn gated(mut self, gates: impl ElementGates<B, W>) -> Result<Self> {
        const { assert!(H * D == W, "heads times head width is not the gates' width") };
        expect_count("rows of gates", gates.gates(), self.rows())?;
        gates.onto(&self.device, &mut self.buffer)?;
        Ok(self)
    }
}

/// `x · σ(g)`, one gate for each value.
///
/// # Errors
/// When there is not a row of gates per row of `x`, or the device refuses.
pub fn per_element<B, X, const W: usize>(x: X, gates: impl ElementGates<B, W>) -> Result<X>
where
    B: Backend,
    X: Gated<B, W>,
{
    x.gated(gates)
}
