//! Sums of windows, and gradients of gates and activations. All compute in the accumulation type and round once.

use rayon::prelude::*;

use super::super::simd::{Vectorised, dispatch};
use super::super::{PARALLEL_WORK, zeros};
use super::sums::dot;
use super::window::Window;
use crate::backend::Place;
use crate::element::{Element, Real, Scalar};
use crate::error::Result;

/// `into[row · stride + offset + head · head_stride ..] += x[row, head, :]`.
pub(super) fn add<T: Element>(x: Window<'_, T>, into: &mut [T], place: Place) {
    if x.lines() * x.width == 0 {
        return;
    }
    into.par_chunks_mut(place.stride)
        .take(x.rows)
        .with_min_len(PARALLEL_WORK / (x.heads * x.width) + 1)
        .enumerate()
        .for_each(|(row, into)| {
            for head in 0..x.heads {
                let start = place.offset + head * place.head_stride;
                for (to, &from) in into[start..].iter_mut().zip(x.part(row, head)) {
                    *to = (T::Accum::load(*to) + T::Accum::load(from)).store();
                }
            }
        });
}

/// Of `y = x · σ(g)`, neighbours sharing a gate: `dx = dy · σ(g)` and `dg = σ'(g) Σ dy · x`.
pub(super) fn gate<T: Element, S: Scalar>(
    x: &[T],
    dy: &[T],
    gates: Window<'_, S>,
) -> Result<(Vec<T>, Vec<S>)> {
    let mut dx = zeros(x.len())?;
    let mut d_gates = zeros(gates.rows * gates.width)?;
    let Some(shared) = x.len().checked_div(d_gates.len()) else {
        return Ok((dx, d_gates));
    };
    if shared == 0 {
        return Ok((dx, d_gates));
    }
    let row = gates.width * shared;
    dx.par_chunks_mut(row)
        .zip(d_gates.par_chunks_mut(gates.width))
        .with_min_len(PARALLEL_WORK / row + 1)
        .enumerate()
        .for_each(|(i, (dx, d_gates))| {
            let values = i * row..(i + 1) * row;
            dispatch(GatedRow {
                x: &x[values.clone()],
                dy: &dy[values],
                gates: gates.part(i, 0),
                shared,
                dx,
                d_gates,
            });
        });
    Ok((dx, d_gates))
}

struct GatedRow<'a, T, S> {
    x: &'a [T],
    dy: &'a [T],
    gates: &'a [S],
    /// Values to a gate.
    shared: usize,
    dx: &'a mut [T],
    d_gates: &'a mut [S],
}

impl<T: Element, S: Scalar> Vectorised for GatedRow<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        if self.shared == 1 {
            let values = self.x.iter().zip(self.dy).zip(self.gates);
            let gradients = self.dx.iter_mut().zip(self.d_gates);
            for (((&x, &dy), &gate), (dx, d_gate)) in values.zip(gradients) {
                let (x, dy) = (T::Accum::load(x), T::Accum::load(dy));
                let (open, slope) = logistic::<T::Accum, FMA>(T::Accum::load(gate));
                *dx = (dy * open).store();
                *d_gate = (dy * x * slope).store();
            }
            return;
        }
        let values = self.x.chunks_exact(self.shared);
        let values = values.zip(self.dy.chunks_exact(self.shared));
        let gradients = self.dx.chunks_exact_mut(self.shared).zip(self.d_gates);
        for (((x, dy), &gate), (dx, d_gate)) in values.zip(self.gates).zip(gradients) {
            let (open, slope) = logistic::<T::Accum, FMA>(T::Accum::load(gate));
            for (dx, &dy) in dx.iter_mut().zip(dy) {
                *dx = (T::Accum::load(dy) * open).store();
            }
            *d_gate = (dot::<T, T::Accum, FMA>(x, dy) * slope).store();
        }
    }
}

/// Of `y = x · σ(x)`: `dy ← dy · (σ(x) + x σ'(x))`.
pub(super) fn silu<T: Element>(x: &[T], dy: &mut [T]) {
    dy.par_chunks_mut(PARALLEL_WORK)
        .zip(x.par_chunks(PARALLEL_WORK))
        .for_each(|(dy, x)| dispatch(Silu { x, dy }));
}

struct Silu<'a, T> {
    x: &'a [T],
    dy: &'a mut [T],
}

impl<T: Element> Vectorised for Silu<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (dy, &x) in self.dy.iter_mut().zip(self.x) {
            let x = T::Accum::load(x);
            let (open, slope) = logistic::<T::Accum, FMA>(x);
            *dy = (T::Accum::load(*dy) * x.madd::<FMA>(slope, open)).store();
        }
    }
}

/// σ(x) and σ'(x), without overflow on either side and without a branch; NaN stays NaN.
#[inline(always)]
fn logistic<A: Real, const FMA: bool>(x: A) -> (A, A) {
    let e = (-x.max(-x)).exp_nonpositive::<FMA>();
    let inverse = A::ONE / (A::ONE + e);
    let open = if x >= A::ZERO { inverse } else { e * inverse };
    (open, e * inverse * inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_and_its_slope_keep_their_corners() {
        assert_eq!(logistic::<f32, true>(0.0), (0.5, 0.25));
        assert_eq!(logistic::<f32, true>(f32::INFINITY), (1.0, 0.0));
        assert_eq!(logistic::<f32, false>(f32::NEG_INFINITY), (0.0, 0.0));
        let (open, slope) = logistic::<f64, false>(f64::NAN);
        assert!(open.is_nan() && slope.is_nan());
        for x in [-30.0_f64, -3.0, -0.1, 0.7, 12.0] {
            let (open, slope) = logistic::<f64, false>(x);
            let wanted = 1.0 / (1.0 + (-x).exp());
            assert!((open / wanted - 1.0).abs() < 1e-14);
            assert!((slope - wanted * (1.0 - wanted)).abs() < 1e-16);
        }
    }
}
