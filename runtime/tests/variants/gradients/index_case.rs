//! An indexer's loss, and its formula in plain loops.

use mla_runtime::{
    Attended, AttentionBias, Cpu, CpuElement, IndexerGradients, IndexerLoss, LossEpsilon,
    LossReduction, PerHead, RopeKey, Segments, Selecting, Sinks, Softmax, Unrotated, attention,
    indexer,
};

use super::asked::wide;
use crate::problem::{DEVICE, Dice, H, K, Problem, assert_close, columns, heads, rows};

/// Heads of the indexer, and their width.
pub(super) const HI: usize = 3;
pub(super) const DI: usize = 4;
pub(super) const D: usize = 6;
const R: usize = 2;
const STEP: f64 = 1e-6;

/// A form of attention: which heads of keys there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Expanded,
    Absorbed,
    Grouped,
}

pub(super) const FORMS: [Form; 3] = [Form::Expanded, Form::Absorbed, Form::Grouped];

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
pub(super) struct Case<'a> {
    pub(super) problem: &'a Problem,
    pub(super) segments: Segments,
    pub(super) form: Form,
    pub(super) q: Vec<f64>,
    pub(super) k: Vec<f64>,
    pub(super) index: [Vec<f64>; 3],
    pub(super) selecting: Selecting,
    pub(super) loss: IndexerLoss,
}

impl<'a> Case<'a> {
    pub(super) fn new(problem: &'a Problem, form: Form, dice: &mut Dice) -> Self {
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
    pub(super) fn run<T: CpuElement>(
        &self,
        scale: f64,
    ) -> (IndexerGradients<Cpu<T>, HI, DI>, Vec<f64>) {
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
        let (found, lse) = match self.form {
            Form::Grouped => {
                let k = heads::<T, 2, D>(&self.k);
                let attended = match chosen {
                    Some(c) => attention::grouped_selected(&q, &k, &k, segments, c, softmax),
                    None => attention::grouped(&q, &k, &k, segments, softmax),
                };
                let lse = sunk(attended, sinks.as_ref());
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
                let attended = match chosen {
                    Some(c) => attention::expanded_selected::<_, _, _, H, D, _, R, 1, K>(
                        &q, &kv, &k_rope, segments, c, softmax,
                    ),
                    None => attention::expanded::<_, _, _, H, D, _, R, 1>(
                        &q, &kv, &k_rope, segments, softmax,
                    ),
                };
                let lse = sunk(attended, sinks.as_ref());
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
                let attended = match chosen {
                    Some(c) => attention::absorbed_selected(
                        &q_latent, q_rope, &latent, &k_rope, segments, c, softmax,
                    ),
                    None => {
                        attention::absorbed(&q_latent, q_rope, &latent, &k_rope, segments, softmax)
                    }
                };
                let lse = sunk(attended, sinks.as_ref());
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
    pub(super) fn plain(&self, index: &[Vec<f64>; 3], lse: &[f64]) -> f64 {
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
    pub(super) fn check(&self) {
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

/// The log-sum-exp, sinks in it where there are any.
fn sunk<T: CpuElement, const W: usize>(
    attended: mla_runtime::Result<Attended<Cpu<T>, H, W>>,
    sinks: Option<&Sinks<Cpu<T>, H>>,
) -> PerHead<Cpu<T>, H> {
    let mut attended = attended.expect("attended");
    if let Some(sinks) = sinks {
        attended = attended.with_sinks(sinks).expect("sunk");
    }
    attended.into_parts().expect("parts").1
}
