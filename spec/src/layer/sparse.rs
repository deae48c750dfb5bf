//! Attention over every visible key, or over those that an indexer picks (features 1.L).

use super::norm::NormParams;
use super::rope::RopeLayout;
use super::training::IndexerLoss;

/// Attention itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Core {
    /// Every visible key (`DotProductAttention`).
    Dense,
    /// The visible keys that an indexer picks (`SparseAttention`).
    Sparse(Indexer),
}

/// Where the picked keys come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Indexer {
    /// `LightningIndexer`: this layer picks.
    Lightning(LightningIndexer),
    /// `SharedIndexer`: an earlier layer picked (L-14).
    Shared {
        /// How many keys that layer picks at most.
        topk: u32,
        /// How many tokens its incomplete pool adds at most; 0 without one.
        tail: u32,
    },
}

/// An indexer with weights of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct LightningIndexer {
    /// `h_i`.
    pub num_heads: u32,
    /// `d_i`.
    pub head_dim: u32,
    /// How many keys are picked at most.
    pub topk: u32,
    /// What its queries are made from.
    pub query: IndexerQuery,
    /// Its rotation, at the layer's own frequencies; `None` where the layer rotates nothing.
    pub rope: Option<IndexerRope>,
    /// Norm of its key.
    pub k_norm: NormParams,
    /// Whether queries and keys are turned by a Hadamard matrix, which leaves exact scores alone (L-05).
    pub hadamard: bool,
    /// Whether dot products below 0 count as 0 (L-07).
    pub relu: bool,
    /// Whether its queries are multiplied by `a_h ln(pos + 1) + b_h` (HF `indexer.softmax_scaling`, S-14).
    pub log_position_scaling: bool,
    /// Whether the head weights are computed in f32 whatever `build.dtype` says (L-08).
    pub full_precision_weights: bool,
    /// Tokens that are always picked; they count towards `topk` (L-15).
    pub forced: Forced,
    /// Keys pooled before they are scored (S-17).
    pub pool: Option<Pool>,
    /// Whether later layers use what it picks (L-14).
    pub shared: bool,
    /// How it is trained; `None` where it is not.
    pub loss: Option<IndexerLoss>,
}

/// What an indexer's queries are made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum IndexerQuery {
    /// The normed query latent.
    Latent,
    /// The layer's input.
    Hidden {
        /// Its norm before `linear_wq_b` (HF `indexer.q_input_norm`).
        norm: Option<NormParams>,
    },
}

/// Which elements of an indexer's head are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IndexerRope {
    /// Which elements make a pair.
    pub layout: RopeLayout,
    /// Where they stand in the head.
    pub split: SplitOrder,
}

/// Where the rotated part of an indexer's head stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SplitOrder {
    /// In front (everyone but HY-V4).
    RopeFirst,
    /// Behind (S-18).
    NopeFirst,
}

/// Tokens that are always picked where they are visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Forced {
    /// The first tokens of a sequence.
    pub initial: u32,
    /// The last tokens before and including the query.
    pub local: u32,
}

/// Pooled keys: a learned average over so many neighbours, `topk / size` pools picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Tokens per pool. Divides `topk`.
    pub size: u32,
    /// Whether the tokens behind the last complete pool are always picked, on top of `topk`.
    pub always_select_tail: bool,
}

impl Indexer {
    /// How many keys a query attends to at most: `topk`, and an incomplete pool's tokens.
    pub fn width(&self) -> u32 {
        match self {
            Indexer::Shared { topk, tail } => topk + tail,
            Indexer::Lightning(indexer) => indexer.topk + indexer.tail(),
        }
    }
}

impl LightningIndexer {
    /// How many tokens an incomplete pool adds at most.
    pub fn tail(&self) -> u32 {
        match self.pool {
            Some(pool) if pool.always_select_tail => pool.size - 1,
            _ => 0,
        }
    }
}
