//! What an indexer learns: how much all heads of attention together attend to each key.

use crate::backend::IndexLoss;
use crate::cpu::attention::{Adjust, BLOCK_KEYS, Sight, TASK_ROWS, Task, Window, groups_of};
use crate::cpu::gemm::{Matrix, Target, product};
use crate::cpu::keys::{Keys, Lines, Scratch};
use crate::cpu::simd::{Vectorised, dispatch};
use crate::cpu::{Cpu, CpuElement, part};
use crate::element::{Element, Real};

use gemm::Parallelism;

/// `Σ_h e^(logit - lse)` for the tile's queries and keys, `[key][query]`; 0 where a query does not see the key.
pub(super) fn fill<T: CpuElement>(
    loss: &IndexLoss<'_, Cpu<T>>,
    tile: &Task,
    into: &mut Vec<T::Accum>,
) {
    let attention = &loss.attention;
    into.clear();
    into.resize(tile.keys.len() * tile.queries.len(), T::Accum::ZERO);
    let (queries, heads) = (tile.queries.clone(), 0..attention.q.heads);
    let (mut q, mut s) = (Vec::new(), Vec::new());
    let (mut scratch, mut window) = (Scratch::default(), Window::default());
    for task in groups_of(attention, tile.segment, queries, heads, TASK_ROWS) {
        let m = task.len();
        let lse = load(loss, &task, &mut q);
        let keys = Keys::new(attention, &task);
        let (sight, adjust) = (Sight::new(attention, &task), Adjust::new(attention, &task));
        let scale: T::Accum = Real::load(attention.softmax.scale());
        let first = task.queries.start - tile.queries.start;
        for start in task.keys.clone().step_by(BLOCK_KEYS) {
            let block = start..task.keys.end.min(start + BLOCK_KEYS);
            let lines = keys.block(start, block.len(), &mut scratch);
            s.resize(m * block.len(), T::Accum::ZERO);
            let (nope, rope) = (attention.q.width, attention.q_rope.width);
            let of = |first, width| (&q[first..], width, nope + rope);
            logits(of(0, nope), lines.k, scale, &mut s, m, false);
            if rope > 0 {
                logits(of(nope, rope), lines.k_rope, scale, &mut s, m, nope > 0);
            }
            adjust.cap(&mut s);
            adjust.bias(&block, &keys, &mut s);
            let seen = sight.of_block(&block, &mut window);
            if seen.is_some() {
                sight.forbid(&block, &keys, &mut s);
            }
            dispatch(Sum {
                s: &s,
                seen,
                lse: &lse,
                heads: task.heads.len(),
                into: &mut into[(start - tile.keys.start) * tile.queries.len()..],
                columns: (first, tile.queries.len()),
            });
        }
    }
}

/// A task's queries `[m][width]`; returns their log-sum-exp, 0 where it is that of nothing.
fn load<T: CpuElement>(
    loss: &IndexLoss<'_, Cpu<T>>,
    task: &Task,
    q: &mut Vec<T::Accum>,
) -> Vec<<T as Element>::Accum> {
    let attention = &loss.attention;
    let first = attention.segments.list()[task.segment].queries.start;
    q.clear();
    let row = |(query, head)| {
        let row = first + query;
        for window in [&attention.q, &attention.q_rope] {
            let values = part(window, row, head).iter();
            q.extend(values.map(|&value| T::Accum::load(value)));
        }
        let lse = loss.lse[row * attention.q.heads + head];
        if lse == T::Accum::NEG_INFINITY {
            T::Accum::ZERO
        } else {
            lse
        }
    };
    task.rows().map(row).collect()
}

/// `s [len][m] (+)= scale · x · keysᵀ`, `x` some columns of rows.
fn logits<A: Real>(
    (x, width, row_stride): (&[A], usize, usize),
    keys: Lines<'_, A>,
    scale: A,
    s: &mut [A],
    m: usize,
    accumulate: bool,
) {
    let len = s.len() / m;
    let target = Target {
        values: s,
        row_stride: 1,
        column_stride: m,
        accumulate,
    };
    let lhs = Matrix {
        values: x,
        row_stride,
        column_stride: 1,
    };
    let rhs = Matrix {
        values: keys.values,
        row_stride: 1,
        column_stride: keys.stride,
    };
    product((m, len, width), target, lhs, rhs, scale, Parallelism::None);
}

/// Adds probabilities, summed over the heads of a query.
struct Sum<'a, A> {
    /// `[key][query, head]`.
    s: &'a [A],
    seen: Option<&'a Window>,
    lse: &'a [A],
    heads: usize,
    /// `[key][query]`.
    into: &'a mut [A],
    /// The first column of `into`, and how many a key has.
    columns: (usize, usize),
}

impl<A: Real> Vectorised for Sum<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let m = self.lse.len();
        let (first, columns) = self.columns;
        let mut p = vec![A::ZERO; m];
        let keys = self.s.chunks_exact(m).zip(self.into.chunks_mut(columns));
        for (key, (s, into)) in keys.enumerate() {
            for ((p, &s), &lse) in p.iter_mut().zip(s).zip(self.lse) {
                *p = (s - lse).exp_nonpositive::<FMA>();
            }
            if let Some(seen) = self.seen {
                for ((p, &from), &count) in p.iter_mut().zip(&seen.from).zip(&seen.count) {
                    // Keys before the first wrap around
                    *p = if (key as u32).wrapping_sub(from) < count {
                        *p
                    } else {
                        A::ZERO
                    };
                }
            }
            for (sum, p) in into[first..].iter_mut().zip(p.chunks_exact(self.heads)) {
                for &p in p {
                    *sum += p;
                }
            }
        }
    }
}
