//! Attention in every form and with everything that may stand around its softmax, against plain `f64` loops.

mod plain;

use mla_runtime::{
    Attended, AttentionBias, Cpu, CpuDevice, CpuElement, Dropout, Heads, Mask, Padding, RopeKey,
    Rows, Scalar, Segments, Selection, Sinks, Softmax, Tensor, Unrotated, Visibility, attention,
    bf16,
};
use plain::{Plain, Rule, Sequence, Softening, Tensors};
use proptest::prelude::*;

const DEVICE: CpuDevice = CpuDevice::new();
const H: usize = 4;
const K: usize = 5;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(3).then(|| value(self))
    }

    /// Values that every element type holds exactly, so that only arithmetic differs.
    fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len)
            .map(|_| bf16::from_f64(self.below(4001) as f64 / 1000.0 - 2.0).to_f64())
            .collect()
    }
}

/// Sequences, and what is asked of them.
struct Problem {
    rule: Rule,
    sequences: Vec<Sequence>,
    softening: Softening,
}

impl Problem {
    fn random(dice: &mut Dice, longest: usize) -> Self {
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

    fn rows(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.queries).sum()
    }

    fn segments(&self) -> Segments {
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
    fn selection<T: CpuElement>(&self) -> Option<Selection<Cpu<T>, K>> {
        let lists: Option<Vec<Vec<Vec<u32>>>> =
            self.sequences.iter().map(|s| s.selected.clone()).collect();
        Some(Selection::from_lists(&DEVICE, &lists?.concat()).expect("a selection"))
    }

    /// All sequences' rows, one after another.
    fn plain(&self, q: &[f64], k: &[f64], v: &[f64], sizes: [usize; 4]) -> Plain {
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

    fn check<T: CpuElement, const D: usize>(
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
fn selected(dice: &mut Dice, queries: usize, keys: usize) -> Vec<Vec<u32>> {
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

fn assert_close<S: Scalar>(found: &[S], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (i, (x, &y)) in found.iter().zip(wanted).enumerate() {
        let x = x.to_f64();
        assert!(
            x == y || (x - y).abs() <= tolerance * (1.0 + y.abs()),
            "at {i}: {x} is not {y}"
        );
    }
}

fn tensor<T: CpuElement>(values: &[f64], width: usize) -> Tensor<Cpu<T>> {
    let values = values.iter().map(|&value| T::from_f64(value)).collect();
    Tensor::from_vec(&DEVICE, values, width).expect("whole rows")
}

fn heads<T: CpuElement, const N: usize, const D: usize>(values: &[f64]) -> Heads<Cpu<T>, N, D> {
    Heads::try_from(tensor(values, N * D)).expect("heads")
}

fn rows<T: CpuElement, const W: usize>(values: &[f64]) -> Rows<Cpu<T>, W> {
    tensor(values, W).to_rows().expect("rows")
}

/// Some columns of rows of `width` values.
fn columns(values: &[f64], width: usize, range: std::ops::Range<usize>) -> Vec<f64> {
    values
        .chunks_exact(width)
        .flat_map(|row| row[range.clone()].to_vec())
        .collect()
}

fn grouped<T: CpuElement, const G: usize>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const D: usize = 6;
    const V: usize = 3;
    let count = problem.rows();
    let [q, k, v] = [H * D, G * D, G * V].map(|width| dice.values(count * width));
    let wanted = problem.plain(&q, &k, &v, [H, G, D, V]);
    let (q, k, v) = (
        heads::<T, H, D>(&q),
        heads::<T, G, D>(&k),
        heads::<T, G, V>(&v),
    );
    let segments = problem.segments();
    problem.check(&wanted, tolerance, |softmax| match problem.selection() {
        Some(selection) => attention::grouped_selected(&q, &k, &v, &segments, &selection, softmax),
        None => attention::grouped(&q, &k, &v, &segments, softmax),
    });
}

fn expanded<T: CpuElement>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const N: usize = 4;
    const R: usize = 2;
    const V: usize = 3;
    let count = problem.rows();
    let [q, kv, k_rope] = [H * (N + R), H * (N + V), R].map(|width| dice.values(count * width));
    let keys: Vec<f64> = (0..count * H)
        .flat_map(|i| {
            let own = &kv[i * (N + V)..][..N];
            [own, &k_rope[i / H * R..][..R]].concat()
        })
        .collect();
    let values = columns(&kv, N + V, N..N + V);
    let wanted = problem.plain(&q, &keys, &values, [H, H, N + R, V]);
    let (q, kv) = (heads::<T, H, { N + R }>(&q), heads::<T, H, { N + V }>(&kv));
    let k_rope: RopeKey<Cpu<T>, Unrotated, R> =
        RopeKey::unrotated(&rows::<T, R>(&k_rope)).expect("key");
    let segments = problem.segments();
    problem.check::<T, V>(&wanted, tolerance, |softmax| match problem.selection() {
        Some(selection) => {
            attention::expanded_selected(&q, &kv, &k_rope, &segments, &selection, softmax)
        }
        None => attention::expanded(&q, &kv, &k_rope, &segments, softmax),
    });
}

fn absorbed<T: CpuElement>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const C: usize = 5;
    const R: usize = 2;
    let count = problem.rows();
    let [q, keys] = [H * (C + R), C + R].map(|width| dice.values(count * width));
    let latents = columns(&keys, C + R, 0..C);
    let wanted = problem.plain(&q, &keys, &latents, [H, 1, C + R, C]);
    let q = heads::<T, H, { C + R }>(&q);
    let q_latent = q.part::<0, C>().to_heads().expect("a copy");
    let q_rope = q.part::<C, R>();
    let latent = rows::<T, C>(&latents);
    let k_rope = rows::<T, R>(&columns(&keys, C + R, C..C + R));
    let k_rope: RopeKey<Cpu<T>, Unrotated, R> = RopeKey::unrotated(&k_rope).expect("key");
    let segments = problem.segments();
    problem.check(&wanted, tolerance, |softmax| match problem.selection() {
        Some(selection) => attention::absorbed_selected(
            &q_latent, q_rope, &latent, &k_rope, &segments, &selection, softmax,
        ),
        None => attention::absorbed(&q_latent, q_rope, &latent, &k_rope, &segments, softmax),
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_problem_in_every_form(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 13);
        grouped::<f64, 1>(&problem, dice, 1e-12);
        grouped::<f64, 2>(&problem, dice, 1e-12);
        grouped::<f64, 4>(&problem, dice, 1e-12);
        expanded::<f64>(&problem, dice, 1e-12);
        absorbed::<f64>(&problem, dice, 1e-12);
        grouped::<f32, 2>(&problem, dice, 2e-5);
        absorbed::<bf16>(&problem, dice, 2e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_problem_over_several_blocks(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 700);
        grouped::<f64, 2>(&problem, dice, 1e-11);
        expanded::<f32>(&problem, dice, 1e-4);
        absorbed::<f64>(&problem, dice, 1e-11);
    }
}

/// Queries of one tensor against keys of another, sequence by sequence.
#[test]
fn queries_see_another_sequence() {
    const D: usize = 4;
    let lengths = [(3, 7), (5, 2), (1, 1), (4, 4), (2, 9)];
    for causal in [false, true] {
        let sequences = lengths.map(|(queries, keys)| Sequence {
            queries,
            keys,
            ..Sequence::default()
        });
        let problem = Problem {
            rule: Rule {
                causal,
                ..Rule::default()
            },
            sequences: sequences.to_vec(),
            softening: Softening {
                scale: 0.5,
                ..Softening::default()
            },
        };
        let (queries, keys) = (15, 23);
        let dice = &mut Dice(7);
        let q = dice.values(queries * H * D);
        let [k, v] = [0, 1].map(|_| dice.values(keys * H * D));
        let wanted = problem.plain(&q, &k, &v, [H, H, D, D]);
        let segments = Mask::cu_seqlens(&[0, 3, 8, 9, 13, 15])
            .across(
                queries,
                &Mask::cu_seqlens(&[0, 7, 9, 10, 14, 23]),
                keys,
                problem.rule.visibility(),
                Padding::Refused,
            )
            .expect("segments");
        let (q, k, v) = (
            heads::<f64, H, D>(&q),
            heads::<f64, H, D>(&k),
            heads::<f64, H, D>(&v),
        );
        problem.check(&wanted, 1e-12, |softmax| {
            attention::grouped(&q, &k, &v, &segments, softmax)
        });
    }
}

#[test]
fn masks_of_different_sequences_do_not_pair() {
    let (two, three) = (Mask::dense(2, 3), Mask::dense(3, 2));
    assert!(
        two.across(6, &three, 6, Visibility::FULL, Padding::Refused)
            .is_err()
    );
    // A sequence that is all padding keeps its number
    let real = [true, true, false, false, true, false];
    let padded = Mask::padded(3, 2, &real);
    let segments = padded
        .across(6, &three, 6, Visibility::FULL, Padding::Allowed)
        .expect("three sequences each");
    let pairs: Vec<_> = segments
        .list()
        .iter()
        .map(|segment| {
            (
                segment.queries.clone(),
                segment.keys.clone(),
                segment.sequence,
            )
        })
        .collect();
    assert_eq!(pairs, [(0..2, 0..2, 0), (4..5, 4..6, 2)]);
}

/// What is no number stays with those who see it.
#[test]
fn a_poisoned_token_reaches_nobody_who_does_not_see_it() {
    const D: usize = 4;
    let window = Rule {
        causal: true,
        left: Some(2),
        ..Rule::default()
    };
    let full = Rule::default();
    for (len, rule) in [(9, &window), (300, &window), (9, &full), (300, &full)] {
        for poison in [f64::NAN, f64::INFINITY] {
            for poisoned in [0, 3, len - 1] {
                let sequence = Sequence {
                    queries: len,
                    keys: len,
                    selected: (rule.left.is_none()).then(|| vec![vec![1, 4]; len]),
                    ..Sequence::default()
                };
                let dice = &mut Dice(len as u64);
                let [q, mut k, mut v] = [0, 1, 2].map(|_| dice.values(len * H * D));
                let segments = Mask::dense(1, len)
                    .segments(len, rule.visibility(), Padding::Refused)
                    .expect("segments");
                let selection = sequence.selected.as_ref().map(|lists| {
                    Selection::<Cpu<f64>, K>::from_lists(&DEVICE, lists).expect("a selection")
                });
                let mut run = |poison: Option<f64>| {
                    if let Some(poison) = poison {
                        k[poisoned * H * D..][..H * D].fill(poison);
                        v[poisoned * H * D..][..H * D].fill(poison);
                    }
                    let (q, k, v) = (
                        heads::<f64, H, D>(&q),
                        heads::<f64, H, D>(&k),
                        heads::<f64, H, D>(&v),
                    );
                    let attended = match &selection {
                        Some(selection) => {
                            attention::grouped_selected(&q, &k, &v, &segments, selection, 0.5)
                        }
                        None => attention::grouped(&q, &k, &v, &segments, 0.5),
                    };
                    attended.expect("attended").to_vec().expect("values")
                };
                let (clean, dirty) = (run(None), run(Some(poison)));
                for query in 0..len {
                    let own = query * H * D..(query + 1) * H * D;
                    let selects = sequence
                        .selected
                        .as_ref()
                        .is_none_or(|lists| lists[query].contains(&(poisoned as u32)));
                    if rule.sees(&sequence, query, poisoned) && selects {
                        assert!(dirty[own].iter().any(|x| !x.is_finite()));
                    } else {
                        assert_close(&dirty[own.clone()], &clean[own], 1e-14);
                    }
                }
            }
        }
    }
}

/// Rounding happens once, however many parts the keys come in.
#[test]
fn a_long_context_in_many_parts_is_rounded_once() {
    const PARTS: usize = 600;
    let dice = &mut Dice(3);
    let v: Vec<f64> = (0..PARTS)
        .map(|_| 1.0 + dice.below(64) as f64 / 64.0)
        .collect();
    let mean = v.iter().sum::<f64>() / PARTS as f64;
    let segments = Mask::dense(1, 1)
        .segments(1, Visibility::FULL, Padding::Refused)
        .expect("segments");
    let one = |v: f64| {
        let (q, v) = (heads::<bf16, 1, 1>(&[0.0]), heads::<bf16, 1, 1>(&[v]));
        attention::grouped(&q, &q, &v, &segments, 1.0).expect("attended")
    };
    let mut whole = one(v[0]);
    for &v in &v[1..] {
        whole.merge(&one(v)).expect("merged");
    }
    let exact = whole.to_vec().expect("values")[0];
    assert!((f64::from(exact) / mean - 1.0).abs() < 1e-5);
    let out = whole.into_out().expect("rounded").to_vec().expect("values");
    assert_eq!(out, [bf16::from_f64(mean)]);
}

/// One more logit, of no value: the softmax with it, computed as such.
#[test]
fn off_by_one_is_a_sink_at_zero() {
    let segments = Mask::padded(1, 3, &[true, true, false])
        .segments(3, Visibility::CAUSAL, Padding::Allowed)
        .expect("segments");
    let (q, v) = (
        heads::<f64, 2, 1>(&[1.0; 6]),
        heads::<f64, 2, 1>(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    );
    let run = || attention::grouped(&q, &q, &v, &segments, 0.5).expect("attended");
    let sunk = run().off_by_one().expect("sunk");
    let e = 0.5_f64.exp();
    let wanted = [
        e / (e + 1.0),
        2.0 * e / (e + 1.0),
        4.0 * e / (2.0 * e + 1.0),
        6.0 * e / (2.0 * e + 1.0),
        0.0,
        0.0,
    ];
    assert_close(&sunk.to_vec().expect("values"), &wanted, 1e-15);
    let (one, two) = ((e + 1.0).ln(), (2.0 * e + 1.0).ln());
    let lse = [one, one, two, two, 0.0, 0.0];
    assert_close(&sunk.lse().to_vec().expect("values"), &lse, 1e-15);
    let zeros = Sinks::from_f64(&DEVICE, &[0.0; 2]).expect("sinks");
    let same = run().with_sinks(&zeros).expect("sunk");
    assert_eq!(
        same.to_vec().expect("values"),
        sunk.to_vec().expect("values")
    );
    assert!(Sinks::<Cpu<f64>, 2>::from_f64(&DEVICE, &[0.0; 3]).is_err());
}

#[test]
fn dropout_drops_as_many_as_it_says_and_keeps_the_mean() {
    let dropout = Dropout {
        probability: 0.3,
        seed: 11,
    };
    let all: Vec<f64> = (0..100_000)
        .map(|i| dropout.multiplier(i % 3, i % 7, i / 300, i % 300))
        .collect();
    let dropped = all.iter().filter(|&&x| x == 0.0).count() as f64 / all.len() as f64;
    assert!((dropped - 0.3).abs() < 0.005, "{dropped}");
    assert!(all.iter().all(|&x| x == 0.0 || x == 1.0 / 0.7));
    let other = Dropout {
        seed: 12,
        ..dropout
    };
    let equal =
        (0..1000).filter(|&k| dropout.multiplier(0, 0, 0, k) == other.multiplier(0, 0, 0, k));
    let equal = equal.count() as f64 / 1000.0;
    assert!((equal - 0.58).abs() < 0.06, "{equal}");
}

#[test]
fn unusable_softmaxes_are_refused() {
    let segments = Mask::dense(1, 3)
        .segments(3, Visibility::CAUSAL, Padding::Refused)
        .expect("segments");
    let x = heads::<f64, 2, 1>(&[1.0; 6]);
    let refused = |softmax: Softmax<'_, Cpu<f64>>| {
        attention::grouped(&x, &x, &x, &segments, softmax).is_err()
    };
    let plain = Softmax::scaled(1.0);
    assert!(!refused(plain));
    assert!(refused(Softmax::scaled(f64::NAN)));
    for cap in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        assert!(refused(plain.soft_cap(cap)));
    }
    for probability in [-0.1, 1.0, f64::NAN] {
        let dropout = Dropout {
            probability,
            seed: 0,
        };
        assert!(refused(plain.dropout(Some(dropout))));
    }
    for shape in [[3, 3, 3], [1, 2, 3], [2, 3, 2]] {
        let values = vec![0.0; shape.iter().product()];
        let bias = AttentionBias::from_f64(&DEVICE, &values, shape).expect("a bias");
        assert!(refused(plain.bias(&bias)), "{shape:?}");
    }
    assert!(AttentionBias::<Cpu<f64>>::from_f64(&DEVICE, &[0.0; 5], [1, 2, 3]).is_err());
    let selection = Selection::<Cpu<f64>, K>::from_lists(&DEVICE, &[[0]; 2]).expect("lists");
    assert!(attention::grouped_selected(&x, &x, &x, &segments, &selection, 1.0).is_err());
}

#[test]
fn inputs_say_as_much_as_the_layer_was_told() {
    let ask = |mask: Mask, visibility| mask.segments(4, visibility, Padding::Refused).is_ok();
    let dense = || Mask::dense(2, 2);
    let given = |len| Mask::visible(2, 2, &vec![true; len]);
    assert!(ask(given(8), Visibility::GIVEN));
    assert!(!ask(given(7), Visibility::GIVEN));
    assert!(!ask(given(8), Visibility::CAUSAL));
    assert!(!ask(dense(), Visibility::GIVEN));
    let blocks = Visibility::CAUSAL.blocks();
    assert!(ask(dense(), blocks));
    assert!(ask(dense().with_blocks(&[1, 0, 1, 1]), blocks));
    assert!(!ask(dense().with_blocks(&[1, 0, 1]), blocks));
    assert!(!ask(dense().with_blocks(&[1, 0, 1, 1]), Visibility::CAUSAL));
    let hole = Mask::dense(1, 4).with_blocks(&[2, 0, 2, 2]);
    assert!(hole.segments(4, blocks, Padding::Refused).is_err());
}
