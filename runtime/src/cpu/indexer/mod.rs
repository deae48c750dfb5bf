//! An indexer's scores, and the keys with the largest ones, found in one pass over the keys.
//!
//! Work is cut into tiles of neighbouring queries. A tile walks over its keys block by block: one product gives the logits of all its
//! queries' heads, a weighted sum over the heads gives scores, and each query offers its scores to its list of best ones. So a tile
//! holds `TILE_ROWS x BLOCK_KEYS` logits and at most `2 K + BLOCK_KEYS` candidates for each of its queries, however many keys there
//! are. Where there are fewer tiles than threads (decode), the keys are cut as well, and the lists joined: which keys win does not
//! depend on how.

mod best;
mod keys;

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::gemm::{Matrix, Target, product};
use super::simd::{Vectorised, dispatch};
use super::{Cpu, CpuElement, part, zeros};
use crate::backend::{Indexing, Sight};
use crate::element::{Real, Scalar};
use crate::error::Result;
use best::Best;
use keys::IndexKeys;

/// Rows of one product: the heads of as many queries as fit.
const TILE_ROWS: usize = 512;
/// Keys of one product: its logits stay in the second-level cache.
const BLOCK_KEYS: usize = 256;
/// Fewer keys are not worth a task of their own.
const PIECE_KEYS: usize = 4096;

/// Neighbouring queries of one sight.
struct Tile {
    sight: usize,
    /// Counted from the sight's first.
    queries: Range<usize>,
}

/// What one query may still choose: `keep` of `candidates`, after `forced`, which are chosen already.
struct Choice {
    forced: Vec<u32>,
    candidates: Range<usize>,
    keep: usize,
}

/// The keys that each query selects, `[rows, most]`, ascending, -1 behind the last.
pub(super) fn select<T: CpuElement, E: Scalar>(
    indexing: &Indexing<'_, Cpu<T>, E>,
    most: usize,
) -> Result<Vec<i32>> {
    let mut out = vec![-1; indexing.q.rows * most];
    let tiles = tiles(indexing);
    let pieces = rayon::current_num_threads().div_ceil(tiles.len().max(1));
    let selected: Vec<Vec<Vec<u32>>> = tiles
        .par_iter()
        .with_max_len(1)
        .map(|tile| select_tile(indexing, tile, most, pieces))
        .collect();
    for (tile, selected) in tiles.iter().zip(selected) {
        let sight = &indexing.sights[tile.sight];
        let first = sight.queries.start + tile.queries.start;
        let rows = out[first * most..].chunks_exact_mut(most.max(1));
        for (out, keys) in rows.zip(selected) {
            for (out, key) in out.iter_mut().zip(keys) {
                *out = (sight.first_position + key as usize) as i32;
            }
        }
    }
    Ok(out)
}

/// The score of each query and key, `[rows, width]`; -∞ for keys that the query does not see.
pub(super) fn scores<T: CpuElement, E: Scalar>(
    indexing: &Indexing<'_, Cpu<T>, E>,
    width: usize,
) -> Result<Vec<T::Accum>> {
    let mut out: Vec<T::Accum> = zeros(indexing.q.rows * width)?;
    out.fill(T::Accum::NEG_INFINITY);
    let tiles = tiles(indexing);
    let by_tile: Vec<Vec<T::Accum>> = tiles
        .par_iter()
        .with_max_len(1)
        .map(|tile| {
            let sight = &indexing.sights[tile.sight];
            let mut own = vec![T::Accum::NEG_INFINITY; tile.queries.len() * width];
            let seen = |query| sight.visible(query);
            let all = covering(tile.queries.clone().map(seen));
            walk(indexing, tile, all, |row, start, scores| {
                let query = tile.queries.start + row;
                let visible = sight.visible(query);
                let own = &mut own[row * width..(row + 1) * width];
                for (key, &score) in (start..).zip(scores) {
                    if visible.contains(&key) && sight.given(query).is_none_or(|given| given[key]) {
                        own[sight.first_position + key] = score;
                    }
                }
            });
            own
        })
        .collect();
    for (tile, own) in tiles.iter().zip(by_tile) {
        let first = indexing.sights[tile.sight].queries.start + tile.queries.start;
        out[first * width..first * width + own.len()].copy_from_slice(&own);
    }
    Ok(out)
}

fn tiles<T: CpuElement, E: Scalar>(indexing: &Indexing<'_, Cpu<T>, E>) -> Vec<Tile> {
    let per_tile = (TILE_ROWS / indexing.q.heads.max(1)).max(1);
    let mut tiles = Vec::new();
    for (sight, own) in indexing.sights.iter().enumerate() {
        let queries = own.queries.len();
        tiles.extend((0..queries).step_by(per_tile).map(|start| Tile {
            sight,
            queries: start..queries.min(start + per_tile),
        }));
    }
    tiles
}

fn select_tile<T: CpuElement, E: Scalar>(
    indexing: &Indexing<'_, Cpu<T>, E>,
    tile: &Tile,
    most: usize,
    pieces: usize,
) -> Vec<Vec<u32>> {
    let sight = &indexing.sights[tile.sight];
    let mut choices: Vec<Choice> = tile
        .queries
        .clone()
        .map(|query| choice(sight, query, most, indexing.initial, indexing.local))
        .collect();
    // Queries that see no more than they select need no scores; where all visibility grows with the query those come first
    let scored = |choice: &Choice| choice.keep > 0 && !choice.candidates.is_empty();
    let Some(first) = choices.iter().position(scored) else {
        return choices.into_iter().map(|choice| choice.forced).collect();
    };
    let last = choices.iter().rposition(scored).unwrap_or(first);
    let dense = Tile {
        sight: tile.sight,
        queries: tile.queries.start + first..tile.queries.start + last + 1,
    };
    let lively = &choices[first..=last];
    let all = covering(lively.iter().map(|choice| choice.candidates.clone()));
    let bests = cut(all, pieces)
        .into_par_iter()
        .with_max_len(1)
        .map(|keys| {
            let mut bests: Vec<Best<T::Accum>> =
                lively.iter().map(|choice| Best::new(choice.keep)).collect();
            walk(indexing, &dense, keys, |row, start, scores| {
                let given = sight.given(dense.queries.start + row);
                bests[row].offer(scores, start, &lively[row].candidates, given);
            });
            bests
        })
        .reduce_with(|mut left, right| {
            for (left, right) in left.iter_mut().zip(right) {
                left.join(right);
            }
            left
        })
        .unwrap_or_default();
    for (choice, best) in choices[first..=last].iter_mut().zip(bests) {
        choice.forced.extend(best.into_keys());
        choice.forced.sort_unstable();
    }
    choices.into_iter().map(|choice| choice.forced).collect()
}

/// What is settled for a query before any score is known.
fn choice(sight: &Sight<'_>, query: usize, most: usize, initial: usize, local: usize) -> Choice {
    let visible = sight.visible(query);
    let settled = |forced: Vec<u32>| Choice {
        forced,
        candidates: 0..0,
        keep: 0,
    };
    let Some(given) = sight.given(query) else {
        if visible.len() <= most {
            return settled(visible.map(|key| key as u32).collect());
        }
        let candidates = visible.start + initial..visible.end - local;
        let forced = (visible.start..candidates.start).chain(candidates.end..visible.end);
        return Choice {
            forced: forced.map(|key| key as u32).collect(),
            candidates,
            keep: most - initial - local,
        };
    };
    let seen: Vec<usize> = visible.filter(|&key| given[key]).collect();
    if seen.len() <= most {
        return settled(seen.into_iter().map(|key| key as u32).collect());
    }
    let inner = &seen[initial..seen.len() - local];
    let forced = seen[..initial].iter().chain(&seen[seen.len() - local..]);
    Choice {
        forced: forced.map(|&key| key as u32).collect(),
        // There are more than `most - initial - local` of them, so that there is a first and a last one or nothing to keep
        candidates: inner
            .first()
            .map_or(0..0, |&first| first..inner[inner.len() - 1] + 1),
        keep: most - initial - local,
    }
}

/// The smallest range that covers all of the ranges.
fn covering(ranges: impl Iterator<Item = Range<usize>>) -> Range<usize> {
    ranges
        .filter(|range| !range.is_empty())
        .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
        .unwrap_or(0..0)
}

/// At most `pieces` ranges of some length.
fn cut(all: Range<usize>, pieces: usize) -> Vec<Range<usize>> {
    let piece = all.len().div_ceil(pieces).max(PIECE_KEYS);
    all.clone()
        .step_by(piece)
        .map(|start| start..all.end.min(start + piece))
        .collect()
}

/// Calls `with` for each query of the tile and each block of keys: its row in the tile, the block's first key, the block's scores.
fn walk<T: CpuElement, E: Scalar>(
    indexing: &Indexing<'_, Cpu<T>, E>,
    tile: &Tile,
    keys: Range<usize>,
    mut with: impl FnMut(usize, usize, &[T::Accum]),
) {
    let (heads, width) = (indexing.q.heads, indexing.q.width);
    let first = indexing.sights[tile.sight].queries.start + tile.queries.start;
    let m = tile.queries.len() * heads;
    let mut q = Vec::with_capacity(m * width);
    for row in 0..m {
        let values = part(&indexing.q, first + row / heads, row % heads);
        q.extend(values.iter().map(|&value| T::Accum::load(value)));
    }
    let source = IndexKeys::new(indexing, tile.sight);
    let mut scratch = Vec::new();
    let mut logits = vec![T::Accum::ZERO; m * BLOCK_KEYS.min(keys.len())];
    let mut scores = vec![T::Accum::ZERO; BLOCK_KEYS.min(keys.len())];
    for start in keys.clone().step_by(BLOCK_KEYS) {
        let len = BLOCK_KEYS.min(keys.end - start);
        let block = source.block(start, len, &mut scratch);
        let logits = &mut logits[..m * len];
        let target = Target {
            values: logits,
            row_stride: len,
            column_stride: 1,
            accumulate: false,
        };
        let lhs = Matrix {
            values: &q,
            row_stride: width,
            column_stride: 1,
        };
        let rhs = Matrix {
            values: block.values,
            row_stride: 1,
            column_stride: block.stride,
        };
        product(
            (m, len, width),
            target,
            lhs,
            rhs,
            T::Accum::ONE,
            Parallelism::None,
        );
        for row in 0..tile.queries.len() {
            let weights = &indexing.weights[(first + row) * heads..(first + row + 1) * heads];
            let scores = &mut scores[..len];
            dispatch(Weighted {
                logits: &logits[row * heads * len..(row + 1) * heads * len],
                weights,
                relu: indexing.relu,
                scale: T::Accum::from_f64(indexing.scale),
                scores,
            });
            with(row, start, scores);
        }
    }
}

/// `score[u] = scale · Σ_j w_j · relu(logit[j, u])`.
struct Weighted<'a, A> {
    logits: &'a [A],
    weights: &'a [A],
    relu: bool,
    scale: A,
    scores: &'a mut [A],
}

impl<A: Real> Vectorised for Weighted<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.scores.fill(A::ZERO);
        for (logits, &weight) in self
            .logits
            .chunks_exact(self.scores.len())
            .zip(self.weights)
        {
            if self.relu {
                for (score, &logit) in self.scores.iter_mut().zip(logits) {
                    // A NaN is not below 0 and stays
                    let logit = if logit <= A::ZERO { A::ZERO } else { logit };
                    *score = weight.madd::<FMA>(logit, *score);
                }
            } else {
                for (score, &logit) in self.scores.iter_mut().zip(logits) {
                    *score = weight.madd::<FMA>(logit, *score);
                }
            }
        }
        for score in self.scores {
            *score *= self.scale;
        }
    }
}
