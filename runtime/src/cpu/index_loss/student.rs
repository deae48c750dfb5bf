//! The indexer's side: scores, and what their gradients are to queries, keys and weights.

use std::ops::Range;

use gemm::Parallelism;

use crate::backend::IndexLoss;
use crate::cpu::attention::{BLOCK_KEYS, Sight, Task, Window, finite};
use crate::cpu::gemm::{Matrix, Target, product};
use crate::cpu::keys::{Keys, Lines};
use crate::cpu::simd::{Vectorised, dispatch};
use crate::cpu::skinny::{LANES, folded};
use crate::cpu::{Cpu, CpuElement, part, same};
use crate::element::{Element, Real};

/// Rows of one product: the heads of as many queries as fit.
const ROWS: usize = 512;

/// Room for the rows of some queries of a tile, and for blocks of products.
#[derive(Default)]
pub(super) struct Student<A> {
    /// `[m][DI]`, `m` rows of (query, head).
    q: Vec<A>,
    weights: Vec<A>,
    /// `[key][m]`: products, then their gradients.
    dots: Vec<A>,
    k: Vec<A>,
    d_q: Vec<A>,
    d_k: Vec<A>,
    d_weights: Vec<A>,
    window: Window,
}

/// Some queries of a tile: counted from the segment's first, and from the tile's first.
struct Few {
    queries: Range<usize>,
    columns: Range<usize>,
}

impl<A: Real> Student<A> {
    /// The scores of a tile's queries and keys, `[key][query]`; -∞ where a query does not see the key.
    pub(super) fn score<T: CpuElement<Accum = A>>(
        &mut self,
        loss: &IndexLoss<'_, Cpu<T>>,
        tile: &Task,
        scores: &mut Vec<A>,
    ) {
        let keys = Keys::new(&loss.attention, tile);
        let sight = Sight::new(&loss.attention, tile);
        scores.clear();
        scores.resize(tile.keys.len() * tile.queries.len(), A::ZERO);
        for few in some_queries(loss, tile) {
            self.load(loss, tile, &few);
            for block in blocks(tile) {
                let at = (block.start - tile.keys.start) * tile.queries.len();
                self.products(loss, &keys, &block);
                dispatch(Weighted {
                    dots: &self.dots,
                    weights: &self.weights,
                    heads: loss.q.heads,
                    relu: loss.relu,
                    scale: A::from_f64(loss.scale),
                    scores: &mut scores[at..],
                    columns: (few.columns.start, tile.queries.len()),
                });
            }
        }
        for block in blocks(tile) {
            if sight.of_block(&block, &mut self.window).is_none() {
                continue;
            }
            let at = (block.start - tile.keys.start) * tile.queries.len();
            let lines = scores[at..].chunks_exact_mut(tile.queries.len());
            for (key, scores) in block.zip(lines) {
                for (row, score) in scores.iter_mut().enumerate() {
                    if !sight.sees(row, key, &keys) {
                        *score = A::NEG_INFINITY;
                    }
                }
            }
        }
    }

    /// Spreads gradients of scores, `[key][query]`: calls `with` for the first row of some queries, the gradients of those and of their
    /// weights, and adds to `d_k`, `[keys][DI]`.
    pub(super) fn spread<T: CpuElement<Accum = A>>(
        &mut self,
        loss: &IndexLoss<'_, Cpu<T>>,
        tile: &Task,
        d_scores: &[A],
        d_k: &mut [A],
        mut with: impl FnMut(usize, &[A], &[A]),
    ) {
        let keys = Keys::new(&loss.attention, tile);
        let sight = Sight::new(&loss.attention, tile);
        let segment = &loss.attention.segments.list()[tile.segment];
        for few in some_queries(loss, tile) {
            self.load(loss, tile, &few);
            for block in blocks(tile) {
                let at = (block.start - tile.keys.start) * tile.queries.len();
                self.products(loss, &keys, &block);
                dispatch(Unweighted {
                    dots: &mut self.dots,
                    weights: &self.weights,
                    heads: loss.q.heads,
                    relu: loss.relu,
                    scale: A::from_f64(loss.scale),
                    d_scores: &d_scores[at..],
                    columns: (few.columns.start, tile.queries.len()),
                    d_weights: &mut self.d_weights,
                });
                let all_seen = sight.of_block(&block, &mut self.window).is_none();
                self.add(loss, &keys, &block, all_seen, d_k);
            }
            with(
                segment.queries.start + few.queries.start,
                &self.d_q,
                &self.d_weights,
            );
        }
    }

    /// Takes the rows of some queries, and begins their sums at 0.
    fn load<T: CpuElement<Accum = A>>(
        &mut self,
        loss: &IndexLoss<'_, Cpu<T>>,
        tile: &Task,
        few: &Few,
    ) {
        let heads = loss.q.heads;
        let first = loss.attention.segments.list()[tile.segment].queries.start;
        let rows = first + few.queries.start..first + few.queries.end;
        self.q.clear();
        for row in rows.clone() {
            for head in 0..heads {
                let values = part(&loss.q, row, head).iter();
                self.q.extend(values.map(|&value| A::load(value)));
            }
        }
        self.weights.clear();
        self.weights
            .extend_from_slice(&loss.weights[rows.start * heads..rows.end * heads]);
        for (sums, len) in [
            (&mut self.d_q, self.q.len()),
            (&mut self.d_weights, self.weights.len()),
        ] {
            sums.clear();
            sums.resize(len, A::ZERO);
        }
    }

    /// The products of the loaded rows with a block of keys.
    fn products<T: CpuElement<Accum = A>>(
        &mut self,
        loss: &IndexLoss<'_, Cpu<T>>,
        keys: &Keys<'_, T, T>,
        block: &Range<usize>,
    ) {
        let (m, width) = (self.weights.len(), loss.q.width);
        self.dots.resize(m * block.len(), A::ZERO);
        let k = lines(loss, keys, block, &mut self.k);
        let target = Target {
            values: &mut self.dots,
            row_stride: 1,
            column_stride: m,
            accumulate: false,
        };
        let (q, k) = (matrix(&self.q, width, 1), matrix(k.values, 1, k.stride));
        let sizes = (m, block.len(), width);
        product(sizes, target, q, k, A::ONE, Parallelism::None);
    }

    /// Adds what the gradients of a block's products give to those of rows and keys.
    fn add<T: CpuElement<Accum = A>>(
        &mut self,
        loss: &IndexLoss<'_, Cpu<T>>,
        keys: &Keys<'_, T, T>,
        block: &Range<usize>,
        all_seen: bool,
        d_k: &mut [A],
    ) {
        let (m, width, len) = (self.weights.len(), loss.q.width, block.len());
        if width == 0 {
            return;
        }
        let k = lines(loss, keys, block, &mut self.k);
        self.d_k.clear();
        self.d_k.resize(len * width, A::ZERO);
        let q_lines = Lines {
            values: &self.q,
            stride: width,
        };
        if all_seen || (finite(q_lines, width, m) && finite(k, width, len)) {
            let (q, k) = (matrix(&self.q, 1, width), matrix(k.values, 1, k.stride));
            let (by_row, by_key) = (matrix(&self.dots, m, 1), matrix(&self.dots, 1, m));
            let (alone, one) = (Parallelism::None, A::ONE);
            product(
                (width, m, len),
                sum(&mut self.d_q, width),
                k,
                by_row,
                one,
                alone,
            );
            product(
                (width, len, m),
                sum(&mut self.d_k, width),
                q,
                by_key,
                one,
                alone,
            );
        } else {
            // 0 times what is no number is none, and would reach what has nothing to do with it
            for (key, d_dots) in self.dots.chunks_exact(m).enumerate() {
                let (k, d_k) = (&k.values[key * k.stride..], &mut self.d_k[key * width..]);
                for (row, &d_dot) in d_dots.iter().enumerate().filter(|(_, d)| **d != A::ZERO) {
                    let own = row * width..(row + 1) * width;
                    for (sum, &k) in self.d_q[own.clone()].iter_mut().zip(k) {
                        *sum += d_dot * k;
                    }
                    for (sum, &q) in d_k.iter_mut().zip(&self.q[own]) {
                        *sum += d_dot * q;
                    }
                }
            }
        }
        for (key, more) in block.clone().zip(self.d_k.chunks_exact(width)) {
            let sums = d_k[keys.row(key) * width..][..width].iter_mut();
            for (sum, &more) in sums.zip(more) {
                *sum += more;
            }
        }
    }
}

fn matrix<A>(values: &[A], row_stride: usize, column_stride: usize) -> Matrix<'_, A> {
    Matrix {
        values,
        row_stride,
        column_stride,
    }
}

/// A matrix that lies column by column, and is added to.
fn sum<A>(values: &mut [A], column_stride: usize) -> Target<'_, A> {
    Target {
        values,
        row_stride: 1,
        column_stride,
        accumulate: true,
    }
}

/// A tile's queries, as many at a time as one product takes.
fn some_queries<T: CpuElement>(
    loss: &IndexLoss<'_, Cpu<T>>,
    tile: &Task,
) -> impl Iterator<Item = Few> + use<T> {
    let per_product = (ROWS / loss.q.heads.max(1)).max(1);
    let all = tile.queries.clone();
    all.clone().step_by(per_product).map(move |start| {
        let queries = start..all.end.min(start + per_product);
        let columns = start - all.start..queries.end - all.start;
        Few { queries, columns }
    })
}

fn blocks(tile: &Task) -> impl Iterator<Item = Range<usize>> + use<> {
    let keys = tile.keys.clone();
    let starts = keys.clone().step_by(BLOCK_KEYS);
    starts.map(move |start| start..keys.end.min(start + BLOCK_KEYS))
}

/// The indexer's keys of a block: where they lie, or gathered.
fn lines<'s, T: CpuElement>(
    loss: &IndexLoss<'s, Cpu<T>>,
    keys: &Keys<'_, T, T>,
    block: &Range<usize>,
    scratch: &'s mut Vec<<T as Element>::Accum>,
) -> Lines<'s, <T as Element>::Accum> {
    let k = &loss.k;
    if !keys.are_chosen()
        && k.width > 0
        && let Some(all) = same::<T, T::Accum>(k.buffer)
    {
        let first = k.offset + keys.row(block.start) * k.row_stride;
        return Lines {
            values: &all[first..first + (block.len() - 1) * k.row_stride + k.width],
            stride: k.row_stride,
        };
    }
    scratch.clear();
    for key in block.clone() {
        let values = part(k, keys.row(key), 0).iter();
        scratch.extend(values.map(|&value| <T as Element>::Accum::load(value)));
    }
    Lines {
        values: scratch,
        stride: k.width,
    }
}

/// `score = scale · Σ_j w_j · relu(dot_j)`.
struct Weighted<'a, A> {
    /// `[key][query, head]`.
    dots: &'a [A],
    weights: &'a [A],
    heads: usize,
    relu: bool,
    scale: A,
    /// `[key][query]`.
    scores: &'a mut [A],
    /// The first column of `scores`, and how many a key has.
    columns: (usize, usize),
}

impl<A: Real> Vectorised for Weighted<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (first, columns) = self.columns;
        let keys = self.dots.chunks_exact(self.weights.len());
        for (dots, scores) in keys.zip(self.scores.chunks_mut(columns)) {
            let rows = dots.chunks_exact(self.heads);
            let rows = rows.zip(self.weights.chunks_exact(self.heads));
            for (score, (dots, weights)) in scores[first..].iter_mut().zip(rows) {
                *score = self.scale * weighted::<A, FMA>(dots, weights, self.relu);
            }
        }
    }
}

/// `Σ w · relu(dot)`.
#[inline(always)]
fn weighted<A: Real, const FMA: bool>(dots: &[A], weights: &[A], relu: bool) -> A {
    let kept = |dot: A| {
        // A NaN is not below 0 and stays
        if relu && dot <= A::ZERO { A::ZERO } else { dot }
    };
    let mut lanes = [A::ZERO; LANES];
    let (dots, weights) = (dots.chunks_exact(LANES), weights.chunks_exact(LANES));
    let rest = dots.remainder().iter().zip(weights.remainder());
    let rest = rest.fold(A::ZERO, |sum, (&dot, &w)| w.madd::<FMA>(kept(dot), sum));
    for (dots, weights) in dots.zip(weights) {
        for ((lane, &dot), &w) in lanes.iter_mut().zip(dots).zip(weights) {
            *lane = w.madd::<FMA>(kept(dot), *lane);
        }
    }
    folded(lanes) + rest
}

/// The gradients of products and weights by those of scores.
struct Unweighted<'a, A> {
    /// `[key][query, head]`: products, then their gradients.
    dots: &'a mut [A],
    weights: &'a [A],
    heads: usize,
    relu: bool,
    scale: A,
    /// `[key][query]`.
    d_scores: &'a [A],
    /// The first column of `d_scores`, and how many a key has.
    columns: (usize, usize),
    d_weights: &'a mut [A],
}

impl<A: Real> Vectorised for Unweighted<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (first, columns) = self.columns;
        let keys = self.dots.chunks_exact_mut(self.weights.len());
        for (dots, d_scores) in keys.zip(self.d_scores.chunks(columns)) {
            let rows = dots.chunks_exact_mut(self.heads);
            let rows = rows.zip(self.weights.chunks_exact(self.heads));
            let rows = rows.zip(self.d_weights.chunks_exact_mut(self.heads));
            for (&d_score, ((dots, weights), d_weights)) in d_scores[first..].iter().zip(rows) {
                let d_score = self.scale * d_score;
                if d_score == A::ZERO {
                    // What the row does not see may be no number
                    dots.fill(A::ZERO);
                    continue;
                }
                for ((dot, &weight), d_weight) in dots.iter_mut().zip(weights).zip(d_weights) {
                    let off = self.relu && *dot <= A::ZERO;
                    let (kept, slope) = if off {
                        (A::ZERO, A::ZERO)
                    } else {
                        (*dot, d_score)
                    };
                    *d_weight = d_score.madd::<FMA>(kept, *d_weight);
                    *dot = slope * weight;
                }
            }
        }
    }
}
