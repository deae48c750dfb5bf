//! Joining attention over two sets of keys, and sinks.

use rayon::prelude::*;

use super::dot::dot;
use super::{Cpu, CpuElement, PARALLEL_WORK, part};
use crate::backend::{Parts, PartsMut, Strided};
use crate::element::Real;

/// What each side of a merge is multiplied by, and the joint log-sum-exp; `None` where the other side saw nothing.
pub(super) fn weights<A: Real>(own: A, other: A) -> Option<(A, A, A)> {
    if other == A::NEG_INFINITY {
        return None;
    }
    if own == A::NEG_INFINITY {
        return Some((A::ZERO, A::ONE, other));
    }
    let larger = if own > other { own } else { other };
    let (a, b) = ((own - larger).exp(), (other - larger).exp());
    let sum = a + b;
    Some((a / sum, b / sum, larger + sum.ln()))
}

/// Merges `other` into `into`, row by row and head by head.
pub(super) fn merge<T: CpuElement>(
    into: PartsMut<'_, Cpu<T>>,
    other: Parts<'_, Cpu<T>>,
    width: usize,
) {
    let heads = into
        .lse
        .par_iter_mut()
        .zip(into.max_logit.par_iter_mut())
        .zip(into.out.par_chunks_mut(width.max(1)));
    let others = other
        .lse
        .par_iter()
        .zip(other.max_logit.par_iter())
        .zip(other.out.par_chunks(width.max(1)));
    heads
        .zip(others)
        .with_min_len(PARALLEL_WORK / width.max(1) + 1)
        .for_each(|(((lse, max), out), ((&l, &m), o))| {
            let Some((keep, add, joint)) = weights(*lse, l) else {
                return;
            };
            if *lse == T::Accum::NEG_INFINITY {
                out.copy_from_slice(o);
            } else {
                for (out, &o) in out.iter_mut().zip(o) {
                    *out = *out * keep + o * add;
                }
            }
            *lse = joint;
            *max = max.max(m);
        });
}

/// Multiplies `width` values per row and head by what a sink leaves of them, and adds the sink to the log-sum-exp.
pub(super) fn sink<A: Real>(out: &mut [A], lse: &mut [A], sinks: Option<&[A]>, width: usize) {
    let heads = sinks.map_or(1, <[A]>::len).max(1);
    out.par_chunks_mut(width.max(1))
        .zip(lse)
        .enumerate()
        .with_min_len(PARALLEL_WORK / width.max(1) + 1)
        .for_each(|(i, (out, lse))| {
            let sink = sinks.map_or(A::ZERO, |sinks| sinks[i % heads]);
            if let Some((left, _, joint)) = weights(*lse, sink) {
                out.iter_mut().for_each(|out| *out *= left);
                *lse = joint;
            }
        });
}

/// Adds to the gradient of each head's sink what its rows give.
pub(super) fn sink_backward<T: CpuElement>(
    sinks: &[T::Accum],
    out: Strided<'_, Cpu<T>, T>,
    lse: &[T::Accum],
    d_out: Strided<'_, Cpu<T>, T>,
    into: &mut [T::Accum],
) {
    into.par_iter_mut()
        .zip(sinks)
        .enumerate()
        .for_each(|(head, (into, &sink))| {
            for row in 0..out.rows {
                let lse = lse[row * out.heads + head];
                if lse == T::Accum::NEG_INFINITY {
                    continue;
                }
                let delta = dot(part(&out, row, head), part(&d_out, row, head));
                *into += -(sink - lse).exp() * delta;
            }
        });
}
