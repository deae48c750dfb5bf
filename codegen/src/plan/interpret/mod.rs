//! The oracle: runs a program op by op in `f64`, with plain loops. Slow and clear; tests compare everything else with it.

mod array;
mod attend;
mod attention;
mod cache;
mod call;
mod dropout;
mod error;
mod indexing;
mod params;
mod pointwise;
mod rotate;
mod run;
mod select;
mod train;
mod visible;

use std::collections::BTreeMap;
use std::ops::Range;

use mla_spec::Phase;

pub use cache::{Cache, Piece};
pub use call::{Bias, Context, Extras, SharedKv};
pub use error::Error;
pub use train::{Forwarded, Gradients, Incoming, Lent, Saved};

use super::Program;
use call::{Call, Queries};
use params::Params;
use run::execute;
use visible::Query;

/// Tensors by their names below the layer's prefix ([`Program::tensors`]), row-major.
pub type Weights = BTreeMap<String, Vec<f64>>;

/// A program with weights.
#[derive(Debug)]
pub struct Oracle<'a> {
    program: &'a Program,
    params: Params,
}

/// What a call gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// `[tokens, h]`.
    pub output: Vec<f64>,
    /// What the plan's probes recorded, by name; `[tokens, ..]`.
    pub probes: BTreeMap<&'static str, Vec<f64>>,
    /// For each token, the indexer's scores of its sequence's keys, of complete pools where it pools; -∞ where not visible. Empty
    /// where the layer picks no keys.
    pub scores: Vec<Vec<f64>>,
    /// What the layer hands to others.
    pub given: Given,
}

/// What a layer hands to others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Given {
    /// For each token, indices of picked keys in its sequence, ascending; `None` where the layer gives none.
    pub selection: Option<Vec<Vec<usize>>>,
    /// Latents and rotated keys of the call's tokens; `None` where the layer gives none.
    pub shared_kv: Option<SharedKv>,
}

impl<'a> Oracle<'a> {
    /// A program with exactly the weights it wants.
    ///
    /// # Errors
    /// A tensor is missing, has another number of elements, or is not the program's.
    pub fn new(program: &'a Program, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            program,
            params: Params::load(program, weights)?,
        })
    }

    /// The phase `forward`. `hidden` is `[tokens, h]`, one position per token; `sequences` are the rows of each sequence, rows in
    /// none of them being padding.
    ///
    /// # Errors
    /// The program has no such phase, a length is wrong, or the layer wants extras.
    pub fn forward(
        &self,
        hidden: &[f64],
        positions: &[u32],
        sequences: &[Range<usize>],
    ) -> Result<Run, Error> {
        self.forward_with(hidden, positions, sequences, Extras::default())
    }

    /// [`Oracle::forward`] of a layer that takes more than hidden states.
    ///
    /// # Errors
    /// The program has no such phase, a length is wrong, or an extra is missing.
    pub fn forward_with(
        &self,
        hidden: &[f64],
        positions: &[u32],
        sequences: &[Range<usize>],
        extras: Extras<'_>,
    ) -> Result<Run, Error> {
        let queries = Queries::of(sequences, positions.len())?;
        let mut nothing = Cache::default();
        let call = Call {
            hidden,
            positions: positions.to_vec(),
            queries,
            sequences: sequences.to_vec(),
            pieces: &[],
            cached: Vec::new(),
            cache: &mut nothing,
            extras,
        };
        self.run(Phase::Forward, call)
    }

    /// The phases `prefill`, `decode` and `mixed`: new tokens of some requests, `hidden` `[tokens, h]` piece after piece, at the positions that
    /// follow what is cached.
    ///
    /// # Errors
    /// The program has no such phase, a length is wrong, a request is not in the cache or named twice, or the layer wants extras.
    pub fn cached(
        &self,
        phase: Phase,
        cache: &mut Cache,
        pieces: &[Piece],
        hidden: &[f64],
    ) -> Result<Run, Error> {
        self.cached_with(phase, cache, pieces, hidden, Extras::default())
    }

    /// [`Oracle::cached`] of a layer that takes more than hidden states. Where it reads another layer's cache, that one holds the
    /// call's tokens already.
    ///
    /// # Errors
    /// As [`Oracle::cached`]; or an extra is missing.
    pub fn cached_with(
        &self,
        phase: Phase,
        cache: &mut Cache,
        pieces: &[Piece],
        hidden: &[f64],
        extras: Extras<'_>,
    ) -> Result<Run, Error> {
        let (mut positions, mut queries) = (Vec::new(), Queries(Vec::new()));
        let (mut sequences, mut cached) = (Vec::new(), Vec::new());
        for (sequence, piece) in pieces.iter().enumerate() {
            let twice = pieces[..sequence]
                .iter()
                .any(|earlier| earlier.request == piece.request);
            if twice || !cache.holds(piece.request) {
                return Err(Error::BadRequest(piece.request));
            }
            let start = match extras.source {
                None => cache.tokens(piece.request),
                Some(source) => source
                    .tokens(piece.request)
                    .checked_sub(piece.tokens)
                    .ok_or(Error::BadRequest(piece.request))?,
            };
            sequences.push(positions.len()..positions.len() + piece.tokens);
            for index in start..start + piece.tokens {
                positions.push(u32::try_from(index).unwrap_or(u32::MAX));
                queries.0.push(Some(Query {
                    sequence,
                    index,
                    at: index as i64,
                }));
            }
            cached.push(start);
        }
        let call = Call {
            hidden,
            positions,
            queries,
            sequences,
            pieces,
            cached,
            cache,
            extras,
        };
        self.run(phase, call)
    }

    fn run(&self, phase: Phase, call: Call<'_>) -> Result<Run, Error> {
        let plan = self
            .program
            .plans
            .iter()
            .find(|plan| plan.phase == phase)
            .ok_or(Error::NoSuchPhase(phase))?;
        execute(self.program, &self.params, plan, call)
    }
}
