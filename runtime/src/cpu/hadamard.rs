//! The Walsh-Hadamard transform, in place: log2(width) passes of sums and differences.

use rayon::prelude::*;

use super::simd::{Vectorised, dispatch};
use super::{CpuElement, PARALLEL_WORK};
use crate::element::{Real, Scalar};

/// `x ← H x / sqrt(width)` for each run of `width` values.
pub(super) fn hadamard<T: CpuElement>(x: &mut [T], width: usize) {
    debug_assert!(width.is_power_of_two());
    let scale = T::Accum::ONE / T::Accum::from_f64(width as f64).sqrt();
    x.par_chunks_mut(width)
        .with_min_len(PARALLEL_WORK / width + 1)
        .for_each_init(
            || vec![T::Accum::ZERO; width],
            |wide, x| {
                for (wide, &x) in wide.iter_mut().zip(&*x) {
                    *wide = T::Accum::load(x);
                }
                dispatch(Transform { x: wide, scale });
                for (x, &wide) in x.iter_mut().zip(&*wide) {
                    *x = wide.store();
                }
            },
        );
}

struct Transform<'a, A> {
    x: &'a mut [A],
    scale: A,
}

impl<A: Real> Vectorised for Transform<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let mut half = 1;
        while half < self.x.len() {
            for block in self.x.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for x in self.x {
            *x *= self.scale;
        }
    }
}
