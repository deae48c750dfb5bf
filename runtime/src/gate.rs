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

/// Rows of `W` values: [`Rows`], or [`Heads`] whose heads times width are `W`.
pub trait Gated<B: Backend, const W: usize>: Sized {
    #[doc(hidden)]
    fn gated(self, gates: RowsView<'_, B, W>) -> Result<Self>;
}

impl<B: Backend, const W: usize> Gated<B, W> for Rows<B, W> {
    fn gated(mut self, gates: RowsView<'_, B, W>) -> Result<Self> {
        expect_count("rows of gates", gates.rows(), self.rows())?;
        B::gate(&self.device, &mut self.buffer, gates.strided())?;
        Ok(self)
    }
}

impl<B: Backend, const H: usize, const D: usize, const W: usize> Gated<B, W> for Heads<B, H, D> {
    fn gated(mut self, gates: RowsView<'_, B, W>) -> Result<Self> {
        const { assert!(H * D == W, "heads times head width is not the gates' width") };
        expect_count("rows of gates", gates.rows(), self.rows())?;
        B::gate(&self.device, &mut self.buffer, gates.strided())?;
        Ok(self)
    }
}

/// `x · σ(g)`, one gate for each value.
///
/// # Errors
/// When there is not a row of gates per row of `x`, or the device refuses.
pub fn per_element<'a, B, X, const W: usize>(
    x: X,
    gates: impl Into<RowsView<'a, B, W>>,
) -> Result<X>
where
    B: Backend + 'a,
    X: Gated<B, W>,
{
    x.gated(gates.into())
}
