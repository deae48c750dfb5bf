//! Softmax attention by its definition.

use std::ops::Range;

use super::array::Array;

/// Some queries and the keys that they see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    /// Whether the last query sees all keys, the one before one less, and so on.
    pub(super) causal: bool,
}

/// What attention gives: output, log-sum-exp and largest logit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attended {
    /// `[rows, heads, dim]`; 0 where nothing is seen.
    pub(super) out: Array,
    /// `[rows, heads, 1]`; -∞ where nothing is seen.
    pub(super) lse: Array,
    /// `[rows, heads, 1]`; -∞ where nothing is seen.
    pub(super) max_logit: Array,
}

/// `o = Σ_u softmax(logits)_u value_u` over the keys `u` that a query sees.
pub(super) fn attend<'a>(
    segments: &[Segment],
    (rows, heads, dim): (usize, usize, usize),
    logit: impl Fn(usize, usize, usize) -> f64,
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
    for segment in segments {
        for (i, query) in segment.queries.clone().enumerate() {
            let hidden_keys = if segment.causal {
                segment.queries.len() - 1 - i
            } else {
                0
            };
            let seen = segment.keys.start
                ..segment
                    .keys
                    .end
                    .saturating_sub(hidden_keys)
                    .max(segment.keys.start);
            for head in 0..heads {
                let logits: Vec<f64> = seen.clone().map(|key| logit(query, head, key)).collect();
                let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if largest == f64::NEG_INFINITY {
                    continue;
                }
                let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
                for (key, logit) in seen.clone().zip(&logits) {
                    let p = (logit - largest).exp() / sum;
                    for (out, value) in all.out.at_mut(query, head).iter_mut().zip(value(key, head))
                    {
                        *out += p * value;
                    }
                }
                all.lse.at_mut(query, head)[0] = largest + sum.ln();
                all.max_logit.at_mut(query, head)[0] = largest;
            }
        }
    }
    all
}

/// Joins attention over two sets of keys: weights `e^(l_i - l)` with `l = ln(e^l_1 + e^l_2)`.
pub(super) fn merge(a: &Attended, b: &Attended) -> Attended {
    let mut merged = a.clone();
    for row in 0..a.out.rows {
        for head in 0..a.out.heads {
            let (one, other) = (a.lse.at(row, head)[0], b.lse.at(row, head)[0]);
            let largest = one.max(other);
            if largest == f64::NEG_INFINITY {
                continue;
            }
            let lse = largest + ((one - largest).exp() + (other - largest).exp()).ln();
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
