//! Blockwise softmax attention. One kernel serves every form: rows are (query, head) pairs that read the same heads of keys, so in the
//! absorbed form all heads of a query are rows of one product, and of grouped heads those of a group.
//!
//! Work is cut into tasks of some rows. Where that gives fewer tasks than threads (decode), the keys are cut as well and the parts joined
//! by log-sum-exp, in order. Where each query has keys of its own choice a task has one query, whose keys are gathered block by block.

mod adjust;
mod backward;
mod sight;
mod state;
mod tasks;

use rayon::prelude::*;

use super::keys::{Keys, Scratch};
use super::{Cpu, CpuElement, PARALLEL_WORK, merge, part, zeros};
use crate::backend::{Attention, AttentionParts};
use crate::element::{Real, Scalar};
use crate::error::Result;
use state::State;
use tasks::{cut, groups, splits};

pub(super) use adjust::Adjust;
pub(super) use backward::{apart, backward, bias_backward, shares};
pub(super) use sight::{Sight, Window};
pub(super) use state::finite;
pub(super) use tasks::{BLOCK_KEYS, TASK_ROWS, Task, chosen, groups_of};

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
    let groups = groups(attention, TASK_ROWS);
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
    let mut out: Vec<T::Accum> = zeros(rows * heads * width)?;
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
                out[own.start * width..own.end * width]
                    .copy_from_slice(&whole.out[from.start * width..from.end * width]);
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

fn run<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    task: &Task,
) -> Partial<T::Accum> {
    let widths = [attention.q.width, attention.q_rope.width, attention.v.width];
    let scale = T::Accum::from_f64(attention.softmax.scale());
    let most_keys = BLOCK_KEYS.min(task.keys.len());
    let mut state = State::new(queries(attention, task), task.len(), widths, most_keys);
    let keys = Keys::new(attention, task);
    let sight = Sight::new(attention, task);
    let adjust = Adjust::new(attention, task);
    let (mut scratch, mut window) = (Scratch::default(), Window::default());
    let mut start = task.keys.start;
    while start < task.keys.end {
        let len = keys.block_len(start, BLOCK_KEYS.min(task.keys.end - start));
        let block = start..start + len;
        let lines = keys.block(start, len, &mut scratch);
        let seen = sight.of_block(&block, &mut window);
        let logits = state.logits(&lines, len, scale);
        adjust.cap(logits);
        adjust.bias(&block, &keys, logits);
        if seen.is_some() {
            sight.forbid(&block, &keys, state.block(len));
        }
        adjust.probabilities(&block, &keys, state.softmax(len, seen));
        match seen {
            None => state.add(lines.v, len),
            Some(_) => state.add_seen(lines.v, len, |row, key| sight.sees(row, start + key, &keys)),
        }
        start = block.end;
    }
    state.finish()
}

/// The task's queries, `[d][m]`.
fn queries<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    task: &Task,
) -> Vec<T::Accum> {
    let m = task.len();
    let first = attention.segments.list()[task.segment].queries.start;
    let mut q = vec![T::Accum::ZERO; m * (attention.q.width + attention.q_rope.width)];
    for (row, (query, head)) in task.rows().enumerate() {
        let nope = part(&attention.q, first + query, head);
        let rope = part(&attention.q_rope, first + query, head);
        for (d, &value) in nope.iter().chain(rope).enumerate() {
            q[d * m + row] = T::Accum::load(value);
        }
    }
    q
}
