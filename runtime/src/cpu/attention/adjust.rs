//! What else happens to logits and probabilities: soft cap, bias, dropout.

use std::ops::Range;

use super::tasks::Task;
use crate::backend::Attention;
use crate::cpu::keys::Keys;
use crate::cpu::simd::{Vectorised, dispatch};
use crate::cpu::{Cpu, CpuElement};
use crate::element::{Real, Scalar};
use crate::softmax::Dropout;

/// The adjustments of one task; each may be absent, and then costs nothing.
pub(in crate::cpu) struct Adjust<'a, A> {
    cap: Option<A>,
    /// Per row, what is added to the logits of the sequence's keys.
    bias: Option<Vec<&'a [A]>>,
    /// Per row, its random numbers.
    dropout: Option<(Dropout, Vec<u64>)>,
}

impl<'a, A: Real> Adjust<'a, A> {
    pub(in crate::cpu) fn new<T: CpuElement<Accum = A>, E: Scalar>(
        attention: &Attention<'a, Cpu<T>, E>,
        task: &Task,
    ) -> Self {
        let softmax = attention.softmax;
        let segment = &attention.segments.list()[task.segment];
        let bias = softmax.added().map(|bias| {
            let line = |(query, head): (usize, usize)| {
                let head = if bias.heads == 1 { 0 } else { head };
                let line = head * bias.queries + segment.first_query + query;
                &bias.values[line * bias.keys..(line + 1) * bias.keys]
            };
            task.rows().map(line).collect()
        });
        let dropout = softmax.dropped().map(|dropout| {
            let stream = |(query, head): (usize, usize)| {
                dropout.stream(segment.sequence, head, segment.first_query + query)
            };
            (dropout, task.rows().map(stream).collect())
        });
        Self {
            cap: softmax.cap().map(A::from_f64),
            bias,
            dropout,
        }
    }

    /// Caps the scaled logits `s`.
    pub(in crate::cpu) fn cap(&self, s: &mut [A]) {
        if let Some(cap) = self.cap {
            dispatch(SoftCap { s, cap });
        }
    }

    /// The derivatives of capped logits `s`, where there is a cap.
    pub(in crate::cpu) fn slope(&self, s: &[A], slope: &mut Vec<A>) {
        slope.clear();
        if let Some(cap) = self.cap {
            slope.extend(s.iter().map(|&s| A::ONE - (s / cap) * (s / cap)));
        }
    }

    /// Adds the bias to the capped logits `s [key][row]` of keys `block`.
    pub(in crate::cpu) fn bias<T: CpuElement<Accum = A>, E: Scalar>(
        &self,
        block: &Range<usize>,
        keys: &Keys<'_, T, E>,
        s: &mut [A],
    ) {
        if let Some(bias) = &self.bias {
            for (key, s) in block.clone().zip(s.chunks_exact_mut(bias.len())) {
                let index = keys.index(key);
                for (s, line) in s.iter_mut().zip(bias) {
                    *s += line[index];
                }
            }
        }
    }

    /// Drops some of the probabilities `s [key][row]` of keys `block`, whose sum is already known.
    pub(in crate::cpu) fn probabilities<T: CpuElement<Accum = A>, E: Scalar>(
        &self,
        block: &Range<usize>,
        keys: &Keys<'_, T, E>,
        s: &mut [A],
    ) {
        let Some((dropout, streams)) = &self.dropout else {
            return;
        };
        for (key, s) in block.clone().zip(s.chunks_exact_mut(streams.len())) {
            let index = keys.index(key);
            for (s, &stream) in s.iter_mut().zip(streams) {
                *s *= A::from_f64(dropout.of(stream, index));
            }
        }
    }
}

struct SoftCap<'a, A> {
    s: &'a mut [A],
    cap: A,
}

impl<A: Real> Vectorised for SoftCap<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let inverse = A::ONE / self.cap;
        for s in self.s {
            *s = self.cap * (*s * inverse).tanh::<FMA>();
        }
    }
}
