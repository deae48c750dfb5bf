//! Sums in an order that no number of threads changes.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::super::PARALLEL_WORK;
use super::super::simd::{Vectorised, dispatch};
use super::super::skinny::folded;
use super::window::Window;
use crate::element::{Real, Scalar};

/// So many lines at least have a partial sum of their own: fewer would make as many partial sums as there are lines.
const SHORTEST_BLOCK: usize = 64;

/// Lines of `width` values that share a partial sum. It depends on sizes alone, so that the result does too.
pub(super) fn block_of(width: usize) -> usize {
    SHORTEST_BLOCK.max(PARALLEL_WORK / width.max(1))
}

/// `into += Σ partials`, the first one first.
pub(super) fn add_in_order<A: Real>(into: &mut [A], partials: &[Vec<A>]) {
    for partial in partials {
        for (into, &value) in into.iter_mut().zip(partial) {
            *into += value;
        }
    }
}

/// `into[i] += Σ_r x[r, i]`.
pub(super) fn column_sums<S: Scalar, A: Real>(x: Window<'_, S>, into: &mut [A]) {
    let block = block_of(x.width);
    let partials: Vec<Vec<A>> = (0..x.lines().div_ceil(block))
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![A::ZERO; x.width];
            dispatch(Columns {
                x,
                lines: i * block..x.lines().min((i + 1) * block),
                sums: &mut sums,
            });
            sums
        })
        .collect();
    add_in_order(into, &partials);
}

struct Columns<'a, S, A> {
    x: Window<'a, S>,
    lines: Range<usize>,
    sums: &'a mut [A],
}

impl<S: Scalar, A: Real> Vectorised for Columns<'_, S, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for i in self.lines {
            for (sum, &value) in self.sums.iter_mut().zip(self.x.line(i)) {
                *sum += A::load(value);
            }
        }
    }
}

/// `out[r, h] = Σ_i x[r, h, i] · y[r, h, i]`.
pub(super) fn dots<S: Scalar, A: Real>(x: Window<'_, S>, y: Window<'_, S>) -> Vec<A> {
    (0..x.lines())
        .into_par_iter()
        .with_min_len(PARALLEL_WORK / x.width.max(1) + 1)
        .map(|i| {
            dispatch(Dot {
                x: x.line(i),
                y: y.line(i),
                sum: PhantomData,
            })
        })
        .collect()
}

struct Dot<'a, S, A> {
    x: &'a [S],
    y: &'a [S],
    sum: PhantomData<A>,
}

impl<S: Scalar, A: Real> Vectorised for Dot<'_, S, A> {
    type Output = A;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> A {
        dot::<S, A, FMA>(self.x, self.y)
    }
}

/// Sixteen running sums of products, joined in pairs.
#[inline(always)]
pub(super) fn dot<S: Scalar, A: Real, const FMA: bool>(x: &[S], y: &[S]) -> A {
    let mut sums = [A::ZERO; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let mut rest = A::ZERO;
    for (&x, &y) in xs.remainder().iter().zip(ys.remainder()) {
        rest = A::load(x).madd::<FMA>(A::load(y), rest);
    }
    for (x, y) in xs.zip(ys) {
        for l in 0..16 {
            sums[l] = A::load(x[l]).madd::<FMA>(A::load(y[l]), sums[l]);
        }
    }
    folded(sums) + rest
}

/// Sixteen running sums, joined in pairs.
#[inline(always)]
pub(super) fn sum<A: Real>(values: &[A]) -> A {
    let mut sums = [A::ZERO; 16];
    let chunks = values.chunks_exact(16);
    let mut rest = A::ZERO;
    for &value in chunks.remainder() {
        rest += value;
    }
    for chunk in chunks {
        for l in 0..16 {
            sums[l] += chunk[l];
        }
    }
    folded(sums) + rest
}
