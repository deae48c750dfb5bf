//! The loss of rows, and the gradients of their scores.

use crate::cpu::simd::{Vectorised, dispatch};
use crate::element::Real;
use crate::indexer::LossEpsilon;

/// What is added inside logarithms, and to the sum that the target is divided by.
const ADDED: f64 = 1e-8;
/// The least target inside its logarithm.
const LEAST: f64 = 1e-10;

/// Turns the scores, `[key][row]`, to their gradients times `factor`, and returns the sum of the rows' losses. `target` is what attention's
/// heads together gave each key; it is used up. A key that a row does not see has a target of 0 and a score of -∞.
///
/// With `P = target / sum` and `q = softmax(scores)` a row loses `Σ P (ln P - ln q)`, whose derivative by a score is
/// `q · Σ P' - P'`. Clamped, `P'` is `P`; where ε was added inside the logarithms, it is `P q / (q + ε)`.
pub(super) fn gradients<A: Real>(
    target: &mut [A],
    scores: &mut [A],
    rows: usize,
    epsilon: LossEpsilon,
    factor: A,
) -> f64 {
    let (most, sums) = dispatch(Statistics {
        target,
        scores,
        rows,
    });
    let added = match epsilon {
        LossEpsilon::Add => A::from_f64(ADDED),
        LossEpsilon::Clamp => A::ZERO,
    };
    let least = A::from_f64(LEAST);
    let mut lost = vec![0.0; rows];
    let mut weight = vec![A::ZERO; rows];
    for (target, scores) in target
        .chunks_exact_mut(rows)
        .zip(scores.chunks_exact_mut(rows))
    {
        for row in 0..rows {
            let score = scores[row] - most[row];
            // What is not seen has 0 of both, whatever the row's sums are
            let q = if scores[row] == A::NEG_INFINITY {
                A::ZERO
            } else {
                score.exp() / sums[row].student
            };
            let share = if target[row] == A::ZERO {
                A::ZERO
            } else {
                let p = target[row] / (sums[row].target + added);
                let (ln_p, ln_q, share) = match epsilon {
                    LossEpsilon::Add => ((p + added).ln(), (q + added).ln(), p * (q / (q + added))),
                    LossEpsilon::Clamp => {
                        let clamped = if p < least { least } else { p };
                        (clamped.ln(), score - sums[row].student.ln(), p)
                    }
                };
                lost[row] += (p * (ln_p - ln_q)).to_f64();
                share
            };
            weight[row] += share;
            (target[row], scores[row]) = (share, q);
        }
    }
    for (target, scores) in target.chunks_exact(rows).zip(scores.chunks_exact_mut(rows)) {
        for ((score, &share), &weight) in scores.iter_mut().zip(target).zip(&weight) {
            // `weight` may be no number: that of a row is for what the row sees
            *score = if *score == A::ZERO && share == A::ZERO {
                A::ZERO
            } else {
                factor * (*score * weight - share)
            };
        }
    }
    lost.iter().sum()
}

/// Sums over the keys of a row.
#[derive(Debug, Clone, Copy)]
struct Sums<A> {
    target: A,
    /// `Σ e^(score - largest)`.
    student: A,
}

/// The largest score and the sums of each row.
struct Statistics<'a, A> {
    target: &'a [A],
    scores: &'a [A],
    rows: usize,
}

impl<A: Real> Vectorised for Statistics<'_, A> {
    type Output = (Vec<A>, Vec<Sums<A>>);

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Self::Output {
        let rows = self.rows;
        let mut most = vec![A::NEG_INFINITY; rows];
        for scores in self.scores.chunks_exact(rows) {
            for (most, &score) in most.iter_mut().zip(scores) {
                // A NaN takes over and stays, so that a poisoned input shows
                *most = if *most >= score || most.is_nan() {
                    *most
                } else {
                    score
                };
            }
        }
        for most in &mut most {
            if *most == A::NEG_INFINITY {
                *most = A::ZERO;
            }
        }
        let (mut target, mut student) = (vec![A::ZERO; rows], vec![A::ZERO; rows]);
        let keys = self.target.chunks_exact(rows);
        for (targets, scores) in keys.zip(self.scores.chunks_exact(rows)) {
            for (sum, &more) in target.iter_mut().zip(targets) {
                *sum += more;
            }
            for ((sum, &score), &most) in student.iter_mut().zip(scores).zip(&most) {
                *sum += (score - most).exp_nonpositive::<FMA>();
            }
        }
        let sums = target.into_iter().zip(student);
        let sums = sums.map(|(target, student)| Sums { target, student });
        (most, sums.collect())
    }
}
