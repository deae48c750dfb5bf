//! Softmax attention by its definition.

use super::array::{Array, dot};
use super::call::{Bias, Keys, Queries};
use super::dropout::Dropout;
use super::visible::Sight;
use crate::plan::SoftmaxPlan;

/// What attention gives: output, log-sum-exp and largest logit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attended {
    /// `[rows, heads, dim]`; 0 where nothing is seen.
    pub(super) out: Array,
    /// `[rows, heads, 1]`; -∞ where nothing is seen.
    pub(super) lse: Array,
    /// `[rows, heads, 1]`: the largest of what enters softmax; -∞ where nothing is seen.
    pub(super) max_logit: Array,
}

/// Everything between dot products and probabilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax<'a> {
    pub(super) scale: f64,
    pub(super) plan: SoftmaxPlan,
    pub(super) bias: Option<&'a Bias>,
    pub(super) dropout: Option<Dropout>,
}

/// Which keys which queries attend to: those that they see, and of these those that are selected, where there is a selection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub(super) sight: Sight<'a>,
    pub(super) queries: &'a Queries,
    pub(super) keys: &'a Keys,
    pub(super) selection: Option<&'a [Vec<usize>]>,
}

impl Pairs<'_> {
    /// The keys of a query.
    pub(super) fn of(&self, row: usize) -> Vec<usize> {
        let Some(query) = self.queries.0[row] else {
            return Vec::new();
        };
        let attends = |key: &usize| {
            let key = self.keys.0[*key];
            self.sight.sees(row, query, key)
                && self
                    .selection
                    .is_none_or(|selection| selection[row].contains(&key.index))
        };
        (0..self.keys.0.len()).filter(attends).collect()
    }
}

/// `o = Σ_u softmax(logits)_u value_u` over the keys `u` that a query attends to. `product` is the dot product of (row, head, key).
pub(super) fn attend<'a>(
    pairs: Pairs<'_>,
    softmax: Softmax<'_>,
    (rows, heads, dim): (usize, usize, usize),
    product: impl Fn(usize, usize, usize) -> f64,
    value: impl Fn(usize, usize) -> &'a [f64],
) -> Attended {
    let nothing = Array {
        data: vec![f64::NEG_INFINITY; rows * heads],
        ..Array::zeros(rows, heads, 1)
    };
    let mut all = Attended {
        out: Array::zeros(rows, heads, dim),
        lse: nothing.clone(),
        max_logit: nothing,
    };
    for row in 0..rows {
        let keys = pairs.of(row);
        let Some(query) = pairs.queries.0[row].filter(|_| !keys.is_empty()) else {
            continue;
        };
        for head in 0..heads {
            let logit = |key: &usize| {
                let index = pairs.keys.0[*key].index;
                softmax.logit(product(row, head, *key), (head, query.index, index))
            };
            let logits: Vec<f64> = keys.iter().map(logit).collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if largest == f64::NEG_INFINITY {
                continue;
            }
            let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            for (&key, logit) in keys.iter().zip(&logits) {
                let index = pairs.keys.0[key].index;
                let kept = softmax.dropout.map_or(1.0, |dropout| {
                    dropout.multiplier(query.sequence, head, query.index, index)
                });
                let p = kept * (logit - largest).exp() / sum;
                let out = all.out.at_mut(row, head).iter_mut();
                out.zip(value(key, head))
                    .for_each(|(out, value)| *out += p * value);
            }
            all.lse.at_mut(row, head)[0] = largest + sum.ln();
            all.max_logit.at_mut(row, head)[0] = largest;
        }
    }
    all
}

impl Softmax<'_> {
    /// `cap · tanh(τ q·k / cap) + bias` (F-08, F-09), at (head, query, key).
    fn logit(&self, product: f64, at: (usize, usize, usize)) -> f64 {
        let scaled = self.scale * product;
        let capped = match self.plan.soft_cap {
            Some(cap) => cap * (scaled / cap).tanh(),
            None => scaled,
        };
        capped + self.bias.map_or(0.0, |bias| bias.at(at))
    }
}

/// Joins attention over two sets of keys: weights `e^(l_i - l)` with `l = ln(e^l_1 + e^l_2)`.
pub(super) fn merge(a: &Attended, b: &Attended) -> Attended {
    let mut merged = a.clone();
    for row in 0..a.out.rows {
        for head in 0..a.out.heads {
            let (one, other) = (a.lse.at(row, head)[0], b.lse.at(row, head)[0]);
            let lse = log_sum(one, other);
            if lse == f64::NEG_INFINITY {
                continue;
            }
            let (p, q) = ((one - lse).exp(), (other - lse).exp());
            let out = merged
                .out
                .at_mut(row, head)
                .iter_mut()
                .zip(b.out.at(row, head));
            out.for_each(|(out, other)| *out = p * *out + q * other);
            merged.lse.at_mut(row, head)[0] = lse;
            let max_logit = a.max_logit.at(row, head)[0].max(b.max_logit.at(row, head)[0]);
            merged.max_logit.at_mut(row, head)[0] = max_logit;
        }
    }
    merged
}

/// A key without a value, whose logit in head `h` is `sink(h)`: the denominator grows by `e^sink`, the log-sum-exp with it (F-07).
pub(super) fn with_sink(attended: &Attended, sink: impl Fn(usize) -> f64) -> Attended {
    let mut sunk = attended.clone();
    for row in 0..sunk.out.rows {
        for head in 0..sunk.out.heads {
            let keys = attended.lse.at(row, head)[0];
            let all = log_sum(keys, sink(head));
            let left = (keys - all).exp();
            let out = sunk.out.at_mut(row, head).iter_mut();
            out.for_each(|out| *out *= left);
            sunk.lse.at_mut(row, head)[0] = all;
        }
    }
    sunk
}

/// `ln(e^a + e^b)`; -∞ where both are.
fn log_sum(a: f64, b: f64) -> f64 {
    let largest = a.max(b);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + ((a - largest).exp() + (b - largest).exp()).ln()
}

/// Attention of `H` query heads over `G` key and value heads: head `h` meets group `⌊h G / H⌋`.
pub(super) fn grouped(
    pairs: Pairs<'_>,
    softmax: Softmax<'_>,
    q: &Array,
    k: &Array,
    v: &Array,
) -> Attended {
    let group = |head: usize| head * k.heads / q.heads.max(1);
    attend(
        pairs,
        softmax,
        (q.rows, q.heads, v.dim),
        |row, head, key| dot(q.at(row, head), k.at(key, group(head))),
        |key, head| v.at(key, group(head)),
    )
}
