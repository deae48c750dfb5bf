//! Blockwise softmax attention. One kernel serves every form: rows are (query, head) pairs that see the same keys, so in the absorbed form
//! all heads of a query are rows of one product.
//!
//! Work is cut into tasks of up to [`TASK_ROWS`] rows. Where that gives fewer tasks than threads (decode), the keys are cut as well and the
//! parts joined by log-sum-exp, in order.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::gemm::{Matrix, Target, product};
use super::keys::{Block, Keys, Lines, Scratch};
use super::simd::{Vectorised, dispatch};
use super::{Cpu, CpuElement, PARALLEL_WORK, merge, part, zeros};
use crate::backend::{Attention, AttentionParts};
use crate::element::{Real, Scalar};
use crate::error::Result;

/// Rows of one task.
const TASK_ROWS: usize = 128;
/// Keys of one block: its logits stay in the second-level cache.
const BLOCK_KEYS: usize = 256;

/// Some (query, head) rows of one segment, and some of its keys.
#[derive(Debug, Clone)]
struct Task {
    segment: usize,
    /// Queries, counted from the segment's first.
    queries: Range<usize>,
    heads: Range<usize>,
    /// Keys, counted from the segment's first.
    keys: Range<usize>,
}

/// A task's result: per row, normalised output, log-sum-exp, largest logit.
struct Partial<A> {
    out: Vec<A>,
    lse: Vec<A>,
    max: Vec<A>,
}

/// Attention over all segments.
pub(super) fn attend<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
) -> Result<AttentionParts<Cpu<T>>> {
    let (rows, heads, width) = (attention.q.rows, attention.q.heads, attention.v.width);
    let groups = groups(attention);
    let splits = splits(&groups);
    let tasks: Vec<Task> = groups.iter().flat_map(|group| cut(group, splits)).collect();
    let partials: Vec<Partial<T::Accum>> = tasks
        .par_iter()
        .with_max_len(1)
        .map(|task| run(attention, task))
        .collect();
    let mut rest = partials.into_iter();
    let wholes: Vec<Partial<T::Accum>> = groups
        .iter()
        .filter_map(|group| {
            rest.by_ref()
                .take(cut(group, splits).len())
                .reduce(|a, b| joined(a, &b, width))
        })
        .collect();

    // Rows of the output and the first group that has each; groups of further heads follow
    let mut first_group = vec![None; rows];
    for (i, group) in groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.heads.start == 0)
    {
        let first = attention.segments.list()[group.segment].queries.start;
        for query in group.queries.clone() {
            first_group[first + query] = Some((i, query - group.queries.start));
        }
    }
    let mut out: Vec<T> = zeros(rows * heads * width)?;
    let mut lse = vec![T::Accum::NEG_INFINITY; rows * heads];
    let mut max_logit = lse.clone();
    let per_row = (heads * width).max(1);
    out.par_chunks_mut(per_row)
        .zip(lse.par_chunks_mut(heads.max(1)))
        .zip(max_logit.par_chunks_mut(heads.max(1)))
        .zip(&first_group)
        .with_min_len(PARALLEL_WORK / per_row + 1)
        .for_each(|(((out, lse), max_logit), first)| {
            let Some((mut group, query)) = *first else {
                return;
            };
            let mut head = 0;
            while head < heads {
                let (whole, own) = (&wholes[group], &groups[group].heads);
                let from = query * own.len()..(query + 1) * own.len();
                lse[own.clone()].copy_from_slice(&whole.lse[from.clone()]);
                max_logit[own.clone()].copy_from_slice(&whole.max[from.clone()]);
                let values = &whole.out[from.start * width..from.end * width];
                for (out, value) in out[own.start * width..own.end * width]
                    .iter_mut()
                    .zip(values)
                {
                    *out = value.store();
                }
                head = own.end;
                group += 1;
            }
        });
    Ok(AttentionParts {
        out,
        lse,
        max_logit,
    })
}

/// The rows that belong together, and all keys that any of them sees.
fn groups<T: CpuElement, E: Scalar>(attention: &Attention<'_, Cpu<T>, E>) -> Vec<Task> {
    let heads = attention.q.heads;
    let shared = attention.k.head_stride == 0
        && attention.k_rope.head_stride == 0
        && attention.v.head_stride == 0;
    let heads_at_once = if shared { heads.clamp(1, TASK_ROWS) } else { 1 };
    let queries_at_once = TASK_ROWS / heads_at_once;
    let mut groups = Vec::new();
    for (segment, of) in attention.segments.list().iter().enumerate() {
        for query in (0..of.queries.len()).step_by(queries_at_once) {
            let queries = query..(query + queries_at_once).min(of.queries.len());
            let keys = 0..of.visible(attention.segments.visibility(), queries.end - 1);
            for head in (0..heads).step_by(heads_at_once) {
                let heads = head..(head + heads_at_once).min(heads);
                groups.push(Task {
                    segment,
                    queries: queries.clone(),
                    heads,
                    keys: keys.clone(),
                });
            }
        }
    }
    groups
}

/// Into how many parts each group's keys are cut, so that every thread has something to do.
fn splits(groups: &[Task]) -> usize {
    let threads = rayon::current_num_threads();
    if threads == 1 || groups.is_empty() || groups.len() >= 2 * threads {
        1
    } else {
        (2 * threads).div_ceil(groups.len())
    }
}

/// A group cut by its keys, at multiples of a block.
fn cut(group: &Task, splits: usize) -> Vec<Task> {
    let per_task = group
        .keys
        .len()
        .div_ceil(splits)
        .next_multiple_of(BLOCK_KEYS)
        .max(BLOCK_KEYS);
    let mut tasks: Vec<Task> = (0..group.keys.len())
        .step_by(per_task)
        .map(|start| Task {
            keys: start..(start + per_task).min(group.keys.len()),
            ..group.clone()
        })
        .collect();
    if tasks.is_empty() {
        tasks.push(group.clone());
    }
    tasks
}

fn rows_of(task: &Task) -> impl Iterator<Item = (usize, usize)> {
    task.queries
        .clone()
        .flat_map(|query| task.heads.clone().map(move |head| (query, head)))
}

/// Two parts of a group, over different keys, as one.
fn joined<A: Real>(mut whole: Partial<A>, other: &Partial<A>, width: usize) -> Partial<A> {
    for row in 0..whole.lse.len() {
        if let Some((keep, add, lse)) = merge::weights(whole.lse[row], other.lse[row]) {
            let range = row * width..(row + 1) * width;
            for (out, &o) in whole.out[range.clone()].iter_mut().zip(&other.out[range]) {
                *out = *out * keep + o * add;
            }
            whole.lse[row] = lse;
            whole.max[row] = whole.max[row].max(other.max[row]);
        }
    }
    whole
}

/// The running state of a task. Matrices are column-major, rows of the task innermost: softmax runs across rows, and the products read
/// queries and probabilities as they lie.
struct State<A> {
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
    /// How many keys of the block each row sees.
    visible: Vec<u32>,
}

fn run<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    task: &Task,
) -> Partial<T::Accum> {
    let (m, width) = (task.queries.len() * task.heads.len(), attention.v.width);
    let segment = &attention.segments.list()[task.segment];
    let mut state = State {
        q: queries(attention, task),
        s: vec![T::Accum::ZERO; m * BLOCK_KEYS.min(task.keys.len())],
        out: vec![T::Accum::ZERO; m * width],
        max: vec![T::Accum::NEG_INFINITY; m],
        sum: vec![T::Accum::ZERO; m],
        shrink: vec![T::Accum::ONE; m],
        visible: vec![0; m],
    };
    let keys = Keys::new(attention, task.segment, task.heads.start);
    let mut scratch = Scratch::default();
    let mut start = task.keys.start;
    while start < task.keys.end {
        let len = keys.block_len(start, BLOCK_KEYS.min(task.keys.end - start));
        let mut all_visible = true;
        for (row, (query, _)) in rows_of(task).enumerate() {
            let seen = segment
                .visible(attention.segments.visibility(), query)
                .saturating_sub(start)
                .min(len);
            state.visible[row] = seen as u32;
            all_visible &= seen == len;
        }
        let block = keys.block(start, len, &mut scratch);
        state.step(
            &block,
            len,
            (attention.q.width, attention.q_rope.width, width),
            T::Accum::from_f64(attention.scale),
            all_visible,
        );
        start += len;
    }
    state.finish(m, width)
}

/// The task's queries, `[d][m]`.
fn queries<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    task: &Task,
) -> Vec<T::Accum> {
    let m = task.queries.len() * task.heads.len();
    let first = attention.segments.list()[task.segment].queries.start;
    let mut q = vec![T::Accum::ZERO; m * (attention.q.width + attention.q_rope.width)];
    for (row, (query, head)) in rows_of(task).enumerate() {
        let nope = part(&attention.q, first + query, head);
        let rope = part(&attention.q_rope, first + query, head);
        for (d, &value) in nope.iter().chain(rope).enumerate() {
            q[d * m + row] = T::Accum::load(value);
        }
    }
    q
}

impl<A: Real> State<A> {
    /// Adds a block of keys: logits, their softmax relative to the running maximum, and its product with the values.
    fn step(
        &mut self,
        block: &Block<'_, A>,
        len: usize,
        (nope, rope, width): (usize, usize, usize),
        scale: A,
        all_visible: bool,
    ) {
        let m = self.max.len();
        let (q, q_rope) = self.q.split_at(nope * m);
        let s = &mut self.s[..m * len];
        logits(m, len, nope, q, block.k, scale, s, false);
        logits(m, len, rope, q_rope, block.k_rope, scale, s, nope > 0);
        let visible = if all_visible {
            None
        } else {
            Some(self.visible.as_slice())
        };
        dispatch(Softmax {
            s,
            visible,
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
        let target = Target {
            values: &mut self.out,
            row_stride: 1,
            column_stride: m,
            accumulate: true,
        };
        let lhs = Matrix {
            values: s,
            row_stride: 1,
            column_stride: m,
        };
        let rhs = Matrix {
            values: block.v.values,
            row_stride: block.v.stride,
            column_stride: 1,
        };
        product((m, width, len), target, lhs, rhs, A::ONE, Parallelism::None);
    }

    /// Divides by the sums and turns to rows.
    fn finish(self, m: usize, width: usize) -> Partial<A> {
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
#[allow(clippy::too_many_arguments)]
fn logits<A: Real>(
    m: usize,
    len: usize,
    d: usize,
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
    visible: Option<&'a [u32]>,
    max: &'a mut [A],
    sum: &'a mut [A],
    shrink: &'a mut [A],
}

impl<A: Real> Vectorised for Softmax<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let m = self.max.len();
        if let Some(visible) = self.visible {
            for (key, s) in self.s.chunks_exact_mut(m).enumerate() {
                for (s, &visible) in s.iter_mut().zip(visible) {
                    *s = if (key as u32) < visible {
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
