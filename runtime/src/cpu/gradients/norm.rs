//! Gradients of RMSNorm and LayerNorm.

use rayon::prelude::*;

use super::super::simd::{Vectorised, dispatch};
use super::super::zeros;
use super::sums::{add_in_order, block_of, dot, sum};
use super::window::Window;
use crate::element::{Element, Real, Scalar};
use crate::error::Result;

/// With `n` the normalised line, `i` what it was multiplied by, and `g = dy · γ`: `dx = i (g − n · mean(g n))` for RMSNorm, and
/// `dx = i (g − mean(g) − n · mean(g n))` for LayerNorm, which is what a `d_beta` asks for; `dγ += Σ dy · n` and `dβ += Σ dy`.
pub(super) fn norm<T: Element>(
    x: Window<'_, T>,
    dy: Window<'_, T>,
    gamma: Option<&[T]>,
    eps: f64,
    d_gamma: Option<&mut [T::Accum]>,
    d_beta: Option<&mut [T::Accum]>,
) -> Result<Vec<T>> {
    let width = x.width;
    let mut dx = zeros(x.lines() * width)?;
    if dx.is_empty() {
        return Ok(dx);
    }
    let ones;
    let gamma = match gamma {
        Some(gamma) => gamma,
        None => {
            ones = vec![T::from_f32(1.0); width];
            &ones
        }
    };
    let counted = |gradient: bool| if gradient { width } else { 0 };
    let (gammas, betas) = (counted(d_gamma.is_some()), counted(d_beta.is_some()));
    let block = block_of(width);
    let partials: Vec<(Vec<T::Accum>, Vec<T::Accum>)> = dx
        .par_chunks_mut(block * width)
        .enumerate()
        .map(|(i, dx)| {
            let mut d_gamma = vec![T::Accum::ZERO; gammas];
            let mut d_beta = vec![T::Accum::ZERO; betas];
            dispatch(Lines {
                x,
                dy,
                first: i * block,
                gamma,
                eps: T::Accum::from_f64(eps),
                dx,
                d_gamma: &mut d_gamma,
                d_beta: &mut d_beta,
            });
            (d_gamma, d_beta)
        })
        .collect();
    let (gammas, betas): (Vec<_>, Vec<_>) = partials.into_iter().unzip();
    if let Some(d_gamma) = d_gamma {
        add_in_order(d_gamma, &gammas);
    }
    if let Some(d_beta) = d_beta {
        add_in_order(d_beta, &betas);
    }
    Ok(dx)
}

/// Some neighbouring lines. Gradients of γ and β that nobody asked for are empty.
struct Lines<'a, T: Element> {
    x: Window<'a, T>,
    dy: Window<'a, T>,
    first: usize,
    gamma: &'a [T],
    eps: T::Accum,
    dx: &'a mut [T],
    d_gamma: &'a mut [T::Accum],
    d_beta: &'a mut [T::Accum],
}

impl<T: Element> Vectorised for Lines<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.x.width;
        let count = T::Accum::from_f64(width as f64);
        let centred = !self.d_beta.is_empty();
        let mut normed = vec![T::Accum::ZERO; width];
        let mut g = vec![T::Accum::ZERO; width];
        for (i, dx) in self.dx.chunks_exact_mut(width).enumerate() {
            let (x, dy) = (self.x.line(self.first + i), self.dy.line(self.first + i));
            for (n, &x) in normed.iter_mut().zip(x) {
                *n = T::Accum::load(x);
            }
            if centred {
                let mean = sum(&normed) / count;
                for n in &mut normed {
                    *n = *n - mean;
                }
            }
            let variance = dot::<_, T::Accum, FMA>(&normed, &normed) / count;
            let inverse = T::Accum::ONE / (variance + self.eps).sqrt();
            for (((n, g), &dy), &gamma) in normed.iter_mut().zip(&mut g).zip(dy).zip(self.gamma) {
                *n *= inverse;
                *g = T::Accum::load(dy) * T::Accum::load(gamma);
            }
            let mean = if centred {
                sum(&g) / count
            } else {
                T::Accum::ZERO
            };
            let along = dot::<_, T::Accum, FMA>(&g, &normed) / count;
            for ((dx, &n), &g) in dx.iter_mut().zip(&normed).zip(&g) {
                *dx = (n.madd::<FMA>(-along, g - mean) * inverse).store();
            }
            for ((d_gamma, &n), &dy) in self.d_gamma.iter_mut().zip(&normed).zip(dy) {
                *d_gamma = n.madd::<FMA>(T::Accum::load(dy), *d_gamma);
            }
            for (d_beta, &dy) in self.d_beta.iter_mut().zip(dy) {
                *d_beta += T::Accum::load(dy);
            }
        }
    }
}
