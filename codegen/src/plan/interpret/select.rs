//! The lightning indexer: scores, and the keys that they pick (features 1.L).

use super::array::{Array, dot};
use super::call::{Keys, Queries};
use super::visible::Sight;
use crate::plan::IndexerPlan;

/// What an indexer gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Picked {
    /// For each row, the indices of the picked keys in its sequence, ascending.
    pub(super) selection: Vec<Vec<usize>>,
    /// For each row, the scores of its sequence's keys by index, of its complete pools where keys are pooled; -∞ where not visible.
    pub(super) scores: Vec<Vec<f64>>,
}

/// What an indexer picks from.
pub(super) struct Candidates<'a> {
    pub(super) plan: &'a IndexerPlan,
    pub(super) sight: Sight<'a>,
    pub(super) queries: &'a Queries,
    /// Each sequence's keys in ascending order of their index.
    pub(super) keys: &'a Keys,
    /// `[keys, d_i]`; with pools `[keys, 2 d_i]`, the key and then its gate.
    pub(super) k: &'a Array,
    /// `[pool, d_i]`, added to the gates; `None` without pools.
    pub(super) embedding: Option<&'a Array>,
}

impl Candidates<'_> {
    /// Picks for every row; `q` is `[rows, h_i, d_i]`, `weights` `[rows, h_i]`.
    pub(super) fn pick(&self, q: &Array, weights: &Array) -> Picked {
        let rows = (0..q.rows).map(|row| match self.embedding {
            None => self.of_tokens(row, q, weights),
            Some(embedding) => self.of_pools(row, q, weights, embedding),
        });
        let (selection, scores) = rows.unzip();
        Picked { selection, scores }
    }

    /// `I(t, u) = Σ_j w_j(t) · scale · relu(Q_j(t) · K(u))`.
    fn score(&self, row: usize, q: &Array, weights: &Array, key: &[f64]) -> f64 {
        let of_head = |head: usize| {
            let product = self.plan.scale * dot(q.at(row, head), key);
            let met = if self.plan.relu {
                product.max(0.0)
            } else {
                product
            };
            weights.row(row)[head] * met
        };
        (0..q.heads).map(of_head).sum()
    }

    /// Rows of `k` of the sequence of row `row`, in order of their index.
    fn sequence(&self, row: usize) -> Vec<usize> {
        let of = self.queries.0[row].map(|query| query.sequence);
        let mut keys: Vec<usize> = (0..self.keys.0.len())
            .filter(|&key| Some(self.keys.0[key].sequence) == of)
            .collect();
        keys.sort_by_key(|&key| self.keys.0[key].index);
        keys
    }

    fn sees(&self, row: usize, key: usize) -> bool {
        self.queries.0[row].is_some_and(|query| self.sight.sees(row, query, self.keys.0[key]))
    }

    fn of_tokens(&self, row: usize, q: &Array, weights: &Array) -> (Vec<usize>, Vec<f64>) {
        let keys = self.sequence(row);
        let score = |&key: &usize| {
            if self.sees(row, key) {
                self.score(row, q, weights, self.k.row(key))
            } else {
                f64::NEG_INFINITY
            }
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let visible: Vec<usize> = (0..keys.len())
            .filter(|&i| self.sees(row, keys[i]))
            .collect();
        let forced = |rank: usize| {
            let (initial, local) = (self.plan.forced.initial, self.plan.forced.local);
            rank < initial as usize || rank + local as usize >= visible.len()
        };
        let wanted: Vec<(bool, f64, usize)> = visible
            .iter()
            .enumerate()
            .map(|(rank, &i)| (forced(rank), scores[i], self.keys.0[keys[i]].index))
            .collect();
        (best(wanted, self.plan.topk.size as usize), scores)
    }

    /// Pools of neighbours count as one key, and are picked whole. A pool can be picked once its last token is visible (S-17).
    fn of_pools(
        &self,
        row: usize,
        q: &Array,
        weights: &Array,
        embedding: &Array,
    ) -> (Vec<usize>, Vec<f64>) {
        let size = embedding.rows;
        let keys = self.sequence(row);
        let pools: Vec<&[usize]> = keys.chunks_exact(size).collect();
        let open = |pool: &[usize]| pool.last().is_some_and(|&last| self.sees(row, last));
        let score = |pool: &&[usize]| {
            if open(pool) {
                self.score(row, q, weights, &self.pooled(pool, embedding))
            } else {
                f64::NEG_INFINITY
            }
        };
        let scores: Vec<f64> = pools.iter().map(score).collect();
        let candidates = (0..pools.len())
            .filter(|&pool| open(pools[pool]))
            .map(|pool| (false, scores[pool], pool))
            .collect();
        let index = |key: &usize| self.keys.0[*key].index;
        let mut picked: Vec<usize> = best(candidates, self.plan.topk.size as usize / size)
            .into_iter()
            .flat_map(|pool| pools[pool].iter().map(index))
            .collect();
        if self.plan.pool.is_some_and(|pool| pool.tail) {
            let visible = keys.iter().filter(|&&key| self.sees(row, key)).count();
            let complete = visible / size * size;
            picked.extend(keys[complete..visible].iter().map(index));
        }
        (picked, scores)
    }

    /// `Σ_i softmax_i(gate_i + a_i) k_i` over the tokens `i` of a pool, element by element.
    fn pooled(&self, pool: &[usize], embedding: &Array) -> Vec<f64> {
        let width = embedding.dim;
        let of_element = |element: usize| {
            let gate = |(i, &key): (usize, &usize)| {
                self.k.row(key)[width + element] + embedding.row(i)[element]
            };
            let gates: Vec<f64> = pool.iter().enumerate().map(gate).collect();
            let largest = gates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = gates.iter().map(|gate| (gate - largest).exp()).collect();
            let total: f64 = powers.iter().sum();
            let parts = pool.iter().zip(&powers);
            parts
                .map(|(&key, power)| power / total * self.k.row(key)[element])
                .sum::<f64>()
        };
        (0..width).map(of_element).collect()
    }
}

/// The `count` best of (forced, score, index): forced ones first, then the highest scores, of equal ones the lowest index; ascending.
fn best(mut candidates: Vec<(bool, f64, usize)>, count: usize) -> Vec<usize> {
    candidates.sort_by(|a, b| {
        let forced = b.0.cmp(&a.0);
        let score = if a.0 && b.0 {
            std::cmp::Ordering::Equal
        } else {
            b.1.total_cmp(&a.1)
        };
        forced.then(score).then(a.2.cmp(&b.2))
    });
    candidates.truncate(count);
    let mut indices: Vec<usize> = candidates.into_iter().map(|(_, _, index)| index).collect();
    indices.sort_unstable();
    indices
}
