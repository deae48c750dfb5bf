//! Norms over the width of a row, alone and in front of a linear layer.

use std::marker::PhantomData;

use crate::backend::{Backend, Gamma, GradientOps, Strided};
use crate::error::{Error, Result, expect_count};
use crate::heads::{Heads, HeadsView};
use crate::linear::Linear;
use crate::parameters::{NormParameters, shifted};
use crate::prologue::{Normed, NormedRows};
use crate::rows::{Rows, RowsView};
use crate::weights::Selected;

/// A normalisation of rows of width `W`.
pub trait Norm<B: Backend, const W: usize> {
    /// The normalised rows.
    ///
    /// # Errors
    /// When the device refuses.
    fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a;
}

/// `y = γ · x / sqrt(mean(x²) + ε)`.
#[derive(Debug)]
pub struct RmsNorm<B: Backend, const W: usize> {
    device: B::Device,
    pub(crate) gamma: B::Buffer<B::Elem>,
    eps: f64,
}

/// `y = γ · (x − mean(x)) / sqrt(var(x) + ε) + β`, var the biased variance.
#[derive(Debug)]
pub struct LayerNorm<B: Backend, const W: usize> {
    device: B::Device,
    pub(crate) gamma: B::Buffer<B::Elem>,
    pub(crate) beta: B::Buffer<B::Elem>,
    eps: f64,
}

fn vector<B: Backend, const W: usize>(
    weights: &Selected<'_>,
    name: &str,
    device: &B::Device,
) -> Result<B::Buffer<B::Elem>> {
    let (shape, values) = weights.read::<B::Elem>(name)?;
    if shape != [W] || values.len() != W {
        return Err(Error::shape(name, &shape, &[W]));
    }
    B::upload(device, values)
}

pub(crate) fn checked_eps(eps: f64) -> Result<f64> {
    if eps >= 0.0 && eps.is_finite() {
        Ok(eps)
    } else {
        Err(Error::BadConstant(format!(
            "a norm's epsilon is {eps}, wanted a finite number of at least 0"
        )))
    }
}

impl<B: Backend, const W: usize> RmsNorm<B, W> {
    /// Loads γ from `NAME.weight`.
    ///
    /// # Errors
    /// When the tensor is unreadable or not `[W]`, or `eps` is negative or not finite.
    pub fn load(weights: &Selected<'_>, name: &str, eps: f64, device: &B::Device) -> Result<Self> {
        let gamma = vector::<B, W>(weights, &format!("{name}.weight"), device)?;
        Ok(Self {
            device: device.clone(),
            gamma,
            eps: checked_eps(eps)?,
        })
    }

    /// The norm of this γ.
    ///
    /// # Errors
    /// When γ does not hold `W` values, or `eps` is negative or not finite.
    pub fn new(device: &B::Device, gamma: Vec<B::Elem>, eps: f64) -> Result<Self> {
        if gamma.len() != W {
            return Err(Error::shape("a norm's weight", &[gamma.len()], &[W]));
        }
        Ok(Self {
            device: device.clone(),
            gamma: B::upload(device, gamma)?,
            eps: checked_eps(eps)?,
        })
    }

    /// The normalised rows, not yet computed.
    pub fn of<'a>(&'a self, x: impl Into<RowsView<'a, B, W>>) -> Normed<'a, B, W> {
        Normed {
            device: &self.device,
            rows: NormedRows {
                x: x.into().strided(),
                gamma: &self.gamma,
                beta: None,
                eps: self.eps,
            },
        }
    }

    /// The normalised rows.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a,
    {
        let x = x.into();
        let buffer = B::rms_norm(&self.device, x.strided(), Some(&self.gamma), self.eps)?;
        Ok(Rows {
            device: self.device.clone(),
            buffer,
            rows: x.rows(),
        })
    }

    /// Every head of every row normalised by itself, all heads with the same weight.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn heads<'a, const H: usize>(
        &self,
        x: impl Into<HeadsView<'a, B, H, W>>,
    ) -> Result<Heads<B, H, W>>
    where
        B: 'a,
    {
        let x = x.into();
        let buffer = B::rms_norm(&self.device, x.strided(), Some(&self.gamma), self.eps)?;
        Ok(Heads {
            device: self.device.clone(),
            buffer,
            rows: x.rows(),
        })
    }

    /// The gradient of `x`, `dy` being that of [`RmsNorm::forward`]'s result; that of γ is added to `gradient`.
    ///
    /// With `n = x / sqrt(mean(x²) + ε)` and `g = γ dy`: `dx = (g − n mean(g n)) / sqrt(mean(x²) + ε)`, `dγ += Σ n dy`.
    ///
    /// # Errors
    /// When `x` and `dy` have different numbers of rows, or the device refuses.
    pub fn backward<'x, 'y>(
        &self,
        x: impl Into<RowsView<'x, B, W>>,
        dy: impl Into<RowsView<'y, B, W>>,
        gradient: &mut NormParameters<B, W>,
    ) -> Result<Rows<B, W>>
    where
        B: 'x + 'y,
    {
        let (x, dy) = (x.into(), dy.into());
        Ok(Rows {
            device: self.device.clone(),
            buffer: self.back(x.strided(), dy.strided(), gradient)?,
            rows: x.rows(),
        })
    }

    /// The gradient of `x`, `dy` being that of [`RmsNorm::heads`]' result; that of γ, which all heads share, is added to `gradient`.
    ///
    /// # Errors
    /// As [`RmsNorm::backward`].
    pub fn heads_backward<'x, 'y, const H: usize>(
        &self,
        x: impl Into<HeadsView<'x, B, H, W>>,
        dy: impl Into<HeadsView<'y, B, H, W>>,
        gradient: &mut NormParameters<B, W>,
    ) -> Result<Heads<B, H, W>>
    where
        B: 'x + 'y,
    {
        let (x, dy) = (x.into(), dy.into());
        Ok(Heads {
            device: self.device.clone(),
            buffer: self.back(x.strided(), dy.strided(), gradient)?,
            rows: x.rows(),
        })
    }

    fn back(
        &self,
        x: Strided<'_, B, B::Elem>,
        dy: Strided<'_, B, B::Elem>,
        gradient: &mut NormParameters<B, W>,
    ) -> Result<B::Buffer<B::Elem>> {
        expect_count("rows of a norm's gradient", dy.rows, x.rows)?;
        let gamma = Gamma {
            values: &self.gamma,
            gradient: &mut gradient.gamma.values,
        };
        B::Gradients::rms_norm_backward(&self.device, x, dy, Some(gamma), self.eps)
    }
}

impl<B: Backend, const W: usize> LayerNorm<B, W> {
    /// Loads γ from `NAME.weight` and β from `NAME.bias`.
    ///
    /// # Errors
    /// When a tensor is unreadable or not `[W]`, or `eps` is negative or not finite.
    pub fn load(weights: &Selected<'_>, name: &str, eps: f64, device: &B::Device) -> Result<Self> {
        let gamma = vector::<B, W>(weights, &format!("{name}.weight"), device)?;
        let beta = vector::<B, W>(weights, &format!("{name}.bias"), device)?;
        Ok(Self {
            device: device.clone(),
            gamma,
            beta,
            eps: checked_eps(eps)?,
        })
    }

    /// The norm of this γ and β.
    ///
    /// # Errors
    /// When γ or β does not hold `W` values, or `eps` is negative or not finite.
    pub fn new(
        device: &B::Device,
        gamma: Vec<B::Elem>,
        beta: Vec<B::Elem>,
        eps: f64,
    ) -> Result<Self> {
        for vector in [&gamma, &beta] {
            if vector.len() != W {
                return Err(Error::shape("a norm's weight", &[vector.len()], &[W]));
            }
        }
        let (gamma, beta) = (B::upload(device, gamma)?, B::upload(device, beta)?);
        Ok(Self {
            device: device.clone(),
            gamma,
            beta,
            eps: checked_eps(eps)?,
        })
    }

    /// The normalised rows, not yet computed.
    pub fn of<'a>(&'a self, x: impl Into<RowsView<'a, B, W>>) -> Normed<'a, B, W> {
        Normed {
            device: &self.device,
            rows: NormedRows {
                x: x.into().strided(),
                gamma: &self.gamma,
                beta: Some(&self.beta),
                eps: self.eps,
            },
        }
    }

    /// The normalised rows.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a,
    {
        let x = x.into();
        let buffer = B::layer_norm(&self.device, x.strided(), &self.gamma, &self.beta, self.eps)?;
        Ok(Rows {
            device: self.device.clone(),
            buffer,
            rows: x.rows(),
        })
    }

    /// Every head of every row normalised by itself, all heads with the same weight.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn heads<'a, const H: usize>(
        &self,
        x: impl Into<HeadsView<'a, B, H, W>>,
    ) -> Result<Heads<B, H, W>>
    where
        B: 'a,
    {
        let x = x.into();
        let buffer = B::layer_norm(&self.device, x.strided(), &self.gamma, &self.beta, self.eps)?;
        Ok(Heads {
            device: self.device.clone(),
            buffer,
            rows: x.rows(),
        })
    }

    /// The gradient of `x`, `dy` being that of [`LayerNorm::forward`]'s result; those of γ and β are added to `gradient`.
    ///
    /// With `n = (x − mean(x)) / sqrt(var(x) + ε)` and `g = γ dy`: `dx = (g − mean(g) − n mean(g n)) / sqrt(var(x) + ε)`,
    /// `dγ += Σ n dy`, `dβ += Σ dy`.
    ///
    /// # Errors
    /// When `x` and `dy` have different numbers of rows, `gradient` is an RMSNorm's, or the device refuses.
    pub fn backward<'x, 'y>(
        &self,
        x: impl Into<RowsView<'x, B, W>>,
        dy: impl Into<RowsView<'y, B, W>>,
        gradient: &mut NormParameters<B, W>,
    ) -> Result<Rows<B, W>>
    where
        B: 'x + 'y,
    {
        let (x, dy) = (x.into(), dy.into());
        Ok(Rows {
            device: self.device.clone(),
            buffer: self.back(x.strided(), dy.strided(), gradient)?,
            rows: x.rows(),
        })
    }

    /// The gradient of `x`, `dy` being that of [`LayerNorm::heads`]' result; those of γ and β, which all heads share, are added to `gradient`.
    ///
    /// # Errors
    /// As [`LayerNorm::backward`].
    pub fn heads_backward<'x, 'y, const H: usize>(
        &self,
        x: impl Into<HeadsView<'x, B, H, W>>,
        dy: impl Into<HeadsView<'y, B, H, W>>,
        gradient: &mut NormParameters<B, W>,
    ) -> Result<Heads<B, H, W>>
    where
        B: 'x + 'y,
    {
        let (x, dy) = (x.into(), dy.into());
        Ok(Heads {
            device: self.device.clone(),
            buffer: self.back(x.strided(), dy.strided(), gradient)?,
            rows: x.rows(),
        })
    }

    fn back(
        &self,
        x: Strided<'_, B, B::Elem>,
        dy: Strided<'_, B, B::Elem>,
        gradient: &mut NormParameters<B, W>,
    ) -> Result<B::Buffer<B::Elem>> {
        expect_count("rows of a norm's gradient", dy.rows, x.rows)?;
        let d_beta = &mut shifted(gradient.beta.as_mut())?.values;
        let d_gamma = &mut gradient.gamma.values;
        B::Gradients::layer_norm_backward(
            &self.device,
            x,
            dy,
            &self.gamma,
            self.eps,
            d_gamma,
            d_beta,
        )
    }
}

impl<B: Backend, const W: usize> Norm<B, W> for RmsNorm<B, W> {
    fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a,
    {
        Self::forward(self, x)
    }
}

impl<B: Backend, const W: usize> Norm<B, W> for LayerNorm<B, W> {
    fn forward<'a>(&self, x: impl Into<RowsView<'a, B, W>>) -> Result<Rows<B, W>>
    where
        B: 'a,
    {
        Self::forward(self, x)
    }
}

/// A norm fused into the linear behind it: `y = norm(x) Wᵀ + b`. Its input is the un-normalised row, and that is what a caller keeps.
#[derive(Debug)]
pub struct LayerNormLinear<B: Backend, N: Norm<B, IN>, const IN: usize, const OUT: usize> {
    pub(crate) norm: N,
    pub(crate) linear: Linear<B, IN, OUT>,
    backend: PhantomData<B>,
}

impl<B: Backend, N: Norm<B, IN>, const IN: usize, const OUT: usize> LayerNormLinear<B, N, IN, OUT> {
    /// The norm and the linear it feeds.
    pub fn new(norm: N, linear: Linear<B, IN, OUT>) -> Self {
        Self {
            norm,
            linear,
            backend: PhantomData,
        }
    }

    /// `norm(x) Wᵀ + b`.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forward<'a>(&self, x: impl Into<RowsView<'a, B, IN>>) -> Result<Rows<B, OUT>>
    where
        B: 'a,
    {
        self.linear.forward(&self.norm.forward(x)?)
    }

    /// The norm alone: a latent cache holds its output.
    pub fn norm(&self) -> &N {
        &self.norm
    }

    /// The linear alone: expands what a latent cache holds.
    pub fn linear(&self) -> &Linear<B, IN, OUT> {
        &self.linear
    }
}
