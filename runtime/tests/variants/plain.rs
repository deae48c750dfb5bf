//! Attention in plain `f64` loops: every rule about who sees whom is asked key by key, and softmax is taken over whole rows.

use mla_runtime::{Dropout, Visibility};

/// Who sees whom in one sequence, from scratch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    pub(crate) causal: bool,
    pub(crate) left: Option<usize>,
    pub(crate) right: Option<usize>,
    pub(crate) chunk: Option<usize>,
    pub(crate) blocks: bool,
    pub(crate) given: bool,
}

impl Rule {
    /// The same, as a layer is told.
    pub(crate) fn visibility(&self) -> Visibility {
        let mut visibility = match (self.given, self.causal) {
            (true, _) => Visibility::GIVEN,
            (false, true) => Visibility::CAUSAL,
            (false, false) => Visibility::FULL,
        };
        if self.left.is_some() || self.right.is_some() {
            visibility = visibility.window(self.left, self.right);
        }
        if let Some(tokens) = self.chunk {
            visibility = visibility.chunk(tokens);
        }
        if self.blocks {
            visibility = visibility.blocks();
        }
        visibility
    }

    /// Whether query `q` sees key `k`, in a sequence of so many queries and keys whose last ones stand at the same place.
    pub(crate) fn sees(&self, sequence: &Sequence, q: usize, k: usize) -> bool {
        let at = q as i64 + sequence.keys as i64 - sequence.queries as i64;
        let key = k as i64;
        let within =
            |limit: Option<usize>, distance: i64| limit.is_none_or(|l| distance <= l as i64);
        let rules = (!self.causal || self.given || key <= at)
            && within(self.left, at - key)
            && within(self.right, key - at)
            && self
                .chunk
                .is_none_or(|n| at.div_euclid(n as i64) == key.div_euclid(n as i64));
        let id = |i: i64| usize::try_from(i).ok().and_then(|i| sequence.blocks.get(i));
        let same_block =
            self.blocks && id(at).is_some_and(|&own| own != 0 && id(key) == Some(&own));
        let given = !self.given || sequence.bits[q * sequence.keys + k];
        (rules || same_block) && given
    }
}

/// One sequence of a problem.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sequence {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Ids of the keys' blocks.
    pub(crate) blocks: Vec<u32>,
    pub(crate) bits: Vec<bool>,
    /// Keys that each query selects.
    pub(crate) selected: Option<Vec<Vec<u32>>>,
}

/// What a softmax does beside scaling.
#[derive(Debug, Clone, Default)]
pub(crate) struct Softening {
    pub(crate) scale: f64,
    pub(crate) cap: Option<f64>,
    /// `[heads or 1, queries, keys]`.
    pub(crate) bias: Option<(Vec<f64>, [usize; 3])>,
    pub(crate) dropout: Option<Dropout>,
    pub(crate) sinks: Option<Vec<f64>>,
}

/// One sequence's tensors: `[queries, H, D]`, `[keys, G, D]`, `[keys, G, V]`.
pub(crate) struct Tensors<'a> {
    pub(crate) q: &'a [f64],
    pub(crate) k: &'a [f64],
    pub(crate) v: &'a [f64],
    /// H, G, D, V.
    pub(crate) sizes: [usize; 4],
}

/// Per query and head: output, log-sum-exp, largest logit.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub(crate) out: Vec<f64>,
    pub(crate) lse: Vec<f64>,
    pub(crate) max: Vec<f64>,
}

/// Attention of sequence `number`.
pub(crate) fn attention(
    rule: &Rule,
    sequence: &Sequence,
    number: usize,
    softening: &Softening,
    tensors: &Tensors<'_>,
) -> Plain {
    let [h, g, d, v] = tensors.sizes;
    let mut plain = Plain::default();
    for query in 0..sequence.queries {
        let seen: Vec<usize> = (0..sequence.keys)
            .filter(|&key| rule.sees(sequence, query, key))
            .filter(|&key| {
                let selected = sequence.selected.as_ref();
                selected.is_none_or(|selected| selected[query].contains(&(key as u32)))
            })
            .collect();
        for head in 0..h {
            let group = head * g / h;
            let logit = |&key: &usize| {
                let q = &tensors.q[(query * h + head) * d..][..d];
                let k = &tensors.k[(key * g + group) * d..][..d];
                let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                let scaled = softening.scale * dot;
                let capped = softening
                    .cap
                    .map_or(scaled, |cap| cap * (scaled / cap).tanh());
                capped
                    + softening
                        .bias
                        .as_ref()
                        .map_or(0.0, |(bias, [heads, qs, ks])| {
                            bias[((head % heads) * qs + query) * ks + key]
                        })
            };
            let logits: Vec<f64> = seen.iter().map(logit).collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
            plain.max.push(max);
            let sink = softening.sinks.as_ref().map(|sinks| sinks[head]);
            let all = sum + sink.map_or(0.0, |sink| (sink - max).exp());
            plain.lse.push(match sink {
                Some(sink) if seen.is_empty() => sink,
                None if seen.is_empty() => max,
                _ => max + all.ln(),
            });
            let mut out = vec![0.0; v];
            for (l, &key) in logits.iter().zip(&seen) {
                let kept = softening
                    .dropout
                    .map_or(1.0, |dropout| dropout.multiplier(number, head, query, key));
                for (out, v) in out.iter_mut().zip(&tensors.v[(key * g + group) * v..][..v]) {
                    *out += (l - max).exp() / all * kept * v;
                }
            }
            plain.out.extend(out);
        }
    }
    plain
}
