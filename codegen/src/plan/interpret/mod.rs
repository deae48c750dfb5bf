//! The oracle: runs a program op by op in `f64`, with plain loops. Slow and clear; tests compare everything else with it.

mod array;
mod attend;
mod cache;
mod error;
mod params;
mod run;

use std::collections::BTreeMap;
use std::ops::Range;

use mla_spec::Phase;

pub use cache::{Cache, Piece};
pub use error::Error;

use super::Program;
use attend::Segment;
use params::Params;
use run::{Call, execute};

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
    /// The program has no such phase, or a length is wrong.
    pub fn forward(
        &self,
        hidden: &[f64],
        positions: &[u32],
        sequences: &[Range<usize>],
    ) -> Result<Run, Error> {
        let causal = self.program.mask.is_causal();
        let segment = |rows: &Range<usize>| Segment {
            queries: rows.clone(),
            keys: rows.clone(),
            causal,
        };
        let mut nothing = Cache::default();
        let call = Call {
            hidden,
            positions: positions.to_vec(),
            segments: sequences.iter().map(segment).collect(),
            pieces: &[],
            cached: Vec::new(),
            cache: &mut nothing,
        };
        self.run(Phase::Forward, call)
    }

    /// The phases `prefill` and `decode`: new tokens of some requests, `hidden` `[tokens, h]` piece after piece, at the positions that
    /// follow what is cached.
    ///
    /// # Errors
    /// The program has no such phase, a length is wrong, or a request is not in the cache or named twice.
    pub fn cached(
        &self,
        phase: Phase,
        cache: &mut Cache,
        pieces: &[Piece],
        hidden: &[f64],
    ) -> Result<Run, Error> {
        let (mut positions, mut segments) = (Vec::new(), Vec::new());
        for (index, piece) in pieces.iter().enumerate() {
            let twice = pieces[..index]
                .iter()
                .any(|earlier| earlier.request == piece.request);
            if twice || !cache.holds(piece.request) {
                return Err(Error::BadRequest(piece.request));
            }
            let start = cache.tokens(piece.request);
            let rows = positions.len()..positions.len() + piece.tokens;
            positions.extend(
                (start..start + piece.tokens)
                    .map(|position| u32::try_from(position).unwrap_or(u32::MAX)),
            );
            segments.push(Segment {
                queries: rows.clone(),
                keys: rows,
                causal: true,
            });
        }
        let cached = pieces
            .iter()
            .map(|piece| cache.tokens(piece.request))
            .collect();
        self.run(
            phase,
            Call {
                hidden,
                positions,
                segments,
                pieces,
                cached,
                cache,
            },
        )
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
