//! Which keys each row of a task sees.

use std::ops::Range;

use super::tasks::{self, Task};
use crate::backend::Attention;
use crate::cpu::keys::Keys;
use crate::cpu::{Cpu, CpuElement};
use crate::element::{Real, Scalar};

/// What the queries of a task see: keys counted as the task counts them.
pub(in crate::cpu) struct Sight<'a> {
    /// Of each query.
    ranges: Vec<Range<usize>>,
    /// A dense mask's lines, over the segment's keys.
    given: Option<Vec<&'a [bool]>>,
    /// Rows per query.
    heads: usize,
}

/// What each row sees of a block, keys counted from the block's first.
#[derive(Default)]
pub(in crate::cpu) struct Window {
    /// The first one.
    pub(in crate::cpu) from: Vec<u32>,
    /// How many.
    pub(in crate::cpu) count: Vec<u32>,
}

impl<'a> Sight<'a> {
    pub(in crate::cpu) fn new<T: CpuElement, E: Scalar>(
        attention: &'a Attention<'_, Cpu<T>, E>,
        task: &Task,
    ) -> Self {
        let segments = attention.segments;
        let segment = &segments.list()[task.segment];
        let queries = task.queries.clone();
        Self {
            ranges: queries
                .clone()
                .map(|i| tasks::seen(attention, task.segment, i))
                .collect(),
            given: queries.map(|i| segments.given(segment, i)).collect(),
            heads: task.heads.len(),
        }
    }

    /// What rows see of keys `block`; `None` where all see all of them.
    pub(in crate::cpu) fn of_block<'w>(
        &self,
        block: &Range<usize>,
        window: &'w mut Window,
    ) -> Option<&'w Window> {
        let sees_all = |range: &Range<usize>| range.start <= block.start && block.end <= range.end;
        if self.given.is_none() && self.ranges.iter().all(sees_all) {
            return None;
        }
        window.from.clear();
        window.count.clear();
        for range in &self.ranges {
            let from = range.start.clamp(block.start, block.end);
            let to = range.end.clamp(from, block.end);
            for _ in 0..self.heads {
                window.from.push((from - block.start) as u32);
                window.count.push((to - from) as u32);
            }
        }
        Some(window)
    }

    /// Whether a row sees a key.
    pub(in crate::cpu) fn sees<T: CpuElement, E: Scalar>(
        &self,
        row: usize,
        key: usize,
        keys: &Keys<'_, T, E>,
    ) -> bool {
        let query = row / self.heads;
        self.ranges[query].contains(&key)
            && self
                .given
                .as_ref()
                .is_none_or(|given| given[query][keys.token(key)])
    }

    /// Takes away what a dense mask forbids of the logits `s [key][row]` of keys `block`.
    pub(in crate::cpu) fn forbid<T: CpuElement, E: Scalar>(
        &self,
        block: &Range<usize>,
        keys: &Keys<'_, T, E>,
        s: &mut [T::Accum],
    ) {
        let Some(given) = &self.given else { return };
        let m = given.len() * self.heads;
        for (key, s) in block.clone().zip(s.chunks_exact_mut(m)) {
            let token = keys.token(key);
            for (s, line) in s.chunks_exact_mut(self.heads).zip(given) {
                if !line[token] {
                    s.fill(T::Accum::NEG_INFINITY);
                }
            }
        }
    }
}
