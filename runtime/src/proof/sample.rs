//! What a proof feeds a layer.

use crate::weights::generator::{Recipe, splitmix64};

/// Requests of random hidden states: how many, how long, and where their positions start. Everything follows from the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    seed: u64,
    lengths: Vec<usize>,
    first_positions: Vec<u32>,
    /// Whether a request may be lengthened so that it crosses a page.
    crosses_pages: bool,
}

/// One request's input.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `[tokens, h]`.
    pub(crate) hidden: Vec<f64>,
    /// One per token.
    pub(crate) positions: Vec<u32>,
}

impl Sample {
    /// For a small layer: four requests of 1 to 24 tokens, one of them lengthened to cross the page of a paged cache.
    pub fn twin(seed: u64) -> Self {
        let mut dice = Dice(splitmix64(seed));
        let mut lengths: Vec<usize> = (0..3).map(|_| 2 + dice.below(23)).collect();
        lengths.insert(dice.below(4), 1);
        let first_positions = lengths.iter().map(|_| dice.below(6000) as u32).collect();
        Self {
            seed,
            lengths,
            first_positions,
            crosses_pages: true,
        }
    }

    /// For a layer of real size: requests of 5 and 3 tokens, one starting far.
    pub fn short(seed: u64) -> Self {
        let mut dice = Dice(splitmix64(seed));
        let far = dice.below(100_000) as u32;
        Self {
            seed,
            lengths: vec![5, 3],
            first_positions: vec![0, far],
            crosses_pages: false,
        }
    }

    /// The requests for a layer of width `hidden_size` whose cache has pages of `page` tokens.
    pub(crate) fn requests(&self, hidden_size: usize, page: Option<usize>) -> Vec<Request> {
        let recipe = Recipe::for_hidden_states(self.seed);
        let mut lengths = self.lengths.clone();
        if let (Some(page), Some(first), true) = (page, lengths.first_mut(), self.crosses_pages) {
            // One page and a bit, unless pages are so long that this would take seconds
            *first = (*first).max(if page <= 128 { page + 3 } else { 0 });
        }
        let starts = lengths.iter().zip(&self.first_positions).enumerate();
        starts
            .map(|(i, (&tokens, &start))| Request {
                hidden: recipe
                    .values(&format!("request.{i}"), tokens * hidden_size)
                    .into_iter()
                    .map(f64::from)
                    .collect(),
                positions: (start..).take(tokens).collect(),
            })
            .collect()
    }

    /// Dice that the same sample always throws alike.
    pub(crate) fn dice(&self) -> Dice {
        Dice(splitmix64(self.seed ^ 0x5EED))
    }
}

impl Request {
    pub(crate) fn tokens(&self) -> usize {
        self.positions.len()
    }
}

/// A small random number generator.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `bound`, or 0 where `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = splitmix64(self.0);
        // The bias towards small numbers is bound / 2^63
        (self.0 >> 1) as usize % bound.max(1)
    }

    /// `0..count` in a random order.
    pub(crate) fn shuffled(&mut self, count: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..count).collect();
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }

    /// Cuts `total` into pieces of 1 to `longest`.
    pub(crate) fn pieces(&mut self, total: usize, longest: usize) -> Vec<usize> {
        let mut left = total;
        let mut pieces = Vec::new();
        while left > 0 {
            let piece = (1 + self.below(longest)).min(left);
            pieces.push(piece);
            left -= piece;
        }
        pieces
    }
}
