//! Norms over the width of a row, alone and in front of a linear layer.

use std::marker::PhantomData;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::heads::{Heads, HeadsView};
use crate::linear::Linear;
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
