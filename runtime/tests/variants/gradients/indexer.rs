//! An indexer's loss against the formula in plain loops, and its gradients against differences of that.

use mla_runtime::{
    AttentionBias, Cpu, CpuElement, IndexerGradients, IndexerLoss, LossEpsilon, LossReduction,
    Mask, Padding, RopeKey, Segments, Selecting, Sinks, Softmax, Unrotated, Visibility, attention,
    bf16, indexer,
};
use proptest::prelude::*;

use super::asked::wide;
use crate::plain::Rule;
use crate::problem::{DEVICE, Dice, H, K, Problem, assert_close, columns, heads, rows};

/// Heads of the indexer, and their width.
const HI: usize = 3;
const DI: usize = 4;
const D: usize = 6;
const R: usize = 2;
const STEP: f64 = 1e-6;

/// A form of attention: which heads of keys there are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Expanded,
    Absorbed,
    Grouped,
}

const FORMS: [Form; 3] = [Form::Expanded, Form::Absorbed, Form::Grouped];

impl Form {
    fn key_heads(self) -> usize {
        match self {
            Form::Expanded => H,
            Form::Absorbed => 1,
            Form::Grouped => 2,
        }
    }
}

/// Operands, the last `R` of a key's `D` values shared by its heads where the form has them so.
struct Case<'a> {
    problem: &'a Problem,
    segments: Segments,
    form: Form,
    q: Vec<f64>,
    k: Vec<f64>,
    index: [Vec<f64>; 3],
    selecting: Selecting,
    loss: IndexerLoss,
}

impl<'a> Case<'a> {
    fn new(problem: &'a Problem, form: Form, dice: &mut Dice) -> Self {
        let count = problem.rows();
        let groups = form.key_heads();
        let mut k = dice.values(count * groups * D);
        for row in k.chunks_exact_mut(groups * D) {
            let shared = row[D - R..D].to_vec();
            for key in row.chunks_exact_mut(D) {
                key[D - R..].copy_from_slice(&shared);
            }
        }
        let reductions = [
            LossReduction::MeanValid,
            LossReduction::MeanAll,
            LossReduction::Sum,
        ];
        Self {
            problem,
            segments: problem.segments(),
            form,
            q: dice.values(count * H * D),
            k,
            index: [HI * DI, DI, HI].map(|width| dice.values(count * width)),
            selecting: Selecting {
                scale: 0.3,
                relu: dice.below(4) > 0,
                initial: 0,
                local: 0,
            },
            loss: IndexerLoss {
                coeff: 0.5 + dice.below(4) as f64,
                reduction: reductions[dice.below(3)],
                epsilon: [LossEpsilon::Add, LossEpsilon::Clamp][dice.below(2)],
            },
        }
    }

    /// The loss and its gradients, and the log-sum-exp that they were made with.
    fn run<T: CpuElement>(&self, scale: f64) -> (IndexerGradients<Cpu<T>, HI, DI>, Vec<f64>) {
        let softening = &self.problem.softening;
        let bias = softening.bias.as_ref().map(|(values, shape)| {
            AttentionBias::<Cpu<T>>::from_f64(&DEVICE, values, *shape).expect("a bias")
        });
        // What is dropped is not in the target
        let mut softmax = Softmax::scaled(softening.scale).dropout(softening.dropout);
        if let Some(cap) = softening.cap {
            softmax = softmax.soft_cap(cap);
        }
        if let Some(bias) = &bias {
            softmax = softmax.bias(bias);
        }
        let sinks = softening
            .sinks
            .as_ref()
            .map(|sinks| Sinks::from_f64(&DEVICE, sinks).expect("sinks"));
        let chosen = self.problem.selection::<T>();
        let chosen = chosen.as_ref();
        let (selecting, loss, segments) = (&self.selecting, &self.loss, &self.segments);
        let [iq, ik, iw] = &self.index;
        let (iq, ik) = (heads::<T, HI, DI>(iq), rows::<T, DI>(ik));
        let iw = rows::<T, HI>(iw).view().to_per_head().expect("a copy");
        let groups = self.form.key_heads();
        let q = heads::<T, H, D>(&self.q);
        let k_rope = columns(&self.k, groups * D, D - R..D);
        let k_rope: RopeKey<Cpu<T>, Unrotated, R> =
            RopeKey::unrotated(&rows::<T, R>(&k_rope)).expect("key");
        macro_rules! sunk {
            ($attended:expr) => {{
                let mut attended = $attended.expect("attended");
                if let Some(sinks) = &sinks {
                    attended = attended.with_sinks(sinks).expect("sunk");
                }
                attended.into_parts().expect("parts").1
            }};
        }
        let (found, lse) = match self.form {
            Form::Grouped => {
                let k = heads::<T, 2, D>(&self.k);
                let lse = sunk!(match chosen {
                    Some(c) => attention::grouped_selected(&q, &k, &k, segments, c, softmax),
                    None => attention::grouped(&q, &k, &k, segments, softmax),
                });
                let found = indexer::loss_grouped(
                    &q, &k, &lse, segments, softmax, chosen, &iq, &ik, &iw, selecting, loss, scale,
                );
                (found, lse)
            }
            Form::Expanded => {
                // A value that the loss does not read
                let keys = self.k.chunks_exact(D);
                let kv: Vec<f64> = keys.flat_map(|k| [&k[..D - R], &[7.0]].concat()).collect();
                let kv = heads::<T, H, { D - R + 1 }>(&kv);
                let lse = sunk!(match chosen {
                    Some(c) => {
                        attention::expanded_selected::<_, _, H, D, _, R, 1, K>(
                            &q, &kv, &k_rope, segments, c, softmax,
                        )
                    }
                    None => attention::expanded::<_, _, H, D, _, R, 1>(
                        &q, &kv, &k_rope, segments, softmax,
                    ),
                });
                let found = indexer::loss_expanded(
                    &q, &kv, &k_rope, &lse, segments, softmax, chosen, &iq, &ik, &iw, selecting,
                    loss, scale,
                );
                (found, lse)
            }
            Form::Absorbed => {
                let latent = rows::<T, { D - R }>(&columns(&self.k, D, 0..D - R));
                let q_latent = q.part::<0, { D - R }>().to_heads().expect("a copy");
                let q_rope = q.part::<{ D - R }, R>();
                let lse = sunk!(match chosen {
                    Some(c) => attention::absorbed_selected(
                        &q_latent, q_rope, &latent, &k_rope, segments, c, softmax,
                    ),
                    None =>
                        attention::absorbed(&q_latent, q_rope, &latent, &k_rope, segments, softmax,),
                });
                let found = indexer::loss_absorbed(
                    &q_latent, q_rope, &latent, &k_rope, &lse, segments, softmax, chosen, &iq, &ik,
                    &iw, selecting, loss, scale,
                );
                (found, lse)
            }
        };
        (found.expect("a loss"), wide(&lse.to_vec().expect("values")))
    }

    /// The loss by its formula, of these index operands.
    fn plain(&self, index: &[Vec<f64>; 3], lse: &[f64]) -> f64 {
        let softening = &self.problem.softening;
        let (mut sum, mut valid) = (0.0, 0);
        let chosen = self.problem.selection::<f64>();
        let chosen = chosen.map(|chosen| chosen.to_vec().expect("values"));
        for segment in self.segments.list() {
            for i in 0..segment.queries.len() {
                let row = segment.queries.start + i;
                let seen = (0..segment.keys.len()).filter(|&key| {
                    self.segments.sees(segment, i, key)
                        && chosen
                            .as_ref()
                            .is_none_or(|all| all[row * K..(row + 1) * K].contains(&(key as i32)))
                });
                let seen: Vec<usize> = seen.collect();
                if seen.is_empty() {
                    continue;
                }
                valid += 1;
                let target: Vec<f64> = seen
                    .iter()
                    .map(|&key| {
                        (0..H)
                            .map(|head| {
                                let group = head * self.form.key_heads() / H;
                                let at = (segment.keys.start + key) * self.form.key_heads() + group;
                                let q = &self.q[(row * H + head) * D..][..D];
                                let k = &self.k[at * D..][..D];
                                let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                                let mut logit = softening.scale * dot;
                                if let Some(cap) = softening.cap {
                                    logit = cap * (logit / cap).tanh();
                                }
                                if let Some((bias, [heads, qs, ks])) = &softening.bias {
                                    logit += bias[((head % heads) * qs + i) * ks + key];
                                }
                                (logit - lse[row * H + head]).exp()
                            })
                            .sum()
                    })
                    .collect();
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&key| self.score(index, row, segment.keys.start + key))
                    .collect();
                sum += self.divergence(&target, &scores);
            }
        }
        let share = match self.loss.reduction {
            LossReduction::MeanValid => 1.0 / f64::max(f64::from(valid), 1.0),
            LossReduction::MeanAll => 1.0 / self.segments.queries() as f64,
            LossReduction::Sum => 1.0,
        };
        self.loss.coeff * share * sum
    }

    fn score(&self, [q, k, weights]: &[Vec<f64>; 3], row: usize, key: usize) -> f64 {
        let k = &k[key * DI..][..DI];
        let each = (0..HI).map(|head| {
            let q = &q[(row * HI + head) * DI..][..DI];
            let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
            let dot = if self.selecting.relu {
                dot.max(0.0)
            } else {
                dot
            };
            weights[row * HI + head] * dot
        });
        self.selecting.scale * each.sum::<f64>()
    }

    fn divergence(&self, target: &[f64], scores: &[f64]) -> f64 {
        let added = if self.loss.epsilon == LossEpsilon::Add {
            1e-8
        } else {
            0.0
        };
        let norm = target.iter().sum::<f64>() + added;
        let all = scores.iter().map(|score| score.exp()).sum::<f64>();
        target
            .iter()
            .zip(scores)
            .map(|(target, score)| {
                let p = target / norm;
                match self.loss.epsilon {
                    LossEpsilon::Add => p * ((p + 1e-8).ln() - (score.exp() / all + 1e-8).ln()),
                    LossEpsilon::Clamp => p * (p.max(1e-10).ln() - (score - all.ln())),
                }
            })
            .sum()
    }

    /// The loss is the formula's, and each gradient its difference.
    fn check(&self) {
        let scale = 3.0;
        let (found, lse) = self.run::<f64>(scale);
        assert_close(&[found.loss], &[self.plain(&self.index, &lse)], 1e-11);
        let gradients = [
            found.q.to_vec().expect("values"),
            found.k.to_vec().expect("values"),
            found.weights.to_vec().expect("values"),
        ];
        for (which, gradient) in gradients.iter().enumerate() {
            let wanted: Vec<f64> = (0..gradient.len())
                .map(|i| {
                    let moved = |step: f64| {
                        let mut index = self.index.clone();
                        index[which][i] += step;
                        self.plain(&index, &lse)
                    };
                    scale * (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
                })
                .collect();
            assert_close(gradient, &wanted, 3e-7);
        }
    }
}

/// Random problems, with every reduction and epsilon; a third of them over selected keys.
#[test]
fn any_problem() {
    for seed in 0..60 {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 5);
        for form in FORMS {
            Case::new(&problem, form, dice).check();
        }
    }
}

#[test]
fn every_reduction_and_epsilon_in_both_stages() {
    let dice = &mut Dice(61);
    for selects in [false, true] {
        let mut problem = Problem::plain_sequences(&[(6, 6), (3, 3)]);
        problem.rule.causal = true;
        for sequence in &mut problem.sequences {
            let len = sequence.queries;
            sequence.selected = selects.then(|| crate::problem::selected(dice, len, len));
        }
        for form in FORMS {
            for reduction in [
                LossReduction::MeanValid,
                LossReduction::MeanAll,
                LossReduction::Sum,
            ] {
                for epsilon in [LossEpsilon::Add, LossEpsilon::Clamp] {
                    let mut case = Case::new(&problem, form, dice);
                    case.loss.reduction = reduction;
                    case.loss.epsilon = epsilon;
                    case.check();
                }
            }
        }
    }
}

/// Padding counts where the mean is over all rows, and nowhere else; its rows have no gradients, whatever stands in them.
#[test]
fn padded_rows() {
    let problem = Problem::plain_sequences(&[(14, 14)]);
    let mut real = [true; 14];
    real[..3].fill(false);
    real[12..].fill(false);
    for form in FORMS {
        let mut losses = Vec::new();
        for reduction in [
            LossReduction::Sum,
            LossReduction::MeanValid,
            LossReduction::MeanAll,
        ] {
            let mut case = Case::new(&problem, form, &mut Dice(71));
            case.segments = Mask::padded(2, 7, &real)
                .segments(14, Visibility::CAUSAL, Padding::Allowed)
                .expect("segments");
            case.loss.reduction = reduction;
            case.check();
            let (clean, _) = case.run::<f64>(1.0);
            losses.push(clean.loss);
            for row in (0..14).filter(|&row| !real[row]) {
                case.q[row * H * D..(row + 1) * H * D].fill(f64::NAN);
                for (values, width) in case.index.iter_mut().zip([HI * DI, DI, HI]) {
                    values[row * width..(row + 1) * width].fill(f64::NAN);
                }
            }
            let (dirty, _) = case.run::<f64>(1.0);
            assert_eq!(dirty.loss, clean.loss);
            assert_eq!(dirty.q.to_vec().expect("q"), clean.q.to_vec().expect("q"));
            assert_eq!(dirty.k.to_vec().expect("k"), clean.k.to_vec().expect("k"));
            let weights = dirty.weights.to_vec().expect("weights");
            assert_eq!(weights, clean.weights.to_vec().expect("weights"));
            assert!(weights[..3 * HI].iter().all(|&x| x == 0.0));
        }
        assert_close(&[losses[0] / 9.0, losses[0] / 14.0], &losses[1..], 1e-13);
    }
}

/// A row that is no number spoils the loss, and the gradients of those that see it, but no others.
#[test]
fn a_poisoned_row_stays_with_those_who_see_it() {
    for len in [9, 300] {
        let mut problem = Problem::plain_sequences(&[(len, len)]);
        problem.rule = Rule {
            causal: true,
            left: Some(2),
            ..Rule::default()
        };
        for form in FORMS {
            let mut case = Case::new(&problem, form, &mut Dice(73));
            let (clean, _) = case.run::<f64>(1.0);
            // The query sees keys 3, 4 and 5
            case.index[0][5 * HI * DI..6 * HI * DI].fill(f64::NAN);
            let (dirty, _) = case.run::<f64>(1.0);
            assert!(dirty.loss.is_nan());
            let of = |found: &IndexerGradients<Cpu<f64>, HI, DI>| {
                let (q, k) = (found.q.to_vec(), found.k.to_vec());
                (q.expect("values"), k.expect("values"))
            };
            let ((q, k), (clean_q, clean_k)) = (of(&dirty), of(&clean));
            for row in 0..len {
                let (own_q, own_k) = (row * HI * DI..(row + 1) * HI * DI, row * DI..(row + 1) * DI);
                if row == 5 {
                    assert!(q[own_q].iter().any(|x| x.is_nan()));
                } else {
                    assert_close(&q[own_q.clone()], &clean_q[own_q], 1e-13);
                }
                if (3..=5).contains(&row) {
                    assert!(k[own_k].iter().any(|x| x.is_nan()));
                } else {
                    assert_close(&k[own_k.clone()], &clean_k[own_k], 1e-13);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Many tiles and blocks: the loss is the formula's, two runs and any threads agree, and narrower numbers are near.
    #[test]
    fn any_problem_over_several_blocks(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 600);
        for form in FORMS {
            let case = Case::new(&problem, form, dice);
            let (found, lse) = case.run::<f64>(1.0);
            let wanted = case.plain(&case.index, &lse);
            assert_close(&[found.loss], &[wanted], 1e-10);
            let k = found.k.to_vec().expect("values");
            let again = case.run::<f64>(1.0).0.k.to_vec().expect("values");
            prop_assert_eq!(&k, &again);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
            let (other, _) = pool.install(|| case.run::<f64>(1.0));
            assert_close(&other.k.to_vec().expect("values"), &k, 1e-11);
            let single = case.run::<f32>(1.0).0;
            prop_assert!((single.loss - wanted).abs() < 1e-3 * (1.0 + wanted.abs()));
            let near = |found: Vec<f64>, wanted: &[f64], most: f64| {
                let square = |x: f64| x * x;
                let norm: f64 = wanted.iter().copied().map(square).sum();
                let missed: f64 = found.iter().zip(wanted).map(|(x, y)| square(x - y)).sum();
                missed <= most * most * norm + 1e-20
            };
            prop_assert!(near(wide(&single.k.to_vec().expect("values")), &k, 1e-3));
            let half = case.run::<bf16>(1.0).0;
            prop_assert!(near(wide(&half.k.to_vec().expect("values")), &k, 2e-2));
        }
    }
}

#[test]
fn wrong_rows_and_constants_are_refused() {
    let problem = Problem::plain_sequences(&[(3, 3)]);
    let segments = problem.segments();
    let (q, few) = (
        heads::<f64, H, D>(&[0.5; 3 * H * D]),
        heads::<f64, H, D>(&[0.5; 2 * H * D]),
    );
    let lse = attention::grouped(&q, &q, &q, &segments, 0.5).expect("attended");
    let lse = lse.into_parts().expect("parts").1;
    let (iq, ik) = (
        heads::<f64, HI, DI>(&[0.5; 3 * HI * DI]),
        rows::<f64, DI>(&[0.5; 3 * DI]),
    );
    let few_k = rows::<f64, DI>(&[0.5; 2 * DI]);
    let weights = |count: usize| {
        let rows = rows::<f64, HI>(&vec![0.5; count * HI]);
        rows.view().to_per_head().expect("a copy")
    };
    let (w, few_w) = (weights(3), weights(2));
    let selecting = Selecting {
        scale: 1.0,
        relu: true,
        initial: 0,
        local: 0,
    };
    let loss = IndexerLoss {
        coeff: 1.0,
        reduction: LossReduction::Sum,
        epsilon: LossEpsilon::Add,
    };
    let run = |k, ik, w, loss: IndexerLoss, scale: f64| {
        indexer::loss_grouped(
            &q,
            k,
            &lse,
            &segments,
            0.5,
            None::<&mla_runtime::Selection<Cpu<f64>, K>>,
            &iq,
            ik,
            w,
            &selecting,
            &loss,
            scale,
        )
        .is_ok()
    };
    assert!(run(&q, &ik, &w, loss, 1.0));
    assert!(!run(&few, &ik, &w, loss, 1.0));
    assert!(!run(&q, &few_k, &w, loss, 1.0));
    assert!(!run(&q, &ik, &few_w, loss, 1.0));
    assert!(!run(&q, &ik, &w, loss, f64::NAN));
    let coeff = f64::INFINITY;
    assert!(!run(&q, &ik, &w, IndexerLoss { coeff, ..loss }, 1.0));
}
