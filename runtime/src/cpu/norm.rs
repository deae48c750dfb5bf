//! RMSNorm and LayerNorm, row by row and head by head.

use rayon::prelude::*;

use super::simd::{Vectorised, dispatch};
use super::skinny::folded;
use super::{Cpu, CpuElement, PARALLEL_WORK, part};
use crate::backend::Strided;
use crate::element::{Real, Scalar};

/// RMSNorm, or LayerNorm where there is a `beta`.
pub(super) fn norm<T: CpuElement>(
    x: Strided<'_, Cpu<T>, T>,
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
    eps: f64,
) -> Vec<T> {
    let mut y = vec![T::default(); x.rows * x.heads * x.width];
    if let Some(per_task) = PARALLEL_WORK.checked_div(x.width) {
        y.par_chunks_mut(x.width)
            .with_min_len(per_task + 1)
            .enumerate()
            .for_each(|(i, y)| {
                dispatch(OneRow::<T> {
                    x: part(&x, i / x.heads, i % x.heads),
                    gamma,
                    beta,
                    eps: T::Accum::from_f64(eps),
                    y,
                });
            });
    }
    y
}

struct OneRow<'a, T: CpuElement> {
    x: &'a [T],
    gamma: Option<&'a [T]>,
    beta: Option<&'a [T]>,
    eps: T::Accum,
    y: &'a mut [T],
}

impl<T: CpuElement> Vectorised for OneRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let count = T::Accum::from_f64(self.x.len() as f64);
        let mean = if self.beta.is_some() {
            sum(self.x, |x: T::Accum| x) / count
        } else {
            T::Accum::ZERO
        };
        let variance = sum(self.x, |x: T::Accum| (x - mean) * (x - mean)) / count;
        let inverse = T::Accum::ONE / (variance + self.eps).sqrt();
        let Some(gamma) = self.gamma else {
            for (y, &x) in self.y.iter_mut().zip(self.x) {
                *y = ((T::Accum::load(x) - mean) * inverse).store();
            }
            return;
        };
        let Some(beta) = self.beta else {
            for ((y, &x), &gamma) in self.y.iter_mut().zip(self.x).zip(gamma) {
                *y = ((T::Accum::load(x) - mean) * inverse * T::Accum::load(gamma)).store();
            }
            return;
        };
        for (((y, &x), &gamma), &beta) in self.y.iter_mut().zip(self.x).zip(gamma).zip(beta) {
            let scaled = (T::Accum::load(x) - mean) * inverse;
            *y = scaled
                .madd::<FMA>(T::Accum::load(gamma), T::Accum::load(beta))
                .store();
        }
    }
}

/// Sixteen running sums, joined in pairs: the rounding error of a row of thousands stays that of a few hundred.
#[inline(always)]
fn sum<A: Real, S: Scalar>(values: &[S], term: impl Fn(A) -> A) -> A {
    let mut sums = [A::ZERO; 16];
    let chunks = values.chunks_exact(16);
    let mut rest = A::ZERO;
    for &value in chunks.remainder() {
        rest += term(A::load(value));
    }
    for chunk in chunks {
        for l in 0..16 {
            sums[l] += term(A::load(chunk[l]));
        }
    }
    folded(sums) + rest
}
