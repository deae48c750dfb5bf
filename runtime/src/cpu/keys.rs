//! Blocks of keys and values: read where they lie when that is possible, else gathered and converted into scratch.

use super::attention::{Task, chosen};
use super::{Cpu, CpuElement, part, same};
use crate::backend::{Attention, Strided};
use crate::element::{Element, Real, Scalar};

/// Shorter runs of neighbouring slots are gathered: products over a few keys would not pay for their set-up.
const SHORTEST_RUN: usize = 64;

/// Rows of keys or values, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a, A> {
    pub(super) values: &'a [A],
    pub(super) stride: usize,
}

/// Some keys, in two parts, and their values.
pub(super) struct Block<'a, A> {
    pub(super) k: Lines<'a, A>,
    pub(super) k_rope: Lines<'a, A>,
    pub(super) v: Lines<'a, A>,
}

/// Whether values are the window that keys are, as in the absorbed form.
pub(super) fn values_are_keys<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
) -> bool {
    let Attention { k, v, .. } = attention;
    std::ptr::eq(k.buffer, v.buffer)
        && (k.offset, k.width, k.row_stride, k.head_stride)
            == (v.offset, v.width, v.row_stride, v.head_stride)
}

/// Room for a gathered block.
#[derive(Default)]
pub(super) struct Scratch<A> {
    k: Vec<A>,
    k_rope: Vec<A>,
    v: Vec<A>,
}

/// The keys of one segment as one head sees them, all of them or those that one query chose.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a, T: CpuElement, E: Scalar> {
    attention: &'a Attention<'a, Cpu<T>, E>,
    segment: usize,
    /// Of queries.
    head: usize,
    /// Index of the segment's first key in its sequence.
    first: usize,
    /// Indices in the sequence of the chosen keys.
    chosen: Option<&'a [i32]>,
}

impl<'a, T: CpuElement, E: Scalar> Keys<'a, T, E> {
    pub(super) fn new(attention: &'a Attention<'a, Cpu<T>, E>, task: &Task) -> Self {
        let segment = &attention.segments.list()[task.segment];
        let query = segment.queries.start + task.queries.start;
        Self {
            attention,
            segment: task.segment,
            head: task.heads.start,
            first: segment.first_key,
            chosen: chosen(attention, query),
        }
    }

    /// Whether these are keys that one query chose.
    pub(super) fn are_chosen(&self) -> bool {
        self.chosen.is_some()
    }

    /// A key counted as a task counts them, counted from the segment's first.
    pub(super) fn token(&self, key: usize) -> usize {
        match self.chosen {
            Some(chosen) => chosen[key] as usize - self.first,
            None => key,
        }
    }

    /// Its index in the sequence.
    pub(super) fn index(&self, key: usize) -> usize {
        self.first + self.token(key)
    }

    /// How many of the `wanted` keys from `start` on make one block.
    pub(super) fn block_len(&self, start: usize, wanted: usize) -> usize {
        if self.chosen.is_some() || same::<E, T::Accum>(&[]).is_none() {
            return wanted;
        }
        let run = self.run(start, wanted);
        if run >= SHORTEST_RUN { run } else { wanted }
    }

    /// Keys `start .. start + len`, as a task counts them.
    pub(super) fn block<'s>(
        &self,
        start: usize,
        len: usize,
        scratch: &'s mut Scratch<T::Accum>,
    ) -> Block<'s, T::Accum>
    where
        'a: 's,
    {
        let Attention { k, k_rope, v, .. } = *self.attention;
        let in_place = self.chosen.is_none() && self.run(start, len) == len;
        let k = self.lines(&k, start, len, in_place, &mut scratch.k);
        let k_rope = self.lines(&k_rope, start, len, in_place, &mut scratch.k_rope);
        let v = if values_are_keys(self.attention) {
            // Gathered once
            k
        } else {
            self.lines(&v, start, len, in_place, &mut scratch.v)
        };
        Block { k, k_rope, v }
    }

    fn lines<'s>(
        &self,
        x: &Strided<'a, Cpu<T>, E>,
        start: usize,
        len: usize,
        in_place: bool,
        scratch: &'s mut Vec<T::Accum>,
    ) -> Lines<'s, T::Accum>
    where
        'a: 's,
    {
        if x.width == 0 || len == 0 {
            return Lines {
                values: &[],
                stride: 0,
            };
        }
        let head = self.head * x.heads / self.attention.q.heads;
        if in_place && let Some(all) = same::<E, T::Accum>(x.buffer) {
            let first = x.offset + self.row(start) * x.row_stride + head * x.head_stride;
            let values = &all[first..first + (len - 1) * x.row_stride + x.width];
            return Lines {
                values,
                stride: x.row_stride,
            };
        }
        scratch.clear();
        for key in start..start + len {
            scratch.extend(
                part(x, self.row(key), head)
                    .iter()
                    .map(|&value| <T as Element>::Accum::load(value)),
            );
        }
        Lines {
            values: scratch,
            stride: x.width,
        }
    }

    /// The row of the key tensor, or slot of the cache, of a key.
    pub(super) fn row(&self, key: usize) -> usize {
        let token = self.token(key);
        match self.attention.pages {
            Some(pages) => pages.slot(self.segment, token),
            None => self.attention.segments.list()[self.segment].keys.start + token,
        }
    }

    /// How many of the `wanted` tokens from `start` on lie side by side.
    fn run(&self, start: usize, wanted: usize) -> usize {
        let Some(pages) = self.attention.pages else {
            return wanted;
        };
        let (page, table) = (pages.page(), &pages.tables()[self.segment]);
        let mut block = start / page;
        let mut run = page - start % page;
        while run < wanted && table[block + 1] == table[block].wrapping_add(1) {
            block += 1;
            run += page;
        }
        run.min(wanted)
    }
}
