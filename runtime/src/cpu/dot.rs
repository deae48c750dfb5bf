//! Sums of products of two lines.

use super::CpuElement;
use super::simd::{Vectorised, dispatch};
use super::skinny::{LANES, folded};
use crate::element::Real;

/// `Σ a b` in the accumulation type.
pub(super) fn dot<T: CpuElement>(a: &[T], b: &[T]) -> T::Accum {
    dispatch(Dot { a, b })
}

struct Dot<'a, T> {
    a: &'a [T],
    b: &'a [T],
}

impl<T: CpuElement> Vectorised for Dot<'_, T> {
    type Output = T::Accum;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> T::Accum {
        let mut lanes = [T::Accum::ZERO; LANES];
        let (a, b) = (self.a.chunks_exact(LANES), self.b.chunks_exact(LANES));
        let rest = a.remainder().iter().zip(b.remainder());
        let rest = rest.fold(T::Accum::ZERO, |sum, (&a, &b)| {
            T::Accum::load(a).madd::<FMA>(Real::load(b), sum)
        });
        for (a, b) in a.zip(b) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane = T::Accum::load(a).madd::<FMA>(Real::load(b), *lane);
            }
        }
        folded(lanes) + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_loop_for_all_lengths() {
        for len in [0, 1, 15, 16, 17, 50, 64] {
            let a: Vec<f64> = (0..len).map(|i| f64::from(i).sin()).collect();
            let b: Vec<f64> = (0..len).map(|i| f64::from(i).cos()).collect();
            let wanted: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((dot(&a, &b) - wanted).abs() < 1e-13);
        }
    }
}
