//! Output gates: attention's output times the logistic function of a projection, computed in the accumulation type (features B-09, S-13).

use crate::attended::PerHead;
use crate::backend::{Backend, GradientOps};
use crate::error::{Result, expect_count};
use crate::heads::Heads;
use crate::rows::{Rows, RowsView};

/// `W` gates per row: [`PerHead`] by reference, or rows of `W` columns.
pub trait Gates<B: Backend, const W: usize> {
    /// Their gradient, rounded as they are: [`PerHead`] or [`Rows`].
    type Gradient;

    #[doc(hidden)]
    fn count(&self) -> usize;

    /// Gradients of what was gated, and of the gates, from that of the result.
    #[doc(hidden)]
    fn backward(
        self,
        x: &B::Buffer<B::Elem>,
        dy: &B::Buffer<B::Elem>,
    ) -> Result<(B::Buffer<B::Elem>, Self::Gradient)>;
}

impl<B: Backend, const W: usize> Gates<B, W> for &PerHead<B, W> {
    type Gradient = PerHead<B, W>;

    fn count(&self) -> usize {
        PerHead::rows(self)
    }

    fn backward(
        self,
        x: &B::Buffer<B::Elem>,
        dy: &B::Buffer<B::Elem>,
    ) -> Result<(B::Buffer<B::Elem>, PerHead<B, W>)> {
        let (dx, buffer) = B::Gradients::gate_backward(&self.device, x, dy, self.strided())?;
        let gradient = PerHead {
            device: self.device.clone(),
            buffer,
            rows: self.rows,
        };
        Ok((dx, gradient))
    }
}

impl<B: Backend, const W: usize> Gates<B, W> for RowsView<'_, B, W> {
    type Gradient = Rows<B, W>;

    fn count(&self) -> usize {
        RowsView::rows(self)
    }

    fn backward(
        self,
        x: &B::Buffer<B::Elem>,
        dy: &B::Buffer<B::Elem>,
    ) -> Result<(B::Buffer<B::Elem>, Rows<B, W>)> {
        let (dx, buffer) = B::Gradients::gate_backward(self.device, x, dy, self.strided())?;
        let gradient = Rows {
            device: self.device.clone(),
            buffer,
            rows: self.rows(),
        };
        Ok((dx, gradient))
    }
}

impl<B: Backend, const W: usize> Gates<B, W> for &Rows<B, W> {
    type Gradient = Rows<B, W>;

    fn count(&self) -> usize {
        Rows::rows(self)
    }

    fn backward(
        self,
        x: &B::Buffer<B::Elem>,
        dy: &B::Buffer<B::Elem>,
    ) -> Result<(B::Buffer<B::Elem>, Rows<B, W>)> {
        self.view().backward(x, dy)
    }
}

/// One gate per row and head: [`PerHead`] by reference, or rows of `H` columns.
pub trait HeadGates<B: Backend, const H: usize>: Gates<B, H> {
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

/// The gradients of [`per_head`]'s `x`, as it was before the gate, and of the gates, `d` being that of its result: `dx_h = d_h σ(g_h)` and
/// `dg_h = σ'(g_h) (d_h · x_h)`.
///
/// # Errors
/// When there is not a row of gates and one of `d` per row of `x`, or the device refuses.
pub fn per_head_backward<B, G, const H: usize, const D: usize>(
    x: &Heads<B, H, D>,
    gates: G,
    d: &Heads<B, H, D>,
) -> Result<(Heads<B, H, D>, G::Gradient)>
where
    B: Backend,
    G: HeadGates<B, H>,
{
    expect_count("rows of gates", gates.count(), x.rows())?;
    expect_count("rows of a gate's gradient", d.rows(), x.rows())?;
    let (buffer, d_gates) = gates.backward(&x.buffer, &d.buffer)?;
    let dx = Heads {
        device: x.device.clone(),
        buffer,
        rows: x.rows,
    };
    Ok((dx, d_gates))
}

/// One gate per value: [`PerHead`] of `W` by reference, or rows of `W` columns.
pub trait ElementGates<B: Backend, const W: usize>: Gates<B, W> {
    #[doc(hidden)]
    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()>;
}

impl<B: Backend, const W: usize> ElementGates<B, W> for &PerHead<B, W> {
    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()> {
        B::gate_parts(device, x, &self.buffer, 1)
    }
}

impl<B: Backend, const W: usize> ElementGates<B, W> for RowsView<'_, B, W> {
    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()> {
        B::gate(device, x, self.strided())
    }
}

impl<B: Backend, const W: usize> ElementGates<B, W> for &Rows<B, W> {
    fn onto(self, device: &B::Device, x: &mut B::Buffer<B::Elem>) -> Result<()> {
        self.view().onto(device, x)
    }
}

/// Rows of `W` values: [`Rows`], or [`Heads`] whose heads times width are `W`.
pub trait Gated<B: Backend, const W: usize>: Sized {
    #[doc(hidden)]
    fn gated(self, gates: impl ElementGates<B, W>) -> Result<Self>;
    #[doc(hidden)]
    fn gated_backward<G: ElementGates<B, W>>(
        &self,
        gates: G,
        d: &Self,
    ) -> Result<(Self, G::Gradient)>;
}

impl<B: Backend, const W: usize> Gated<B, W> for Rows<B, W> {
    fn gated(mut self, gates: impl ElementGates<B, W>) -> Result<Self> {
        expect_count("rows of gates", gates.count(), self.rows())?;
        gates.onto(&self.device, &mut self.buffer)?;
        Ok(self)
    }

    fn gated_backward<G: ElementGates<B, W>>(
        &self,
        gates: G,
        d: &Self,
    ) -> Result<(Self, G::Gradient)> {
        expect_count("rows of gates", gates.count(), self.rows())?;
        expect_count("rows of a gate's gradient", d.rows(), self.rows())?;
        let (buffer, d_gates) = gates.backward(&self.buffer, &d.buffer)?;
        let dx = Self {
            device: self.device.clone(),
            buffer,
            rows: self.rows,
        };
        Ok((dx, d_gates))
    }
}

impl<B: Backend, const H: usize, const D: usize, const W: usize> Gated<B, W> for Heads<B, H, D> {
    fn gated(mut self, gates: impl ElementGates<B, W>) -> Result<Self> {
        const { assert!(H * D == W, "heads times head width is not the gates' width") };
        expect_count("rows of gates", gates.count(), self.rows())?;
        gates.onto(&self.device, &mut self.buffer)?;
        Ok(self)
    }

    fn gated_backward<G: ElementGates<B, W>>(
        &self,
        gates: G,
        d: &Self,
    ) -> Result<(Self, G::Gradient)> {
        const { assert!(H * D == W, "heads times head width is not the gates' width") };
        expect_count("rows of gates", gates.count(), self.rows())?;
        expect_count("rows of a gate's gradient", d.rows(), self.rows())?;
        let (buffer, d_gates) = gates.backward(&self.buffer, &d.buffer)?;
        let dx = Self {
            device: self.device.clone(),
            buffer,
            rows: self.rows,
        };
        Ok((dx, d_gates))
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

/// The gradients of [`per_element`]'s `x`, as it was before the gate, and of the gates, `d` being that of its result: `dx = d σ(g)` and
/// `dg = d x σ'(g)`.
///
/// # Errors
/// When there is not a row of gates and one of `d` per row of `x`, or the device refuses.
pub fn per_element_backward<B, X, G, const W: usize>(
    x: &X,
    gates: G,
    d: &X,
) -> Result<(X, G::Gradient)>
where
    B: Backend,
    X: Gated<B, W>,
    G: ElementGates<B, W>,
{
    x.gated_backward(gates, d)
}
