//! One head of a segment's keys and values, ready for products, and the sums of their gradients.

use super::super::tasks::Task;
use super::tile::{Block, Context, Sums};
use crate::backend::Attention;
use crate::cpu::keys::Lines;
use crate::cpu::{Cpu, CpuElement, part};
use crate::element::Real;

/// Keys `[keys][width]`, their two parts side by side, and values `[keys][v_width]`: none where values are keys.
#[derive(Default)]
struct Pair<A> {
    k: Vec<A>,
    v: Vec<A>,
}

/// The keys of some tasks, and what has been added to their gradients.
#[derive(Default)]
pub(super) struct Held<A> {
    widths: Widths,
    values: Pair<A>,
    sums: Pair<A>,
    /// Keys that one query chose, and their sums.
    chosen: Pair<A>,
    chosen_sums: Pair<A>,
}

/// Widths of a [`Pair`].
#[derive(Debug, Clone, Copy, Default)]
struct Widths {
    k: usize,
    v: usize,
    values_are_keys: bool,
}

impl<A: Real> Pair<A> {
    fn begin(&mut self, keys: usize, widths: Widths) {
        for (values, width) in [(&mut self.k, widths.k), (&mut self.v, widths.v)] {
            values.clear();
            values.resize(keys * width, A::ZERO);
        }
    }

    fn block(&self, start: usize, widths: Widths) -> Block<'_, A> {
        let lines = |values, width: usize| Lines {
            values: &<[A]>::split_at(values, start * width).1,
            stride: width,
        };
        let k = lines(&self.k, widths.k);
        Block {
            k,
            v: if widths.values_are_keys {
                k
            } else {
                lines(&self.v, widths.v)
            },
        }
    }

    fn block_mut(&mut self, start: usize, len: usize, widths: Widths) -> Sums<'_, A> {
        Sums {
            k: &mut self.k[start * widths.k..][..len * widths.k],
            v: (!widths.values_are_keys).then(|| &mut self.v[start * widths.v..][..len * widths.v]),
        }
    }
}

impl<A: Real> Held<A> {
    /// Takes the keys that a task reads some of, and begins sums at 0; one sum for both where `values_are_keys`.
    pub(super) fn load<T: CpuElement<Accum = A>>(
        &mut self,
        attention: &Attention<'_, Cpu<T>, T>,
        task: &Task,
        values_are_keys: bool,
    ) {
        let Attention {
            q, k, k_rope, v, ..
        } = attention;
        let rows = attention.segments.list()[task.segment].keys.clone();
        let head = |heads: usize| task.heads.start * heads / q.heads;
        let wide = |&value: &T| A::load(value);
        self.widths = Widths {
            k: k.width + k_rope.width,
            v: if values_are_keys { 0 } else { v.width },
            values_are_keys,
        };
        self.values.begin(0, self.widths);
        let Pair { k: keys, v: values } = &mut self.values;
        for row in rows.clone() {
            keys.extend(part(k, row, head(k.heads)).iter().map(wide));
            keys.extend(part(k_rope, row, head(k_rope.heads)).iter().map(wide));
            if !values_are_keys {
                values.extend(part(v, row, head(v.heads)).iter().map(wide));
            }
        }
        self.sums.begin(rows.len(), self.widths);
    }

    /// Calls `with` for some keys of a task and their sums.
    pub(super) fn with_block<T: CpuElement<Accum = A>>(
        &mut self,
        of: &Context<'_, T>,
        (start, len): (usize, usize),
        with: impl FnOnce(&Block<'_, A>, Sums<'_, A>),
    ) {
        let widths = self.widths;
        if !of.keys.are_chosen() {
            let sums = self.sums.block_mut(start, len, widths);
            return with(&self.values.block(start, widths), sums);
        }
        let tokens = || (start..start + len).map(|key| of.keys.token(key));
        self.chosen.begin(0, widths);
        self.chosen_sums.begin(len, widths);
        for token in tokens() {
            let Pair { k, v } = &mut self.chosen;
            k.extend_from_slice(&self.values.k[token * widths.k..][..widths.k]);
            v.extend_from_slice(&self.values.v[token * widths.v..][..widths.v]);
        }
        let sums = self.chosen_sums.block_mut(0, len, widths);
        with(&self.chosen.block(0, widths), sums);
        for (i, token) in tokens().enumerate() {
            let add = |sums: &mut [A], more: &[A], width: usize| {
                let sums = sums[token * width..][..width].iter_mut();
                for (sum, &more) in sums.zip(&more[i * width..][..width]) {
                    *sum += more;
                }
            };
            add(&mut self.sums.k, &self.chosen_sums.k, widths.k);
            add(&mut self.sums.v, &self.chosen_sums.v, widths.v);
        }
    }

    /// The sums of the gradients of keys and values.
    pub(super) fn sums(&self) -> (&[A], &[A]) {
        (&self.sums.k, &self.sums.v)
    }
}
