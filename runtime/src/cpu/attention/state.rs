//! The running softmax of a task.

use gemm::Parallelism;

use super::Partial;
use super::sight::Window;
use crate::cpu::gemm::{Matrix, Target, product};
use crate::cpu::keys::{Block, Lines};
use crate::cpu::simd::{Vectorised, dispatch};
use crate::element::Real;

/// The running state of a task. Matrices are column-major, rows of the task innermost: softmax runs across rows, and the products read
/// queries and probabilities as they lie.
pub(super) struct State<A> {
    /// `[d][m]`.
    q: Vec<A>,
    /// `[key][m]`: logits, then probabilities.
    s: Vec<A>,
    /// `[width][m]`, not yet divided by `sum`.
    out: Vec<A>,
    max: Vec<A>,
    sum: Vec<A>,
    /// What `out` is multiplied by when the maximum grows.
    shrink: Vec<A>,
    /// Of the two parts of keys, and of values.
    widths: [usize; 3],
}

impl<A: Real> State<A> {
    /// `m` queries `[d][m]` that have seen nothing, with room for blocks of `most_keys` keys.
    pub(super) fn new(q: Vec<A>, m: usize, widths: [usize; 3], most_keys: usize) -> Self {
        Self {
            q,
            s: vec![A::ZERO; m * most_keys],
            out: vec![A::ZERO; m * widths[2]],
            max: vec![A::NEG_INFINITY; m],
            sum: vec![A::ZERO; m],
            shrink: vec![A::ONE; m],
            widths,
        }
    }

    /// The block's logits or probabilities, `[key][m]`.
    pub(super) fn block(&mut self, len: usize) -> &mut [A] {
        &mut self.s[..self.max.len() * len]
    }

    /// The scaled logits of a block.
    pub(super) fn logits(&mut self, block: &Block<'_, A>, len: usize, scale: A) -> &mut [A] {
        let m = self.max.len();
        let [nope, rope, _] = self.widths;
        let (q, q_rope) = self.q.split_at(nope * m);
        let s = &mut self.s[..m * len];
        logits((m, len, nope), q, block.k, scale, s, false);
        logits((m, len, rope), q_rope, block.k_rope, scale, s, nope > 0);
        s
    }

    /// Turns logits to probabilities relative to the running maximum, 0 where a row does not see the key, and shrinks what was added
    /// before when the maximum has grown.
    pub(super) fn softmax(&mut self, len: usize, seen: Option<&Window>) -> &mut [A] {
        let s = &mut self.s[..self.max.len() * len];
        dispatch(Softmax {
            s: &mut *s,
            seen,
            max: &mut self.max,
            sum: &mut self.sum,
            shrink: &mut self.shrink,
        });
        if self.shrink.iter().any(|&shrink| shrink != A::ONE) {
            dispatch(Shrink {
                out: &mut self.out,
                by: &self.shrink,
            });
        }
        s
    }

    /// Adds the block's values, times their probabilities.
    pub(super) fn add(&mut self, v: Lines<'_, A>, len: usize) {
        let (m, width) = (self.max.len(), self.widths[2]);
        let target = Target {
            values: &mut self.out,
            row_stride: 1,
            column_stride: m,
            accumulate: true,
        };
        let lhs = Matrix {
            values: &self.s,
            row_stride: 1,
            column_stride: m,
        };
        let rhs = Matrix {
            values: v.values,
            row_stride: v.stride,
            column_stride: 1,
        };
        product((m, width, len), target, lhs, rhs, A::ONE, Parallelism::None);
    }

    /// As [`State::add`], where not every row sees every key: 0 times a NaN or an infinity is a NaN, so values that are no numbers are
    /// added to the rows that see them only.
    pub(super) fn add_seen(
        &mut self,
        v: Lines<'_, A>,
        len: usize,
        sees: impl Fn(usize, usize) -> bool,
    ) {
        let (m, width) = (self.max.len(), self.widths[2]);
        if finite(v, width, len) {
            return self.add(v, len);
        }
        let line = |key: usize| &v.values[key * v.stride..][..width];
        let mut numbers = vec![A::ZERO; len * width];
        let mut others = Vec::new();
        for (key, number) in numbers.chunks_exact_mut(width).enumerate() {
            if is_finite(line(key)) {
                number.copy_from_slice(line(key));
            } else {
                others.push(key);
            }
        }
        let numbers = Lines {
            values: &numbers,
            stride: width,
        };
        self.add(numbers, len);
        for key in others {
            for row in (0..m).filter(|&row| sees(row, key)) {
                let p = self.s[key * m + row];
                for (out, &v) in self.out[row..].iter_mut().step_by(m).zip(line(key)) {
                    *out += p * v;
                }
            }
        }
    }

    /// Divides by the sums and turns to rows.
    pub(super) fn finish(self) -> Partial<A> {
        let (m, width) = (self.max.len(), self.widths[2]);
        let mut out = vec![A::ZERO; m * width];
        let mut lse = vec![A::NEG_INFINITY; m];
        for row in 0..m {
            if self.max[row] == A::NEG_INFINITY {
                continue;
            }
            lse[row] = self.max[row] + self.sum[row].ln();
            let inverse = A::ONE / self.sum[row];
            for (d, out) in out[row * width..(row + 1) * width].iter_mut().enumerate() {
                *out = self.out[d * m + row] * inverse;
            }
        }
        Partial {
            out,
            lse,
            max: self.max,
        }
    }
}

/// `s [len][m] (+)= scale · q [d][m] · keysᵀ`.
fn logits<A: Real>(
    (m, len, d): (usize, usize, usize),
    q: &[A],
    keys: Lines<'_, A>,
    scale: A,
    s: &mut [A],
    accumulate: bool,
) {
    if d == 0 && accumulate {
        return;
    }
    let target = Target {
        values: s,
        row_stride: 1,
        column_stride: m,
        accumulate,
    };
    let lhs = Matrix {
        values: q,
        row_stride: 1,
        column_stride: m,
    };
    let rhs = Matrix {
        values: keys.values,
        row_stride: 1,
        column_stride: keys.stride,
    };
    product((m, len, d), target, lhs, rhs, scale, Parallelism::None);
}

struct Softmax<'a, A> {
    s: &'a mut [A],
    /// Keys that each row sees, where that is not all.
    seen: Option<&'a Window>,
    max: &'a mut [A],
    sum: &'a mut [A],
    shrink: &'a mut [A],
}

impl<A: Real> Vectorised for Softmax<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let m = self.max.len();
        if let Some(seen) = self.seen {
            for (key, s) in self.s.chunks_exact_mut(m).enumerate() {
                for ((s, &from), &count) in s.iter_mut().zip(&seen.from).zip(&seen.count) {
                    // Keys before the first wrap around
                    *s = if (key as u32).wrapping_sub(from) < count {
                        *s
                    } else {
                        A::NEG_INFINITY
                    };
                }
            }
        }
        // `shrink` holds the old maximum until the new one is known
        self.shrink.copy_from_slice(self.max);
        for s in self.s.chunks_exact(m) {
            for (max, &s) in self.max.iter_mut().zip(s) {
                // A NaN takes over and stays, so that a poisoned input shows
                *max = if *max >= s || max.is_nan() { *max } else { s };
            }
        }
        for ((shrink, &max), sum) in self.shrink.iter_mut().zip(&*self.max).zip(&mut *self.sum) {
            let base = if max == A::NEG_INFINITY { A::ZERO } else { max };
            *shrink = if *shrink == max {
                A::ONE
            } else {
                (*shrink - base).exp_nonpositive::<FMA>()
            };
            *sum *= *shrink;
        }
        for s in self.s.chunks_exact_mut(m) {
            for ((s, &max), sum) in s.iter_mut().zip(&*self.max).zip(&mut *self.sum) {
                let base = if max == A::NEG_INFINITY { A::ZERO } else { max };
                *s = (*s - base).exp_nonpositive::<FMA>();
                *sum += *s;
            }
        }
    }
}

struct Shrink<'a, A> {
    out: &'a mut [A],
    by: &'a [A],
}

impl<A: Real> Vectorised for Shrink<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for out in self.out.chunks_exact_mut(self.by.len()) {
            for (out, &by) in out.iter_mut().zip(self.by) {
                *out *= by;
            }
        }
    }
}

/// Whether the first `width` values of `len` lines are numbers.
pub(in crate::cpu) fn finite<A: Real>(v: Lines<'_, A>, width: usize, len: usize) -> bool {
    width == 0 || dispatch(Finite { v, width, len })
}

/// Whether all values of some lines are numbers.
struct Finite<'a, A> {
    v: Lines<'a, A>,
    width: usize,
    len: usize,
}

impl<A: Real> Vectorised for Finite<'_, A> {
    type Output = bool;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> bool {
        let mut lines = self.v.values.chunks(self.v.stride).take(self.len);
        lines.all(|line| is_finite(&line[..self.width]))
    }
}

/// Whether all values are numbers.
#[inline(always)]
fn is_finite<A: Real>(values: &[A]) -> bool {
    // 0 times an infinity is a NaN, too; no early end, so that the loop vectorises
    !values
        .iter()
        .fold(false, |any, &value| any | (value * A::ZERO).is_nan())
}
