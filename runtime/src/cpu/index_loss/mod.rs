//! An indexer's loss and its gradients, some queries at a time.
//!
//! A tile of queries holds two numbers for each of its keys: how much attention's heads together attend to it, and the indexer's score.
//! Then the loss of its rows and the gradients of their scores are known, and the products of the indexer are computed again to spread
//! them. So a thread holds `TILE_QUERIES` rows of keys, and the gradients of all of the indexer's keys; those are joined in order.

mod rows;
mod student;
mod target;

use rayon::prelude::*;

use super::attention::{Sight, Task, apart, groups_of, shares};
use super::ground::Ground;
use super::keys::Keys;
use super::{Cpu, CpuElement, PARALLEL_WORK, zeros};
use crate::backend::{IndexLoss, IndexLossParts};
use crate::element::{Element, Real};
use crate::error::{Error, Result};
use crate::indexer::LossReduction;
use student::Student;

/// Queries of a tile; one where each has keys of its own choice.
const TILE_QUERIES: usize = 64;

/// What all threads read, and where they write.
struct Work<'a, T: CpuElement> {
    loss: &'a IndexLoss<'a, Cpu<T>>,
    d_q: Ground<'a, T::Accum>,
    d_weights: Ground<'a, T::Accum>,
    /// Multiplies gradients of scores.
    factor: T::Accum,
}

/// What a share of the queries gives.
struct Part<A> {
    /// Of each tile.
    losses: Vec<f64>,
    /// `[keys][DI]`.
    d_k: Vec<A>,
}

/// The loss, and the gradients of the indexer's queries, keys and weights.
pub(super) fn index_loss<T: CpuElement>(
    loss: &IndexLoss<'_, Cpu<T>>,
) -> Result<IndexLossParts<Cpu<T>>> {
    let attention = &loss.attention;
    if !apart(attention.segments)[0] {
        return Err(Error::Device("segments share queries".to_owned()));
    }
    let segments = attention.segments.list().iter().enumerate();
    let tiles = segments.flat_map(|(segment, of)| {
        groups_of(attention, segment, 0..of.queries.len(), 0..1, TILE_QUERIES)
    });
    let tiles: Vec<Task> = tiles.filter(|tile| !tile.keys.is_empty()).collect();
    let share = match loss.reduction {
        LossReduction::MeanValid => {
            let seeing: usize = tiles.iter().map(|tile| seeing(loss, tile)).sum();
            1.0 / seeing.max(1) as f64
        }
        LossReduction::MeanAll => 1.0 / attention.segments.queries().max(1) as f64,
        LossReduction::Sum => 1.0,
    };
    let mut q = zeros(loss.q.rows * loss.q.heads * loss.q.width)?;
    let mut weights = zeros(loss.q.rows * loss.q.heads)?;
    let work = Work {
        loss,
        d_q: Ground::new(&mut q),
        d_weights: Ground::new(&mut weights),
        factor: Real::load(share * loss.factor),
    };
    let parts: Vec<Part<T::Accum>> = shares(&tiles, |_, _| true, rayon::current_num_threads())
        .par_iter()
        .with_max_len(1)
        .map(|pieces| {
            let tiles = pieces.iter().flat_map(|piece| &tiles[piece.tasks.clone()]);
            work.run(tiles)
        })
        .collect();
    let mut k: Vec<T::Accum> = zeros(loss.k.rows * loss.k.width)?;
    for part in &parts {
        k.par_iter_mut()
            .zip(&part.d_k)
            .with_min_len(PARALLEL_WORK)
            .for_each(|(sum, &more)| *sum += more);
    }
    let sum: f64 = parts.iter().flat_map(|part| &part.losses).sum();
    Ok(IndexLossParts {
        loss: sum * share,
        q,
        k,
        weights,
    })
}

/// How many queries of a tile see a key.
fn seeing<T: CpuElement>(loss: &IndexLoss<'_, Cpu<T>>, tile: &Task) -> usize {
    let keys = Keys::new(&loss.attention, tile);
    let sight = Sight::new(&loss.attention, tile);
    (0..tile.len())
        .filter(|&row| tile.keys.clone().any(|key| sight.sees(row, key, &keys)))
        .count()
}

impl<T: CpuElement> Work<'_, T> {
    fn run<'t>(
        &self,
        tiles: impl Iterator<Item = &'t Task> + Clone,
    ) -> Part<<T as Element>::Accum> {
        let loss = self.loss;
        let mut part = Part {
            losses: Vec::new(),
            d_k: Vec::new(),
        };
        let mut student = Student::default();
        let most = tiles.clone().map(|tile| tile.len() * tile.keys.len()).max();
        let room = || Vec::with_capacity(most.unwrap_or(0));
        let (mut target, mut scores) = (room(), room());
        for tile in tiles {
            if part.d_k.is_empty() {
                part.d_k.resize(loss.k.rows * loss.k.width, T::Accum::ZERO);
            }
            target::fill(loss, tile, &mut target);
            student.score(loss, tile, &mut scores);
            let lost = rows::gradients(
                &mut target,
                &mut scores,
                tile.len(),
                loss.epsilon,
                self.factor,
            );
            part.losses.push(lost);
            student.spread(
                loss,
                tile,
                &scores,
                &mut part.d_k,
                |first, d_q, d_weights| {
                    let (heads, width) = (loss.q.heads, loss.q.width);
                    // SAFETY: tiles share no queries, since segments share none, and each comes once.
                    unsafe {
                        self.d_q.write(first * heads * width, d_q);
                        self.d_weights.write(first * heads, d_weights);
                    }
                },
            );
        }
        part
    }
}
