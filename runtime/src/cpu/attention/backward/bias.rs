//! The gradient of what was added to logits: a pass of its own, in which every thread has lines of the bias to itself. All that shares a
//! line, sequences and perhaps heads, is added up in order.

use rayon::prelude::*;

use super::super::tasks::{BLOCK_KEYS, Task, groups_of};
use super::TASK_ROWS;
use super::held::Held;
use super::tile::{Context, Tile};
use crate::backend::AttentionBackward;
use crate::cpu::keys::values_are_keys;
use crate::cpu::{Cpu, CpuElement};
use crate::softmax::AttentionBias;

/// Adds the gradient of the bias to `into`, `[heads or 1, queries, keys]`.
pub(in crate::cpu) fn bias_backward<T: CpuElement>(
    backward: &AttentionBackward<'_, Cpu<T>>,
    into: &mut [T::Accum],
) {
    let Some(bias) = backward.attention.softmax.added() else {
        return;
    };
    if bias.queries * bias.keys == 0 {
        return;
    }
    let heads = into.par_chunks_mut(bias.queries * bias.keys).enumerate();
    heads.for_each(|(head, lines)| {
        let lines = lines.par_chunks_mut(TASK_ROWS * bias.keys).enumerate();
        lines.for_each(|(i, lines)| add(backward, bias, head, i * TASK_ROWS, lines));
    });
}

/// Adds to the lines from `first` on of a head of the bias.
fn add<T: CpuElement>(
    backward: &AttentionBackward<'_, Cpu<T>>,
    bias: &AttentionBias<Cpu<T>>,
    head: usize,
    first: usize,
    into: &mut [T::Accum],
) {
    let attention = &backward.attention;
    let heads = if bias.heads == 1 {
        0..attention.q.heads
    } else {
        head..head + 1
    };
    let (mut held, mut tile) = (Held::default(), Tile::default());
    for (segment, of) in attention.segments.list().iter().enumerate() {
        let query = |line: usize| line.saturating_sub(of.first_query).min(of.queries.len());
        let queries = query(first)..query(first + into.len() / bias.keys);
        let mut tasks = groups_of(attention, segment, queries, heads.clone(), TASK_ROWS);
        // Heads that read the same keys one behind the other
        tasks.sort_by_key(|task| task.heads.start);
        let mut last = None;
        for task in tasks {
            if last.replace(task.heads.start) != Some(task.heads.start) {
                held.load(attention, &task, values_are_keys(attention));
            }
            let line = of.first_query + task.queries.start - first;
            let into = &mut into[line * bias.keys..];
            add_task(backward, &task, &mut held, &mut tile, into, bias.keys);
        }
    }
}

/// Adds to the lines of a task's rows, `[queries][keys]`.
fn add_task<T: CpuElement>(
    backward: &AttentionBackward<'_, Cpu<T>>,
    task: &Task,
    held: &mut Held<T::Accum>,
    tile: &mut Tile<T::Accum>,
    into: &mut [T::Accum],
    columns: usize,
) {
    let of = Context::new(backward, task);
    tile.load(backward, task);
    for start in task.keys.clone().step_by(BLOCK_KEYS) {
        let keys = start..task.keys.end.min(start + BLOCK_KEYS);
        held.with_block(&of, (start, keys.len()), |block, _| {
            let by_key = tile.biases(&of, &keys, block).chunks_exact(task.len());
            for (key, d_s) in keys.clone().zip(by_key) {
                let column = of.keys.index(key);
                let lines = into[column..].iter_mut().step_by(columns);
                for (line, d_s) in lines.zip(d_s.chunks_exact(task.heads.len())) {
                    for &d_s in d_s {
                        *line += d_s;
                    }
                }
            }
        });
    }
}
