//! What was read of one layer, before it is said in our language.

use super::schedule::KvRole;
use crate::layer::{QueryScaleSite, RopeLayout, SplitOrder};
use crate::node::Node;
use crate::span::Spanned;

/// Everything that a layer's spec is built from: what every importer ends with, whatever system it reads.
pub(super) struct Parts {
    pub(super) sizes: Sizes,
    pub(super) rope: Node,
    /// How many tokens before it a query sees, where there is a bound.
    pub(super) window: Option<Spanned<u32>>,
    /// Norm of the latents; `None` where they have none.
    pub(super) latent_norm: Option<LatentNorm>,
    /// Whether one projection makes both latents.
    pub(super) fused_down: bool,
    /// Bias of the down projections, where it is stated.
    pub(super) down_bias: Option<Spanned<bool>>,
    /// Bias of the output projection, where it is stated.
    pub(super) output_bias: Option<Spanned<bool>>,
    /// Where the query latent's scale applies; the other latent's has one place only.
    pub(super) latent_scales: Option<QueryScaleSite>,
    pub(super) query_scaling: Option<QueryScaling>,
    pub(super) logits: Logits,
    pub(super) gate: Option<Gate>,
    /// Whether the shared rope key is normed, as latents are.
    pub(super) rope_key_norm: bool,
    pub(super) kv: KvRole,
    pub(super) indexer: Option<Indexer>,
    pub(super) qk_clip: Option<QkClip>,
}

impl Parts {
    /// DeepSeek-V3's shape: dense attention, nothing biased, scaled or gated.
    pub(super) fn plain(sizes: Sizes, rope: Node, latent_norm: Option<LatentNorm>) -> Self {
        Self {
            sizes,
            rope,
            window: None,
            latent_norm,
            fused_down: false,
            down_bias: None,
            output_bias: None,
            latent_scales: None,
            query_scaling: None,
            logits: Logits::default(),
            gate: None,
            rope_key_norm: false,
            kv: KvRole::Own,
            indexer: None,
            qk_clip: None,
        }
    }

    /// Whether something is said that only training reads.
    pub(super) fn is_trained(&self) -> bool {
        let loss = match &self.indexer {
            Some(Indexer::Lightning(indexer)) => indexer.loss.is_some(),
            _ => false,
        };
        self.logits.dropout.is_some() || self.qk_clip.is_some() || loss
    }
}

/// The sizes of one layer.
pub(super) struct Sizes {
    pub(super) hidden_size: Spanned<u32>,
    pub(super) num_attention_heads: Spanned<u32>,
    /// `None` for plain queries.
    pub(super) q_lora_rank: Option<Spanned<u32>>,
    pub(super) kv_lora_rank: Spanned<u32>,
    pub(super) qk_nope_head_dim: Spanned<u32>,
    pub(super) qk_rope_head_dim: Spanned<u32>,
    pub(super) v_head_dim: Spanned<u32>,
}

/// The norm of both latents.
pub(super) struct LatentNorm {
    /// The language's name of it.
    pub(super) kind: &'static str,
    pub(super) eps: Spanned<f64>,
    /// Whether it stands inside the up projection.
    pub(super) fused: bool,
}

impl LatentNorm {
    /// An RMSNorm with a module of its own.
    pub(super) fn rms(eps: Spanned<f64>) -> Self {
        Self {
            kind: "RMSNorm",
            eps,
            fused: false,
        }
    }
}

/// What happens to logits and probabilities.
#[derive(Default)]
pub(super) struct Logits {
    /// The softmax scale, where it does not follow from the head dims and YaRN.
    pub(super) scale: Option<Spanned<f64>>,
    pub(super) soft_cap: Option<Spanned<f64>>,
    /// `softmax_type`, where it is not the plain one.
    pub(super) sink: Option<Spanned<&'static str>>,
    /// Of probabilities, in training.
    pub(super) dropout: Option<Spanned<f64>>,
}

/// The bound on logits that training keeps by scaling weights.
pub(super) struct QkClip {
    pub(super) threshold: Spanned<f64>,
    pub(super) alpha: Spanned<f64>,
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
    /// Whether queries and keys are turned by a Hadamard matrix.
    pub(super) hadamard: bool,
    /// Whether dot products below 0 count as 0.
    pub(super) relu: Spanned<bool>,
    /// How it is trained, where that is said.
    pub(super) loss: Option<IndexerLoss>,
    /// First and last tokens that are always picked.
    pub(super) forced: Option<(Spanned<u32>, Spanned<u32>)>,
    /// Tokens per pool, and whether an incomplete one is always picked.
    pub(super) pool: Option<(Spanned<u32>, Spanned<bool>)>,
    /// Whether later layers use its picks.
    pub(super) shared: bool,
}

/// The loss that trains an indexer.
pub(super) struct IndexerLoss {
    pub(super) coeff: Spanned<f64>,
    pub(super) stage: Spanned<&'static str>,
    pub(super) reduction: Spanned<&'static str>,
    /// What keeps its logarithms finite: the system's own way.
    pub(super) epsilon: &'static str,
}
