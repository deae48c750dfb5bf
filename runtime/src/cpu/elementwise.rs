//! Loops over single values: scaling, gates, activations. All compute in the accumulation type and round once.

use rayon::prelude::*;

use super::{Cpu, CpuElement, PARALLEL_WORK, part, with_room};
use crate::backend::Strided;
use crate::element::{Real, Scalar};
use crate::error::Result;

/// The values of a window in the accumulation type.
pub(super) fn widened<T: CpuElement>(x: Strided<'_, Cpu<T>, T>) -> Result<Vec<T::Accum>> {
    let mut out = with_room(x.rows * x.heads * x.width)?;
    for i in 0..x.rows * x.heads {
        let values = part(&x, i / x.heads, i % x.heads);
        out.extend(values.iter().map(|&value| T::Accum::load(value)));
    }
    Ok(out)
}

/// `x ← x · by`.
pub(super) fn scale<T: CpuElement>(x: &mut [T], by: f64) {
    let by = T::Accum::from_f64(by);
    each(x, |x| x * by);
}

/// `x ← x · σ(x)`.
pub(super) fn silu<T: CpuElement>(x: &mut [T]) {
    each(x, |x| x * sigmoid(x));
}

/// `x[i] ← x[i] · factors[i / width]`.
pub(super) fn scale_parts<T: CpuElement>(x: &mut [T], factors: &[T::Accum], width: usize) {
    parts(x, factors, width, |factor| factor);
}

/// `x[i] ← x[i] · σ(gates[i / width])`.
pub(super) fn gate_parts<T: CpuElement>(x: &mut [T], gates: &[T::Accum], width: usize) {
    parts(x, gates, width, sigmoid);
}

/// `x[i] ← x[i] · σ(gates[i])`.
pub(super) fn gate<T: CpuElement>(x: &mut [T], gates: Strided<'_, Cpu<T>, T>) {
    if gates.width == 0 {
        return;
    }
    x.par_chunks_mut(gates.width)
        .with_min_len(PARALLEL_WORK / gates.width + 1)
        .enumerate()
        .for_each(|(i, x)| {
            let gates = part(&gates, i / gates.heads, i % gates.heads);
            for (x, &gate) in x.iter_mut().zip(gates) {
                *x = (T::Accum::load(*x) * sigmoid(T::Accum::load(gate))).store();
            }
        });
}

fn each<T: CpuElement>(x: &mut [T], f: impl Fn(T::Accum) -> T::Accum + Sync) {
    x.par_iter_mut()
        .with_min_len(PARALLEL_WORK)
        .for_each(|x| *x = f(T::Accum::load(*x)).store());
}

fn parts<T: CpuElement>(
    x: &mut [T],
    factors: &[T::Accum],
    width: usize,
    f: impl Fn(T::Accum) -> T::Accum + Sync,
) {
    if width == 0 {
        return;
    }
    x.par_chunks_mut(width)
        .with_min_len(PARALLEL_WORK / width + 1)
        .zip(factors)
        .for_each(|(x, &factor)| {
            let factor = f(factor);
            for x in x {
                *x = (T::Accum::load(*x) * factor).store();
            }
        });
}

/// `1 / (1 + e^-x)`, without overflow on either side; NaN stays NaN.
#[inline(always)]
fn sigmoid<A: Real>(x: A) -> A {
    if x >= A::ZERO {
        A::ONE / (A::ONE + (-x).exp())
    } else {
        let e = x.exp();
        e / (A::ONE + e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_keeps_its_corners() {
        assert_eq!(sigmoid(0.0_f32), 0.5);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(-200.0_f32), 0.0);
        assert!(sigmoid(f64::NAN).is_nan());
        assert!((sigmoid(-3.0_f64) + sigmoid(3.0_f64) - 1.0).abs() < 1e-15);
    }
}
