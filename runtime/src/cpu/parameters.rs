//! Parameters on the CPU: loops over flat values, cut at fixed places.

use half::bf16;
use rayon::prelude::*;

use super::{Cpu, CpuDevice, CpuElement, PARALLEL_WORK};
use crate::element::{Element, Real, Scalar};
use crate::error::Result;
use crate::parameters::ParameterOps;

/// The loops over one element type's parameters, compiled in this crate as those of [`CpuElement`] are.
pub trait CpuParameters: Element {
    #[doc(hidden)]
    fn widen(from: &[Self], to: &mut [Self::Accum]);

    #[doc(hidden)]
    fn narrow(from: &[Self::Accum], to: &mut [Self]);

    #[doc(hidden)]
    fn add(x: &mut [Self::Accum], y: &[Self::Accum]);

    #[doc(hidden)]
    fn scale_rows(x: &mut [Self::Accum], factors: &[Self::Accum], width: usize);

    #[doc(hidden)]
    fn square_norm(x: &[Self::Accum]) -> f64;

    #[doc(hidden)]
    fn is_finite(x: &[Self::Accum]) -> bool;
}

macro_rules! compiled {
    ($($type:ty),*) => {$(
        impl CpuParameters for $type {
            fn widen(from: &[Self], to: &mut [Self::Accum]) {
                zip(to, from, |to, from| *to = Real::load(from));
            }

            fn narrow(from: &[Self::Accum], to: &mut [Self]) {
                zip(to, from, |to, from| *to = Real::store(from));
            }

            fn add(x: &mut [Self::Accum], y: &[Self::Accum]) {
                zip(x, y, |x, y| *x += y);
            }

            fn scale_rows(x: &mut [Self::Accum], factors: &[Self::Accum], width: usize) {
                if width == 0 {
                    return;
                }
                x.par_chunks_mut(width)
                    .with_min_len(PARALLEL_WORK / width + 1)
                    .zip(factors)
                    .for_each(|(x, &factor)| x.iter_mut().for_each(|x| *x *= factor));
            }

            fn square_norm(x: &[Self::Accum]) -> f64 {
                let parts: Vec<f64> = x.par_chunks(PARALLEL_WORK).map(squares).collect();
                parts.iter().sum()
            }

            fn is_finite(x: &[Self::Accum]) -> bool {
                x.par_chunks(PARALLEL_WORK)
                    .all(|x| x.iter().all(|x| x.to_f64().is_finite()))
            }
        }
    )*};
}

compiled!(f32, f64, bf16);

/// `work` on every pair of values.
fn zip<A: Scalar, S: Scalar>(to: &mut [A], from: &[S], work: impl Fn(&mut A, S) + Sync) {
    to.par_chunks_mut(PARALLEL_WORK)
        .zip(from.par_chunks(PARALLEL_WORK))
        .for_each(|(to, from)| {
            for (to, &from) in to.iter_mut().zip(from) {
                work(to, from);
            }
        });
}

/// `Σ x²` in as many sums as fit a vector register, joined in order.
fn squares<A: Scalar>(x: &[A]) -> f64 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x.to_f64() * x.to_f64();
        }
    }
    let rest = rest.iter().map(|x| x.to_f64() * x.to_f64());
    sums.into_iter().chain(rest).sum()
}

impl<T: CpuElement> ParameterOps<Self> for Cpu<T> {
    fn widen(_: &CpuDevice, from: &Vec<T>, to: &mut Vec<T::Accum>) -> Result<()> {
        T::widen(from, to);
        Ok(())
    }

    fn narrow(_: &CpuDevice, from: &Vec<T::Accum>, to: &mut Vec<T>) -> Result<()> {
        T::narrow(from, to);
        Ok(())
    }

    fn on_host<const N: usize, const M: usize, R>(
        _: &CpuDevice,
        changed: [&mut Vec<T::Accum>; N],
        read: [&Vec<T::Accum>; M],
        work: impl FnOnce([&mut [T::Accum]; N], [&[T::Accum]; M]) -> R,
    ) -> Result<R> {
        Ok(work(
            changed.map(Vec::as_mut_slice),
            read.map(Vec::as_slice),
        ))
    }

    fn add(_: &CpuDevice, x: &mut Vec<T::Accum>, y: &Vec<T::Accum>) -> Result<()> {
        <T as CpuParameters>::add(x, y);
        Ok(())
    }

    fn scale_rows(
        _: &CpuDevice,
        x: &mut Vec<T::Accum>,
        factors: &Vec<T::Accum>,
        width: usize,
    ) -> Result<()> {
        T::scale_rows(x, factors, width);
        Ok(())
    }

    fn square_norm(_: &CpuDevice, x: &Vec<T::Accum>) -> Result<f64> {
        Ok(T::square_norm(x))
    }

    fn is_finite(_: &CpuDevice, x: &Vec<T::Accum>) -> Result<bool> {
        Ok(T::is_finite(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_rounds_ties_to_even_and_widening_is_exact() {
        let from = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.0, f32::INFINITY];
        let mut to = [bf16::ZERO; 4];
        bf16::narrow(&from, &mut to);
        let wanted = [1.0, 1.0 + 4.0 / 256.0, -0.0, f32::INFINITY];
        let mut wide = [0.0; 4];
        bf16::widen(&to, &mut wide);
        assert_eq!(wide.map(f32::to_bits), wanted.map(f32::to_bits));
    }

    #[test]
    fn long_sums_of_squares_don_t_depend_on_threads() {
        let x: Vec<f32> = (0..3 * PARALLEL_WORK + 5).map(|i| (i % 7) as f32).collect();
        let wanted: f64 = x.iter().map(|&x| f64::from(x * x)).sum();
        assert_eq!(<f32 as CpuParameters>::square_norm(&x), wanted);
        assert_eq!(<f32 as CpuParameters>::square_norm(&[]), 0.0);
        // A square that no f32 holds
        assert_eq!(
            <f32 as CpuParameters>::square_norm(&[1e30]),
            f64::from(1e30_f32).powi(2)
        );
    }

    #[test]
    fn one_bad_value_among_many_is_seen() {
        let mut x = vec![f32::MAX; 2 * PARALLEL_WORK];
        assert!(<f32 as CpuParameters>::is_finite(&x));
        x[PARALLEL_WORK + 1] = f32::NEG_INFINITY;
        assert!(!<f32 as CpuParameters>::is_finite(&x));
    }
}
