//! Pooled index keys: a softmax over the tokens of a pool for each channel, and the average that it weighs.

use rayon::prelude::*;

use super::{Cpu, CpuElement, PARALLEL_WORK, part};
use crate::backend::Pooling;
use crate::element::Real;

/// One row per pool.
pub(super) fn pool<T: CpuElement>(pooling: &Pooling<'_, Cpu<T>>) -> Vec<T> {
    let width = pooling.k.width;
    let mut out = vec![T::default(); pooling.first_rows.len() * width];
    if width == 0 {
        return out;
    }
    out.par_chunks_mut(width)
        .zip(pooling.first_rows)
        .with_min_len(PARALLEL_WORK / (width * pooling.size.max(1)) + 1)
        .for_each_init(
            || Sums::<T::Accum>::new(width),
            |sums, (out, &first)| {
                sums.add_pool(pooling, first);
                for ((out, &average), &weight) in out.iter_mut().zip(&sums.key).zip(&sums.weight) {
                    *out = (average / weight).store();
                }
            },
        );
    out
}

/// Per channel: the largest logit, the sum of the weights relative to it, the weighted sum of keys.
struct Sums<A> {
    max: Vec<A>,
    weight: Vec<A>,
    key: Vec<A>,
}

impl<A: Real> Sums<A> {
    fn new(width: usize) -> Self {
        Self {
            max: vec![A::ZERO; width],
            weight: vec![A::ZERO; width],
            key: vec![A::ZERO; width],
        }
    }

    /// The sums over the pool whose tokens are rows from `first` on.
    fn add_pool<T: CpuElement<Accum = A>>(&mut self, pooling: &Pooling<'_, Cpu<T>>, first: usize) {
        let width = pooling.k.width;
        let logit = |gate: T, position: T| A::load(gate) + A::load(position);
        let token = |t: usize| {
            let positions = &pooling.positions[t * width..(t + 1) * width];
            part(&pooling.gates, first + t, 0).iter().zip(positions)
        };
        self.max.fill(A::NEG_INFINITY);
        self.weight.fill(A::ZERO);
        self.key.fill(A::ZERO);
        for t in 0..pooling.size {
            for (max, (&gate, &position)) in self.max.iter_mut().zip(token(t)) {
                *max = max.max(logit(gate, position));
            }
        }
        for t in 0..pooling.size {
            let sums = self.max.iter().zip(&mut self.weight).zip(&mut self.key);
            let keys = part(&pooling.k, first + t, 0);
            for ((((&max, sum), key_sum), (&gate, &position)), &key) in sums.zip(token(t)).zip(keys)
            {
                let weight = (logit(gate, position) - max).exp();
                *sum += weight;
                *key_sum += weight * A::load(key);
            }
        }
    }
}
