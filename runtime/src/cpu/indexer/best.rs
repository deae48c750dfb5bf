//! The best of many scores, kept in a list of bounded length.

use std::cmp::Ordering;
use std::ops::Range;

use crate::element::Real;

/// A score and the key that has it. No score is a NaN: [`Best::offer`] sees to it.
#[derive(Debug, Clone, Copy)]
struct Candidate<A> {
    score: A,
    key: u32,
}

impl<A: Real> Candidate<A> {
    /// Better ones first: larger scores, and among equals (0 and -0 are) lower keys. Total, so that the best are the same in whatever
    /// order and parts they are offered.
    fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score.partial_cmp(&self.score);
        by_score
            .unwrap_or(Ordering::Equal)
            .then(self.key.cmp(&other.key))
    }
}

/// The `keep` best candidates so far, and up to as many again that may yet be among them.
#[derive(Debug)]
pub(super) struct Best<A> {
    keep: usize,
    list: Vec<Candidate<A>>,
    /// The worst of `keep` candidates that are known: later keys have to be better.
    bar: Option<A>,
}

impl<A: Real> Best<A> {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep,
            list: Vec::new(),
            bar: None,
        }
    }

    /// Offers those of the keys from `start` on that are candidates, in ascending order. A score of -∞ is never taken. A NaN counts as
    /// worse than every number, so it is taken only when nothing else is left, and shows.
    pub(super) fn offer(
        &mut self,
        scores: &[A],
        start: usize,
        candidates: &Range<usize>,
        given: Option<&[bool]>,
    ) {
        if self.keep == 0 {
            return;
        }
        let from = candidates.start.max(start);
        let to = candidates.end.min(start + scores.len());
        for key in from..to {
            let score = scores[key - start];
            if self.bar.is_some_and(|bar| score <= bar)
                || score == A::NEG_INFINITY
                || given.is_some_and(|given| !given[key])
            {
                continue;
            }
            let score = if score.is_nan() {
                A::NEG_INFINITY
            } else {
                score
            };
            if self.bar.is_some_and(|bar| score <= bar) {
                continue;
            }
            self.list.push(Candidate {
                score,
                key: key as u32,
            });
            if self.list.len() >= 2 * self.keep {
                self.compact();
            }
        }
    }

    /// Takes over another list of as many.
    pub(super) fn join(&mut self, other: Self) {
        self.list.extend(other.list);
        self.compact();
    }

    /// The keys of the best, in any order.
    pub(super) fn into_keys(mut self) -> impl Iterator<Item = u32> {
        self.compact();
        self.list.into_iter().map(|candidate| candidate.key)
    }

    fn compact(&mut self) {
        if self.list.len() < self.keep.max(1) {
            return;
        }
        let (_, worst, _) = self
            .list
            .select_nth_unstable_by(self.keep - 1, Candidate::order);
        self.bar = Some(worst.score);
        self.list.truncate(self.keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(keep: usize, scores: &[f32]) -> Vec<u32> {
        let mut best = Best::new(keep);
        best.offer(scores, 0, &(0..scores.len()), None);
        let mut keys: Vec<u32> = best.into_keys().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn lower_keys_win_ties_however_the_keys_are_cut() {
        let scores: Vec<f32> = (0..1000).map(|i| ((i * 37) % 11) as f32).collect();
        for keep in [1, 5, 90, 91, 92, 999] {
            let mut wanted: Vec<u32> = (0..1000).collect();
            wanted.sort_by(|&a, &b| {
                scores[b as usize]
                    .total_cmp(&scores[a as usize])
                    .then(a.cmp(&b))
            });
            wanted.truncate(keep);
            wanted.sort_unstable();
            assert_eq!(best(keep, &scores), wanted);
            let mut joined = Best::new(keep);
            for start in (0..1000).step_by(130).rev() {
                let mut piece = Best::new(keep);
                let end = (start + 130).min(1000);
                piece.offer(&scores[start..end], start, &(0..1000), None);
                joined.join(piece);
            }
            let mut found: Vec<u32> = joined.into_keys().collect();
            found.sort_unstable();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn nan_comes_last_and_minus_infinity_never() {
        let scores = [f32::NAN, -1.0, f32::NEG_INFINITY, 2.0, f32::NAN, -3.0];
        assert_eq!(best(3, &scores), [1, 3, 5]);
        assert_eq!(best(4, &scores), [0, 1, 3, 5]);
        assert_eq!(best(6, &scores), [0, 1, 3, 4, 5]);
    }

    #[test]
    fn both_zeros_are_equal() {
        assert_eq!(best(1, &[-0.0, 0.0]), [0]);
    }

    #[test]
    fn only_given_candidates_are_taken() {
        let mut best = Best::new(2);
        let given = [true, true, false, true, true];
        best.offer(&[9.0_f32, 1.0, 8.0, 0.5, 9.0], 0, &(1..4), Some(&given));
        let mut keys: Vec<u32> = best.into_keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 3]);
    }
}
