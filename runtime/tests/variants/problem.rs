//! Random problems, and their tensors.

use mla_runtime::{
    Attended, AttentionBias, Cpu, CpuDevice, CpuElement, Dropout, Heads, Mask, Padding, Rows,
    Scalar, Segments, Selection, Sinks, Softmax, Tensor, bf16,
};

use crate::plain::{self, Plain, Rule, Sequence, Softening, Tensors};

pub(crate) const DEVICE: CpuDevice = CpuDevice::new();
/// Heads of queries.
pub(crate) const H: usize = 4;
/// Most selected keys of a query.
pub(crate) const K: usize = 5;

/// SplitMix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(3).then(|| value(self))
    }

    /// Values that every element type holds exactly, so that only arithmetic differs.
    pub(crate) fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len)
            .map(|_| bf16::from_f64(self.below(4001) as f64 / 1000.0 - 2.0).to_f64())
            .collect()
    }
}

/// Sequences, and what is asked of them.
pub(crate) struct Problem {
    pub(crate) rule: Rule,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) softening: Softening,
}

impl Problem {
    pub(crate) fn random(dice: &mut Dice, longest: usize) -> Self {
        let rule = Rule {
            causal: dice.chance(2),
            left: dice.some(|dice| dice.below(longest)),
            right: dice.some(|dice| dice.below(longest)),
            chunk: dice.some(|dice| 1 + dice.below(longest)),
            blocks: dice.chance(3),
            given: dice.chance(4),
        };
        let selects = dice.chance(3);
        let (count, equal) = (1 + dice.below(3), 1 + dice.below(longest));
        let sequences = (0..count)
            .map(|_| {
                // A dense mask speaks of sequences of one length
                let len = if rule.given {
                    equal
                } else {
                    1 + dice.below(longest)
                };
                let mut ids: Vec<u32> = (0..len).map(|_| dice.below(3) as u32).collect();
                ids.sort_unstable();
                ids.rotate_left(dice.below(len));
                // Only runs: an id that would come back gives way
                let first = ids[0];
                let run = ids.iter().take_while(|&&id| id == first).count();
                ids[run..]
                    .iter_mut()
                    .filter(|id| **id == first)
                    .for_each(|id| *id = 0);
                Sequence {
                    queries: len,
                    keys: len,
                    blocks: ids,
                    bits: (0..len * len).map(|_| !dice.chance(3)).collect(),
                    selected: selects.then(|| selected(dice, len, len)),
                }
            })
            .collect();
        let bias = dice.some(|dice| {
            let shape = [if dice.chance(2) { 1 } else { H }, longest, longest + 1];
            (dice.values(shape.iter().product()), shape)
        });
        let softening = Softening {
            scale: 0.4,
            cap: dice.some(|dice| 0.5 + dice.below(8) as f64),
            bias,
            dropout: dice.some(|dice| Dropout {
                probability: dice.below(9) as f64 / 10.0,
                seed: dice.next(),
            }),
            sinks: dice.some(|dice| dice.values(H)),
        };
        Self {
            rule,
            sequences,
            softening,
        }
    }

    /// Sequences of so many queries and keys, all of which see each other.
    pub(crate) fn plain_sequences(lengths: &[(usize, usize)]) -> Self {
        let sequence = |&(queries, keys): &(usize, usize)| Sequence {
            queries,
            keys,
            ..Sequence::default()
        };
        Self {
            rule: Rule::default(),
            sequences: lengths.iter().map(sequence).collect(),
            softening: Softening {
                scale: 0.5,
                ..Softening::default()
            },
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.queries).sum()
    }

    pub(crate) fn segments(&self) -> Segments {
        let rows = self.rows();
        let mut mask = if self.rule.given {
            let bits: Vec<bool> = self.sequences.iter().flat_map(|s| s.bits.clone()).collect();
            Mask::visible(self.sequences.len(), self.sequences[0].queries, &bits)
        } else {
            let mut ends = vec![0];
            for sequence in &self.sequences {
                ends.push(ends[ends.len() - 1] + sequence.queries as u32);
            }
            Mask::cu_seqlens(&ends)
        };
        if self.rule.blocks {
            let ids: Vec<u32> = self
                .sequences
                .iter()
                .flat_map(|s| s.blocks.clone())
                .collect();
            mask = mask.with_blocks(&ids);
        }
        mask.segments(rows, self.rule.visibility(), Padding::Refused)
            .expect("segments")
    }

    /// The selection, where queries select.
    pub(crate) fn selection<T: CpuElement>(&self) -> Option<Selection<Cpu<T>, K>> {
        let lists: Option<Vec<Vec<Vec<u32>>>> =
            self.sequences.iter().map(|s| s.selected.clone()).collect();
        Some(Selection::from_lists(&DEVICE, &lists?.concat()).expect("a selection"))
    }

    /// All sequences' rows, one after another.
    pub(crate) fn plain(&self, q: &[f64], k: &[f64], v: &[f64], sizes: [usize; 4]) -> Plain {
        let [h, g, d, width] = sizes;
        let mut all = Plain::default();
        let (mut query, mut key) = (0, 0);
        for (number, sequence) in self.sequences.iter().enumerate() {
            let tensors = Tensors {
                q: &q[query * h * d..],
                k: &k[key * g * d..],
                v: &v[key * g * width..],
                sizes,
            };
            let one = plain::attention(&self.rule, sequence, number, &self.softening, &tensors);
            all.out.extend(one.out);
            all.lse.extend(one.lse);
            all.max.extend(one.max);
            query += sequence.queries;
            key += sequence.keys;
        }
        all
    }

    pub(crate) fn check<T: CpuElement, const D: usize>(
        &self,
        wanted: &Plain,
        tolerance: f64,
        attend: impl FnOnce(Softmax<'_, Cpu<T>>) -> mla_runtime::Result<Attended<Cpu<T>, H, D>>,
    ) {
        let softening = &self.softening;
        let bias = softening.bias.as_ref().map(|(values, shape)| {
            AttentionBias::from_f64(&DEVICE, values, *shape).expect("a bias")
        });
        let mut softmax = Softmax::scaled(softening.scale).dropout(softening.dropout);
        if let Some(cap) = softening.cap {
            softmax = softmax.soft_cap(cap);
        }
        if let Some(bias) = &bias {
            softmax = softmax.bias(bias);
        }
        let mut attended = attend(softmax).expect("attended");
        if let Some(sinks) = &softening.sinks {
            let sinks = Sinks::from_f64(&DEVICE, sinks).expect("sinks");
            attended = attended.with_sinks(&sinks).expect("sinks");
        }
        let found = [
            attended.to_vec(),
            attended.lse().to_vec(),
            attended.max_logit().to_vec(),
        ];
        for (found, wanted) in found
            .into_iter()
            .zip([&wanted.out, &wanted.lse, &wanted.max])
        {
            assert_close(&found.expect("values"), wanted, tolerance);
        }
    }
}

/// Positions for each query, some of them of no key at all.
pub(crate) fn selected(dice: &mut Dice, queries: usize, keys: usize) -> Vec<Vec<u32>> {
    (0..queries)
        .map(|_| {
            let mut list: Vec<u32> = (0..dice.below(K + 1))
                .map(|_| dice.below(keys + 2) as u32)
                .collect();
            list.sort_unstable();
            list.dedup();
            list
        })
        .collect()
}

pub(crate) fn assert_close<S: Scalar>(found: &[S], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (i, (x, &y)) in found.iter().zip(wanted).enumerate() {
        let x = x.to_f64();
        assert!(
            x == y || (x - y).abs() <= tolerance * (1.0 + y.abs()),
            "at {i}: {x} is not {y}"
        );
    }
}

pub(crate) fn tensor<T: CpuElement>(values: &[f64], width: usize) -> Tensor<Cpu<T>> {
    let values = values.iter().map(|&value| T::from_f64(value)).collect();
    Tensor::from_vec(&DEVICE, values, width).expect("whole rows")
}

pub(crate) fn heads<T: CpuElement, const N: usize, const D: usize>(
    values: &[f64],
) -> Heads<Cpu<T>, N, D> {
    Heads::try_from(tensor(values, N * D)).expect("heads")
}

pub(crate) fn rows<T: CpuElement, const W: usize>(values: &[f64]) -> Rows<Cpu<T>, W> {
    tensor(values, W).to_rows().expect("rows")
}

/// Some columns of rows of `width` values.
pub(crate) fn columns(values: &[f64], width: usize, range: std::ops::Range<usize>) -> Vec<f64> {
    values
        .chunks_exact(width)
        .flat_map(|row| row[range.clone()].to_vec())
        .collect()
}
