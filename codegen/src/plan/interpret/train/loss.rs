//! The loss that trains an indexer (features 1.M), and its gradients.

use mla_spec::{IndexerLoss, LossEpsilon, LossReduction};

use super::super::Error;
use super::super::array::{Array, dot};
use super::super::run::Machine;
use super::attention::{add, zeros_like};
use crate::plan::{Adjoint, IndexerPlan, Teacher};

/// What an added epsilon is.
const ADDED: f64 = 1e-8;
/// What a clamped target is at least.
const CLAMPED: f64 = 1e-10;

/// The dot product of (query, head, key).
type Product<'a> = Box<dyn Fn(usize, usize, usize) -> f64 + 'a>;

/// An indexer's queries, keys and head weights.
struct Student<'a> {
    plan: &'a IndexerPlan,
    q: &'a Array,
    k: &'a Array,
    weights: &'a Array,
}

impl Machine<'_> {
    /// The loss, and the gradients of the indexer's queries, keys and head weights.
    pub(super) fn indexer_loss(&self, adjoint: &Adjoint) -> Result<[Array; 4], Error> {
        let Adjoint::IndexerLoss {
            teacher,
            selection,
            lse,
            q,
            k,
            weights,
            ..
        } = adjoint
        else {
            return Err(Error::BadPlan("the loss of an indexer was wanted"));
        };
        let no_loss = Error::BadPlan("a loss that the program does not know");
        let plan = self.program.indexer.as_ref().ok_or(no_loss.clone())?;
        let loss = plan.loss.ok_or(no_loss)?;
        let student = Student {
            plan,
            q: self.array(*q)?,
            k: self.array(*k)?,
            weights: self.array(*weights)?,
        };
        let lse = self.array(*lse)?;
        let teacher = self.teacher(teacher)?;
        let (softmax, sides) = (self.softmax(), self.own_sides());
        let pairs = self.pairs(&sides.queries, &sides.keys, *selection)?;
        let [mut d_q, mut d_k, mut d_weights] =
            [student.q, student.k, student.weights].map(zeros_like);
        let (mut sum, mut valid) = (0.0, 0);
        let mut steps = Vec::new();
        for (row, query) in sides.queries.0.iter().enumerate() {
            let keys = pairs.of(row);
            let Some(query) = query.filter(|_| !keys.is_empty()) else {
                continue;
            };
            let probability = |key: usize| -> f64 {
                let of_head = |head: usize| {
                    let at = (head, query.index, sides.keys.0[key].index);
                    let product = teacher(row, head, sides.rows[key]);
                    (softmax.logit_and_slope(product, at).0 - lse.row(row)[head]).exp()
                };
                (0..lse.row_width()).map(of_head).sum()
            };
            let target: Vec<f64> = keys.iter().map(|&key| probability(key)).collect();
            let places: Vec<usize> = keys.iter().map(|&key| sides.rows[key]).collect();
            let scores: Vec<f64> = places.iter().map(|&k| student.score(row, k)).collect();
            let (divergence, d_scores) = divergence(loss.epsilon, &target, &scores);
            sum += divergence;
            valid += 1;
            steps.extend(places.into_iter().zip(d_scores).map(|(k, d)| (row, k, d)));
        }
        let share = loss.coeff * share(&loss, valid, student.q.rows);
        let scale = self.reverse()?.incoming.loss_scale * share;
        for (row, key, d) in steps {
            for head in 0..student.q.heads {
                let (met, slope) = student.met(row, head, key);
                let weight = student.weights.row(row)[head];
                d_weights.data[row * student.q.heads + head] += scale * d * met;
                let by = scale * d * weight * slope;
                add(d_q.at_mut(row, head), by, student.k.row(key));
                add(d_k.at_mut(key, 0), by, student.q.at(row, head));
            }
        }
        let loss = Array {
            data: vec![share * sum],
            ..Array::zeros(1, 1, 1)
        };
        Ok([loss, d_q, d_k, d_weights])
    }

    /// The dot product of (query, head, key) of the attention that is learnt from.
    fn teacher(&self, teacher: &Teacher) -> Result<Product<'_>, Error> {
        match *teacher {
            Teacher::Expanded { q, kv, k_rope } => {
                let (q, kv, k_rope) = (self.array(q)?, self.array(kv)?, self.array(k_rope)?);
                let nope = self.size("QK_NOPE_HEAD_DIM")?;
                Ok(Box::new(move |query, head, key| {
                    let (q_nope, q_rope) = q.at(query, head).split_at(nope);
                    dot(q_nope, &kv.at(key, head)[..nope]) + dot(q_rope, k_rope.at(key, 0))
                }))
            }
            Teacher::Absorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
            } => {
                let (q_latent, q_rope) = (self.array(q_latent)?, self.array(q_rope)?);
                let (latent, k_rope) = (self.array(latent)?, self.array(k_rope)?);
                Ok(Box::new(move |query, head, key| {
                    dot(q_latent.at(query, head), latent.at(key, 0))
                        + dot(q_rope.at(query, head), k_rope.at(key, 0))
                }))
            }
        }
    }
}

impl Student<'_> {
    /// `relu(scale q_j·k)`, and its derivative by `q_j·k`.
    fn met(&self, row: usize, head: usize, key: usize) -> (f64, f64) {
        let product = self.plan.scale * dot(self.q.at(row, head), self.k.row(key));
        if self.plan.relu && product <= 0.0 {
            (0.0, 0.0)
        } else {
            (product, self.plan.scale)
        }
    }

    /// `I = Σ_j w_j relu(scale q_j·k)`.
    fn score(&self, row: usize, key: usize) -> f64 {
        let of_head = |head: usize| self.weights.row(row)[head] * self.met(row, head, key).0;
        (0..self.q.heads).map(of_head).sum()
    }
}

/// What the sum over rows is multiplied by.
fn share(loss: &IndexerLoss, valid: usize, rows: usize) -> f64 {
    let one_of = |count: usize| 1.0 / count.max(1) as f64;
    match loss.reduction {
        LossReduction::MeanValid => one_of(valid),
        LossReduction::MeanAll => one_of(rows),
        LossReduction::Sum => 1.0,
    }
}

/// `KL(P ‖ softmax(I))` of one row, `P` the target divided by its sum, and its gradient by the scores `I`.
fn divergence(epsilon: LossEpsilon, target: &[f64], scores: &[f64]) -> (f64, Vec<f64>) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    let student: Vec<f64> = powers.iter().map(|power| power / total).collect();
    let mass: f64 = target.iter().sum();
    match epsilon {
        LossEpsilon::Clamp => {
            let target: Vec<f64> = target.iter().map(|p| p / mass).collect();
            let log = |score: f64| score - largest - total.ln();
            let terms = target
                .iter()
                .zip(scores)
                .map(|(p, score)| p * (p.max(CLAMPED).ln() - log(*score)));
            let mass: f64 = target.iter().sum();
            let d_scores = student.iter().zip(&target).map(|(s, p)| s * mass - p);
            (terms.sum(), d_scores.collect())
        }
        LossEpsilon::Add => {
            let target = target.iter().map(|p| p / (mass + ADDED));
            let pairs: Vec<(f64, f64)> = target.zip(student).collect();
            let terms = pairs
                .iter()
                .map(|(p, s)| p * ((p + ADDED).ln() - (s + ADDED).ln()));
            // By the student, then through its softmax
            let d_student = |(p, s): &(f64, f64)| -p / (s + ADDED);
            let mean: f64 = pairs.iter().map(|pair| d_student(pair) * pair.1).sum();
            let d_scores = pairs.iter().map(|pair| pair.1 * (d_student(pair) - mean));
            (terms.sum(), d_scores.collect())
        }
    }
}
