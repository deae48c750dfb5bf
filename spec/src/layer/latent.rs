//! `MLASelfAttention`: queries, and the latent that keys and values come from.

use super::norm::{Norm, NormParams};

/// The projections of Multi-head Latent Attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Latent {
    /// Sizes that every form of the layer has.
    pub dims: Dims,
    /// How queries are made.
    pub query: Query,
    /// How latents leave the hidden state.
    pub down: DownProjection,
    /// Norm of the key-value latent; [`Norm::Identity`] where it is another layer's.
    pub kv_norm: Norm,
    /// What the normed key-value latent is multiplied by, the cached one included (B-10).
    pub kv_scale: Option<LatentScale>,
    /// Norm of the shared rope key before it is rotated (`k_rope_layernorm`, S-09).
    pub k_rope_norm: Option<NormParams>,
    /// Whose latents are attended to.
    pub kv_source: KvSource,
}

/// Sizes of a layer, all in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    /// `h`, width of the residual stream.
    pub hidden_size: u32,
    /// `H`.
    pub num_attention_heads: u32,
    /// `r_kv`, width of the key-value latent.
    pub kv_lora_rank: u32,
    /// `d_n`, the part of a head's query and key that is never rotated. At least 1.
    pub qk_nope_head_dim: u32,
    /// `d_r`, the part that rope rotates; the key's is shared by all heads. Even; 0 where there is none.
    pub qk_rope_head_dim: u32,
    /// `d_v`.
    pub v_head_dim: u32,
}

impl Dims {
    /// `d_n + d_r`, the length of a head's query.
    pub fn qk_head_dim(&self) -> u32 {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }
}

/// How queries are made from the hidden state.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// `q = W_q x` (`linear_q_proj`, HF `q_proj`).
    Plain,
    /// `q = W_qb norm(W_qa x)` (`linear_q_down_proj`, `q_layernorm`, and an up projection).
    Lora {
        /// `r_q`.
        rank: u32,
        /// Norm of the query latent.
        norm: Norm,
        /// What the query is multiplied by, and where (B-10, S-12).
        scale: Option<(LatentScale, QueryScaleSite)>,
        /// The up projection.
        up: QueryUp,
    },
}

/// The up projection of a query latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryUp {
    /// `linear_q_up_proj` (HF `q_b_proj`): queries alone.
    Query,
    /// `linear_q_gate_proj` (HF `q_gate_proj`): from `[ĉ_q; c_q]`, the normed and the raw latent, each head's query and then its
    /// output gate (S-13). The layer's gate is [`super::GateSource::Query`].
    QueryAndGate,
}

/// Where a query latent's scale applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryScaleSite {
    /// On the normed latent, which an indexer sees too (S-12).
    Latent,
    /// On the queries; an indexer sees the latent as it was (B-10).
    Query,
}

/// A constant that a latent is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentScale {
    /// The constant. Finite, not 0.
    pub factor: f64,
    /// Whether the spec says `hidden_over_rank`: `sqrt(h / r)`.
    pub hidden_over_rank: bool,
}

/// How the latents leave the hidden state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownProjection {
    /// `linear_kv_down_proj`, and `linear_q_down_proj` where queries are LoRA. Only the latter where the latent is another layer's.
    Separate {
        /// Bias of `linear_q_down_proj` (HF `q_a_proj.bias`); false where queries are plain.
        q_bias: bool,
        /// Bias of `linear_kv_down_proj` (HF `kv_a_proj_with_mqa.bias`); false where the latent is another layer's.
        kv_bias: bool,
    },
    /// `linear_qkv_down_proj`: one matrix with the rows of both, query latent first. Only with LoRA queries and latents of its own.
    Fused {
        /// Bias of both parts.
        bias: bool,
    },
}

/// Whose latents and rotated keys a layer attends to (S-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvSource {
    /// Its own.
    Own {
        /// Whether other layers attend to them too, so that `forward` hands them out.
        shared: bool,
    },
    /// An earlier layer's: there is no key-value down projection and no norm, and only queries are rotated.
    Other,
}
