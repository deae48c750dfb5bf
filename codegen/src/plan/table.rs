//! What a program knows besides its ops: rotation, softmax, the indexer, the caches.

use mla_spec::{Forced, Form, IndexStore, IndexerLoss, IndexerRope, RopeLayout, Store};

use super::Dim;

/// Rope frequencies, ready to print.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    /// Width of the part that is rotated, `d_r`.
    pub width: Dim,
    /// `d_r / 2` frequencies in radians per position; those of short calls where they depend on a call's length.
    pub inv_freq: Vec<f64>,
    /// How they depend on a call's length.
    pub by_length: Option<ByLength>,
    /// What cos and sin are multiplied by.
    pub cos_sin_factor: f64,
    /// Pairs as the weights produce them.
    pub input: RopeLayout,
    /// Pairs as queries, keys and the cache hold them after rotation.
    pub output: RopeLayout,
    /// One line: where the frequencies come from.
    pub doc: String,
}

/// Frequencies that depend on the longest position of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum ByLength {
    /// LongRoPE: another list for calls whose longest position reaches `original_max_position_embeddings`.
    LongRope {
        /// The list of long calls.
        long: Vec<f64>,
        /// `L_0`.
        original_max_position_embeddings: u32,
    },
    /// The base grows with `n`, the longest position + 1, beyond `L`: `θ ((f n / L) - (f - 1))^(d_r / (d_r - 2))` (D-10).
    Dynamic {
        /// `θ`.
        theta: f64,
        /// `f`.
        factor: f64,
        /// `L`.
        max_position_embeddings: u32,
    },
}

/// `τ` and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftmaxScale {
    /// The number.
    pub value: f64,
    /// One line: its derivation.
    pub doc: String,
}

/// What stands between scaled logits and probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxPlan {
    /// `cap · tanh(s / cap)` on scaled logits.
    pub soft_cap: Option<f64>,
    /// Whether an argument is added to scaled and capped logits.
    pub bias: bool,
    /// Probability of dropping a probability in `forward`, where the caller passes a seed; 0 where none is ever dropped.
    pub dropout: f64,
}

/// How a layer picks keys.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexerPlan {
    /// `h_i`.
    pub heads: Dim,
    /// `d_i`.
    pub head_dim: Dim,
    /// How many keys are picked at most, an incomplete pool's tokens apart.
    pub topk: Dim,
    /// `h_i^-1/2 · d_i^-1/2`: what scores are multiplied by.
    pub scale: f64,
    /// Whether dot products below 0 count as 0.
    pub relu: bool,
    /// Which elements of a head are rotated.
    pub rope: Option<IndexerRope>,
    /// Tokens that are always picked.
    pub forced: Forced,
    /// How keys are pooled before they are scored.
    pub pool: Option<PoolPlan>,
    /// The loss that trains it; `None` where it learns nothing.
    pub loss: Option<IndexerLoss>,
}

/// How an indexer's keys are pooled (S-17): a pool's key is the average of its tokens' keys, element by element, with the weights
/// `softmax(gate + summand)` over the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolPlan {
    /// Tokens per pool.
    pub size: Dim,
    /// The module that pools.
    pub slot: &'static str,
    /// Whether the tokens behind the last complete pool are always picked.
    pub tail: bool,
}

/// From how many new tokens of a request on MHA is the form that costs less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MhaFrom {
    /// Tokens already cached, ascending from 0, and new tokens, `None` where it never is: each pair holds up to the next one.
    pub from: Vec<(u64, Option<u64>)>,
    /// Where the numbers come from.
    pub doc: String,
}

impl MhaFrom {
    /// The form of a request.
    pub fn form(&self, new: u64, cached: u64) -> Form {
        let held = self.from.iter().rev().find(|(from, _)| *from <= cached);
        match held.and_then(|(_, from)| *from) {
            Some(from) if new >= from => Form::Mha,
            _ => Form::Mqa,
        }
    }

    /// Some of the pairs, as people say them.
    pub fn words(&self) -> String {
        let from = |new: Option<u64>| match new {
            Some(1) => "from the first new token on".to_owned(),
            Some(new) => format!("from {new} new tokens on"),
            None => "never".to_owned(),
        };
        let some = |cached: u64| {
            let held = self.from.iter().rev().find(|(at, _)| *at <= cached);
            held.and_then(|(_, new)| *new)
        };
        match self.from.as_slice() {
            [] => String::new(),
            [(_, always)] => format!("MHA costs less {}", from(*always)),
            [.., (_, last)] => format!(
                "MHA costs less {} where nothing is cached, {} where 1024 tokens are, and {} over a long context",
                from(some(0)),
                from(some(1024)),
                from(*last)
            ),
        }
    }
}

/// What a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheContent {
    /// Normed latent and rotated shared key.
    Latent,
    /// Every head's key and value, made from latents.
    Naive,
    /// Every group's key and value.
    Groups,
    /// Every head's key and value of another sequence.
    Context,
    /// An indexer's keys alone: the latents are another layer's.
    Index,
}

/// What prefill and decode keep of past tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct CachePlan {
    /// What is kept of keys and values.
    pub content: CacheContent,
    /// How it is stored.
    pub store: Store,
    /// The indexer's keys beside them.
    pub index: Option<IndexCachePlan>,
    /// Tokens per page; `None` for a contiguous cache.
    pub page_size: Option<u32>,
    /// Order of the cached rope key's elements; `None` where it was never rotated.
    pub rope_layout: Option<RopeLayout>,
    /// Elements kept per token, the indexer's apart.
    pub elements_per_token: u64,
    /// How many of them are the shared rope key.
    pub rope_elements: u64,
}

/// What is kept of an indexer's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexCachePlan {
    /// How they are stored.
    pub store: IndexStore,
    /// Elements of a key.
    pub width: Dim,
    /// Tokens per pool, where keys are pooled: then a token's gate is kept as well, and each pool's key.
    pub pool: Option<Dim>,
    /// Whether queries are rounded as keys are stored before they meet them.
    pub rounds_queries: bool,
}

impl IndexCachePlan {
    /// Elements kept per token: the key, and the gate that pools it. A pool's key is not counted.
    pub fn elements_per_token(&self) -> u32 {
        match self.pool {
            None => self.width.size,
            Some(_) => 2 * self.width.size,
        }
    }
}
