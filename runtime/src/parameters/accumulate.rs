//! Gradients of a linear's weight and bias, added to what is there.

use crate::absorb::assert_rows;
use crate::attended::PerHead;
use crate::backend::{Accum, Backend, GradientOps, HeadMatrices, Strided};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count};
use crate::heads::{Heads, HeadsView};
use crate::rows::RowsView;

use super::groups::LinearParameters;

impl<B: Backend, const IN: usize, const OUT: usize> LinearParameters<B, IN, OUT> {
    /// Of `y = x Wᵀ + b`: `dW += dyᵀ x`, and `db += Σ dy` where there is a bias. Nothing is rounded to the element type.
    ///
    /// # Errors
    /// When `x` and `dy` have different numbers of rows, or the device refuses.
    pub fn accumulate<'x, 'y>(
        &mut self,
        x: impl Into<RowsView<'x, B, IN>>,
        dy: impl Into<RowsView<'y, B, OUT>>,
    ) -> Result<()>
    where
        B: 'x + 'y,
    {
        self.add(x.into(), dy.into().strided())
    }

    /// As [`LinearParameters::accumulate`], for the gradient of an [`AccumLinear`](crate::AccumLinear)'s result.
    ///
    /// # Errors
    /// As [`LinearParameters::accumulate`].
    pub fn accumulate_per_head<'a>(
        &mut self,
        x: impl Into<RowsView<'a, B, IN>>,
        dy: &PerHead<B, OUT>,
    ) -> Result<()>
    where
        B: 'a,
    {
        self.add(x.into(), dy.strided())
    }

    fn add<S: Scalar>(&mut self, x: RowsView<'_, B, IN>, dy: Strided<'_, B, S>) -> Result<()> {
        expect_count("rows of a linear's gradient", dy.rows, x.rows())?;
        let device = &self.weight.device;
        let transposed = HeadMatrices {
            offset: 0,
            head_stride: IN * OUT,
            k_stride: 1,
            n_stride: IN,
            columns: OUT,
        };
        let weight = &mut self.weight.values;
        B::Gradients::outer_products(device, x.strided(), dy, weight, transposed)?;
        match &mut self.bias {
            Some(bias) => B::Gradients::column_sums(device, dy, &mut bias.values),
            None => Ok(()),
        }
    }

    /// Of [`absorb::queries`](crate::absorb::queries), these being the up projection's parameters: `dW_UK,h += Σ q_n,h dq̃_hᵀ`.
    ///
    /// # Errors
    /// When the two have different numbers of rows, there is a bias, or the device refuses.
    pub fn accumulate_queries<const H: usize, const N: usize>(
        &mut self,
        q_nope: HeadsView<'_, B, H, N>,
        d_q_latent: &Heads<B, H, IN>,
    ) -> Result<()> {
        const { assert_rows(OUT, H, N) };
        self.add_by_head(q_nope.strided(), d_q_latent.view().strided(), 0)
    }

    /// Of [`absorb::values`](crate::absorb::values), these being the up projection's parameters: `dW_UV,h += Σ do_h z_hᵀ`.
    ///
    /// # Errors
    /// As [`LinearParameters::accumulate_queries`].
    pub fn accumulate_values<const H: usize, const V: usize>(
        &mut self,
        z: &Heads<B, H, IN>,
        d_out: &Heads<B, H, V>,
    ) -> Result<()> {
        const { assert_rows(OUT, H, V) };
        self.add_by_head(d_out.view().strided(), z.view().strided(), OUT / H - V)
    }

    /// Adds `Σ left_h right_hᵀ` to rows from `first` on of each head's rows.
    fn add_by_head(
        &mut self,
        left: Strided<'_, B, B::Elem>,
        right: Strided<'_, B, B::Elem>,
        first: usize,
    ) -> Result<()> {
        expect_count("rows of an absorbed gradient", right.rows, left.rows)?;
        if self.bias.is_some() {
            return Err(Error::BadConstant(
                "an up projection with a bias has no absorbed form".to_owned(),
            ));
        }
        let matrices = HeadMatrices {
            offset: first * IN,
            head_stride: OUT / left.heads * IN,
            k_stride: IN,
            n_stride: 1,
            columns: IN,
        };
        let weight: &mut B::Buffer<Accum<B>> = &mut self.weight.values;
        B::Gradients::outer_products(&self.weight.device, left, right, weight, matrices)
    }
}
