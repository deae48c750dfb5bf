//! What was read of one layer, before it is said in our language.

use super::schedule::KvRole;
use crate::layer::{QueryScaleSite, RopeLayout, SplitOrder};
use crate::node::Node;
use crate::span::Spanned;

/// Everything that a layer's spec is built from.
pub(super) struct Parts {
    pub(super) hidden_size: Spanned<u32>,
    pub(super) num_attention_heads: Spanned<u32>,
    /// `None` for plain queries.
    pub(super) q_lora_rank: Option<Spanned<u32>>,
    pub(super) kv_lora_rank: Spanned<u32>,
    pub(super) qk_nope_head_dim: Spanned<u32>,
    pub(super) qk_rope_head_dim: Spanned<u32>,
    pub(super) v_head_dim: Spanned<u32>,
    pub(super) rope: Node,
    /// How many keys a query of a sliding layer sees, itself included.
    pub(super) window: Option<Spanned<u32>>,
    pub(super) latent_eps: Spanned<f64>,
    /// Bias of the down projections and of the output projection, where there is one.
    pub(super) bias: Option<Spanned<bool>>,
    /// Where the query latent's scale applies; the other latent's has one place only.
    pub(super) latent_scales: Option<QueryScaleSite>,
    pub(super) query_scaling: Option<QueryScaling>,
    pub(super) gate: Option<Gate>,
    pub(super) sinks: bool,
    /// Whether the shared rope key is normed, at the latent norms' eps.
    pub(super) rope_key_norm: bool,
    pub(super) kv: KvRole,
    pub(super) indexer: Option<Indexer>,
}

/// What queries are multiplied by, by position.
pub(super) enum QueryScaling {
    /// Llama 4's steps.
    Llama4 {
        beta: Spanned<f64>,
        original: Spanned<u32>,
    },
    /// Learned, by the logarithm.
    LogPosition,
}

/// The output gate.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    PerHead { full_precision: bool },
    PerElement,
    WithQuery,
}

/// Where the picked keys come from.
pub(super) enum Indexer {
    /// Another layer.
    Shared { topk: Spanned<u32> },
    /// This one.
    Lightning(Box<Lightning>),
}

/// An indexer with weights of its own.
pub(super) struct Lightning {
    pub(super) num_heads: Spanned<u32>,
    pub(super) head_dim: Spanned<u32>,
    pub(super) topk: Spanned<u32>,
    /// How its rope part is rotated and where it stands; `None` where the layer rotates nothing.
    pub(super) rope: Option<(RopeLayout, SplitOrder)>,
    /// Whether queries come from the layer's normed input.
    pub(super) from_hidden: bool,
    pub(super) log_position: bool,
    pub(super) k_norm: &'static str,
    pub(super) k_norm_eps: Spanned<f64>,
    pub(super) full_precision_weights: bool,
    /// First and last tokens that are always picked.
    pub(super) forced: Option<(Spanned<u32>, Spanned<u32>)>,
    /// Tokens per pool, and whether an incomplete one is always picked.
    pub(super) pool: Option<(Spanned<u32>, Spanned<bool>)>,
    /// Whether later layers use its picks.
    pub(super) shared: bool,
}
