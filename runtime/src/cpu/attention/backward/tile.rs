//! The rows of one task, and what blocks of keys give to gradients.

use std::ops::Range;

use gemm::Parallelism;

use super::super::adjust::Adjust;
use super::super::sight::{Sight, Window};
use super::super::state::finite;
use super::super::tasks::Task;
use crate::backend::AttentionBackward;
use crate::cpu::dot::dot;
use crate::cpu::gemm::{Matrix, Target, product};
use crate::cpu::keys::{Keys, Lines};
use crate::cpu::simd::{Vectorised, dispatch};
use crate::cpu::{Cpu, CpuElement, part};
use crate::element::Real;

/// What a task's rows see, and what else happens to their logits.
pub(super) struct Context<'a, T: CpuElement> {
    pub(super) keys: Keys<'a, T, T>,
    sight: Sight<'a>,
    adjust: Adjust<'a, T::Accum>,
    scale: T::Accum,
}

impl<'a, T: CpuElement> Context<'a, T> {
    pub(super) fn new(backward: &'a AttentionBackward<'a, Cpu<T>>, task: &Task) -> Self {
        let attention = &backward.attention;
        Self {
            keys: Keys::new(attention, task),
            sight: Sight::new(attention, task),
            adjust: Adjust::new(attention, task),
            scale: Real::load(attention.softmax.scale()),
        }
    }
}

/// Some keys, their two parts side by side, and their values.
#[derive(Clone, Copy)]
pub(super) struct Block<'a, A> {
    pub(super) k: Lines<'a, A>,
    pub(super) v: Lines<'a, A>,
}

/// Where the gradients of a block's keys are added up, contiguous; those of its values in the first columns of its keys' where there is
/// no place of their own.
pub(super) struct Sums<'a, A> {
    pub(super) k: &'a mut [A],
    pub(super) v: Option<&'a mut [A]>,
}

/// A task's rows. Matrices of rows by keys are column-major, rows innermost, as the forward's are.
#[derive(Default)]
pub(super) struct Tile<A> {
    m: usize,
    /// Of queries and keys, both parts.
    width: usize,
    /// Of values.
    v_width: usize,
    /// `[m][width]`.
    q: Vec<A>,
    /// `[m][v_width]`.
    d_out: Vec<A>,
    /// Log-sum-exp, 0 where a row sees nothing.
    lse: Vec<A>,
    /// `d_out · out`.
    delta: Vec<A>,
    /// Whether all of these are numbers.
    finite: bool,
    /// `[width][m]`.
    d_q: Vec<A>,
    /// `[key][m]`: logits, then probabilities.
    s: Vec<A>,
    /// `[key][m]`: gradients of probabilities, then of logits.
    d_s: Vec<A>,
    /// `[key][m]`: derivatives of the soft cap.
    slope: Vec<A>,
    window: Window,
}

impl<A: Real> Tile<A> {
    /// Takes the rows of a task.
    pub(super) fn load<T: CpuElement<Accum = A>>(
        &mut self,
        backward: &AttentionBackward<'_, Cpu<T>>,
        task: &Task,
    ) {
        let attention = &backward.attention;
        let first = attention.segments.list()[task.segment].queries.start;
        self.m = task.len();
        self.width = attention.q.width + attention.q_rope.width;
        self.v_width = attention.v.width;
        for values in [
            &mut self.q,
            &mut self.d_out,
            &mut self.lse,
            &mut self.delta,
            &mut self.d_q,
        ] {
            values.clear();
        }
        self.d_q.resize(self.m * self.width, A::ZERO);
        let wide = |&value: &T| A::load(value);
        for (query, head) in task.rows() {
            let row = first + query;
            self.q
                .extend(part(&attention.q, row, head).iter().map(wide));
            self.q
                .extend(part(&attention.q_rope, row, head).iter().map(wide));
            let (out, d_out) = (
                part(&backward.out, row, head),
                part(&backward.d_out, row, head),
            );
            self.d_out.extend(d_out.iter().map(wide));
            self.delta.push(dot(out, d_out));
            let lse = backward.lse[row * attention.q.heads + head];
            self.lse
                .push(if lse == A::NEG_INFINITY { A::ZERO } else { lse });
        }
        let all = [&self.q, &self.d_out, &self.lse, &self.delta];
        self.finite = all.into_iter().all(|values| {
            let stride = values.len().max(1);
            finite(Lines { values, stride }, values.len(), 1)
        });
    }

    /// The probabilities of a block, nothing dropped, and the gradients of its logits, `P (m (d_out · v) - δ)`, the cap left out. Whether
    /// all rows see all keys.
    fn logits<T: CpuElement<Accum = A>>(
        &mut self,
        of: &Context<'_, T>,
        keys: &Range<usize>,
        block: &Block<'_, A>,
    ) -> bool {
        let (m, len) = (self.m, keys.len());
        self.s.resize(m * len, A::ZERO);
        self.d_s.resize(m * len, A::ZERO);
        rows_by_keys(&self.q, self.width, block.k, len, of.scale, &mut self.s);
        rows_by_keys(
            &self.d_out,
            self.v_width,
            block.v,
            len,
            A::ONE,
            &mut self.d_s,
        );
        of.adjust.cap(&mut self.s);
        of.adjust.slope(&self.s, &mut self.slope);
        of.adjust.bias(keys, &of.keys, &mut self.s);
        let seen = of.sight.of_block(keys, &mut self.window);
        if seen.is_some() {
            of.sight.forbid(keys, &of.keys, &mut self.s);
        }
        of.adjust.probabilities(keys, &of.keys, &mut self.d_s);
        dispatch(Gradients {
            s: &mut self.s,
            d_s: &mut self.d_s,
            seen,
            lse: &self.lse,
            delta: &self.delta,
        });
        seen.is_none()
    }

    /// Adds what a block of keys gives to the gradients of the rows, and what the rows give to those of the block.
    pub(super) fn add<T: CpuElement<Accum = A>>(
        &mut self,
        of: &Context<'_, T>,
        keys: &Range<usize>,
        block: &Block<'_, A>,
        sums: Sums<'_, A>,
    ) {
        let all_seen = self.logits(of, keys, block);
        of.adjust.probabilities(keys, &of.keys, &mut self.s);
        for (d_s, &slope) in self.d_s.iter_mut().zip(&self.slope) {
            *d_s *= slope;
        }
        let len = keys.len();
        if all_seen
            || (self.finite
                && finite(block.k, self.width, len)
                && finite(block.v, self.v_width, len))
        {
            self.products(of.scale, len, block, sums);
        } else {
            self.pairs(of, keys, block, sums);
        }
    }

    fn products(&mut self, scale: A, len: usize, block: &Block<'_, A>, sums: Sums<'_, A>) {
        let (m, width, v_width) = (self.m, self.width, self.v_width);
        let (q, d_out) = (columns(&self.q, width), columns(&self.d_out, v_width));
        let (p, d_s) = (columns(&self.s, m), columns(&self.d_s, m));
        let k = Matrix {
            values: block.k.values,
            row_stride: block.k.stride,
            column_stride: 1,
        };
        let alone = Parallelism::None;
        let d_k = sum(&mut *sums.k, width);
        product((width, len, m), d_k, q, d_s, scale, alone);
        let d_v = match sums.v {
            Some(values) => sum(values, v_width),
            None => sum(sums.k, width),
        };
        product((v_width, len, m), d_v, d_out, p, A::ONE, alone);
        let d_q = sum(&mut self.d_q, m);
        product((m, width, len), d_q, d_s, k, scale, alone);
    }

    /// As [`Tile::products`], pair by pair of those that see each other: 0 times what is no number is none, and would reach rows and keys
    /// that have nothing to do with it.
    fn pairs<T: CpuElement<Accum = A>>(
        &mut self,
        of: &Context<'_, T>,
        keys: &Range<usize>,
        block: &Block<'_, A>,
        mut sums: Sums<'_, A>,
    ) {
        let (m, width, v_width) = (self.m, self.width, self.v_width);
        for (i, key) in keys.clone().enumerate() {
            let k = &block.k.values[i * block.k.stride..];
            for row in (0..m).filter(|&row| of.sight.sees(row, key, &of.keys)) {
                let (p, d_s) = (self.s[i * m + row], self.d_s[i * m + row] * of.scale);
                let q = &self.q[row * width..(row + 1) * width];
                for (sum, &q) in sums.k[i * width..].iter_mut().zip(q) {
                    *sum += d_s * q;
                }
                let d_v = match &mut sums.v {
                    Some(values) => &mut values[i * v_width..],
                    None => &mut sums.k[i * width..],
                };
                let d_out = &self.d_out[row * v_width..(row + 1) * v_width];
                for (sum, &d_out) in d_v.iter_mut().zip(d_out) {
                    *sum += p * d_out;
                }
                for (sum, &k) in self.d_q[row..].iter_mut().step_by(m).zip(k) {
                    *sum += d_s * k;
                }
            }
        }
    }

    /// What a block gives to the gradient of the bias, `[key][m]`.
    pub(super) fn biases<T: CpuElement<Accum = A>>(
        &mut self,
        of: &Context<'_, T>,
        keys: &Range<usize>,
        block: &Block<'_, A>,
    ) -> &[A] {
        self.logits(of, keys, block);
        &self.d_s
    }

    /// The gradients of the rows, `[m][width]`.
    pub(super) fn finish(&self, into: &mut Vec<A>) {
        into.resize(self.m * self.width, A::ZERO);
        dispatch(Transpose {
            from: &self.d_q,
            rows: self.m,
            to: into,
        });
    }
}

/// A matrix that lies column by column.
fn columns<A>(values: &[A], column_stride: usize) -> Matrix<'_, A> {
    Matrix {
        values,
        row_stride: 1,
        column_stride,
    }
}

/// One that is added to.
fn sum<A>(values: &mut [A], column_stride: usize) -> Target<'_, A> {
    Target {
        values,
        row_stride: 1,
        column_stride,
        accumulate: true,
    }
}

/// `s [len][m] = scale · x [m][width] · linesᵀ`.
fn rows_by_keys<A: Real>(
    x: &[A],
    width: usize,
    lines: Lines<'_, A>,
    len: usize,
    scale: A,
    s: &mut [A],
) {
    let m = s.len() / len;
    let target = Target {
        values: s,
        row_stride: 1,
        column_stride: m,
        accumulate: false,
    };
    let lhs = Matrix {
        values: x,
        row_stride: width,
        column_stride: 1,
    };
    let rhs = Matrix {
        values: lines.values,
        row_stride: 1,
        column_stride: lines.stride,
    };
    product((m, len, width), target, lhs, rhs, scale, Parallelism::None);
}

/// Turns logits to probabilities, 0 where a row does not see the key, and gradients of probabilities to those of logits.
struct Gradients<'a, A> {
    s: &'a mut [A],
    d_s: &'a mut [A],
    seen: Option<&'a Window>,
    lse: &'a [A],
    delta: &'a [A],
}

impl<A: Real> Vectorised for Gradients<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let m = self.lse.len();
        let lines = self.s.chunks_exact_mut(m).zip(self.d_s.chunks_exact_mut(m));
        for (key, (s, d_s)) in lines.enumerate() {
            if let Some(seen) = self.seen {
                for ((s, &from), &count) in s.iter_mut().zip(&seen.from).zip(&seen.count) {
                    // Keys before the first wrap around
                    *s = if (key as u32).wrapping_sub(from) < count {
                        *s
                    } else {
                        A::NEG_INFINITY
                    };
                }
            }
            let rows = self.lse.iter().zip(self.delta);
            for ((s, d_s), (&lse, &delta)) in s.iter_mut().zip(d_s).zip(rows) {
                let p = (*s - lse).exp_nonpositive::<FMA>();
                *s = p;
                // What a row does not see may be no number
                *d_s = if p == A::ZERO {
                    A::ZERO
                } else {
                    p * (*d_s - delta)
                };
            }
        }
    }
}

/// `[columns][rows]` to `[rows][columns]`, a square at a time so that both sides stay in the first-level cache.
struct Transpose<'a, A> {
    from: &'a [A],
    rows: usize,
    to: &'a mut [A],
}

impl<A: Real> Vectorised for Transpose<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const SQUARE: usize = 16;
        let columns = self.from.len() / self.rows;
        for first in (0..columns).step_by(SQUARE) {
            let last = columns.min(first + SQUARE);
            for row in 0..self.rows {
                let to = &mut self.to[row * columns..][first..last];
                for (to, from) in to.iter_mut().zip(first..) {
                    *to = self.from[from * self.rows + row];
                }
            }
        }
    }
}
