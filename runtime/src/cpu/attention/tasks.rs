//! How attention is cut into tasks.

use std::ops::Range;

use crate::backend::Attention;
use crate::cpu::{Cpu, CpuElement};
use crate::element::Scalar;

/// Rows of one task.
pub(in crate::cpu) const TASK_ROWS: usize = 128;
/// Keys of one block: its logits stay in the second-level cache.
pub(in crate::cpu) const BLOCK_KEYS: usize = 256;

/// Some (query, head) rows of one segment that read the same heads of keys, and some of its keys.
#[derive(Debug, Clone)]
pub(in crate::cpu) struct Task {
    pub(in crate::cpu) segment: usize,
    /// Queries, counted from the segment's first; a single one where each has keys of its own choice.
    pub(in crate::cpu) queries: Range<usize>,
    pub(in crate::cpu) heads: Range<usize>,
    /// Keys, counted from the segment's first, or in the list of those that the query chose.
    pub(in crate::cpu) keys: Range<usize>,
}

impl Task {
    /// Its rows, (query, head), queries outermost.
    pub(in crate::cpu) fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        self.queries
            .clone()
            .flat_map(|query| self.heads.clone().map(move |head| (query, head)))
    }

    /// Number of rows.
    pub(in crate::cpu) fn len(&self) -> usize {
        self.queries.len() * self.heads.len()
    }
}

/// How many neighbouring heads of queries read the same keys.
pub(super) fn sharing<T: CpuElement, E: Scalar>(attention: &Attention<'_, Cpu<T>, E>) -> usize {
    let key_heads = [attention.k.heads, attention.k_rope.heads, attention.v.heads];
    let key_heads = key_heads.into_iter().max().unwrap_or(1).max(1);
    (attention.q.heads / key_heads).max(1)
}

/// Rows that belong together, at most `most_rows`, and all keys that any of them sees.
pub(super) fn groups<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    most_rows: usize,
) -> Vec<Task> {
    let segments = attention.segments.list().iter().enumerate();
    segments
        .flat_map(|(segment, of)| {
            let (queries, heads) = (0..of.queries.len(), 0..attention.q.heads);
            groups_of(attention, segment, queries, heads, most_rows)
        })
        .collect()
}

/// [`groups`] of some queries of a segment, and some heads.
pub(in crate::cpu) fn groups_of<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    segment: usize,
    queries: Range<usize>,
    heads: Range<usize>,
    most_rows: usize,
) -> Vec<Task> {
    let sharing = sharing(attention);
    let heads_at_once = sharing.min(heads.len()).clamp(1, most_rows);
    let queries_at_once = match attention.selection {
        Some(_) => 1,
        None => most_rows / heads_at_once,
    };
    let mut groups = Vec::new();
    for query in queries.clone().step_by(queries_at_once) {
        let queries = query..(query + queries_at_once).min(queries.end);
        let seen = queries.clone().map(|i| seen(attention, segment, i));
        let keys = seen.fold(0..0, covering);
        let mut head = heads.start;
        while head < heads.end {
            let alike = (head / sharing + 1) * sharing;
            let end = (head + heads_at_once).min(alike).min(heads.end);
            groups.push(Task {
                segment,
                queries: queries.clone(),
                heads: head..end,
                keys: keys.clone(),
            });
            head = end;
        }
    }
    groups
}

/// The keys that query `i` of a segment sees, or the part of its chosen ones that it sees.
pub(super) fn seen<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
    segment: usize,
    i: usize,
) -> Range<usize> {
    let of = &attention.segments.list()[segment];
    let visible = attention.segments.visible(of, i);
    let Some(list) = chosen(attention, of.queries.start + i) else {
        return visible;
    };
    // The list ascends, and -1 stands behind it
    let before = |end: usize| {
        let end = (of.first_key + end) as i64;
        list.partition_point(|&index| index >= 0 && i64::from(index) < end)
    };
    before(visible.start)..before(visible.end)
}

/// The keys that a query chose: indices in its sequence.
pub(in crate::cpu) fn chosen<'a, T: CpuElement, E: Scalar>(
    attention: &Attention<'a, Cpu<T>, E>,
    query: usize,
) -> Option<&'a [i32]> {
    let selection = attention.selection?;
    Some(&selection.indices[query * selection.width..][..selection.width])
}

/// The smallest range that holds both.
fn covering(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    match (a.is_empty(), b.is_empty()) {
        (_, true) => a,
        (true, _) => b,
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

/// Into how many parts each group's keys are cut, so that every thread has something to do.
pub(super) fn splits(groups: &[Task]) -> usize {
    let threads = rayon::current_num_threads();
    if threads == 1 || groups.is_empty() || groups.len() >= 2 * threads {
        1
    } else {
        (2 * threads).div_ceil(groups.len())
    }
}

/// A group cut by its keys, at multiples of a block.
pub(super) fn cut(group: &Task, splits: usize) -> Vec<Task> {
    let per_task = group
        .keys
        .len()
        .div_ceil(splits)
        .next_multiple_of(BLOCK_KEYS)
        .max(BLOCK_KEYS);
    let mut tasks: Vec<Task> = group
        .keys
        .clone()
        .step_by(per_task)
        .map(|start| Task {
            keys: start..(start + per_task).min(group.keys.end),
            ..group.clone()
        })
        .collect();
    if tasks.is_empty() {
        tasks.push(group.clone());
    }
    tasks
}
