//! The proved layer: sum types in which no invalid combination can be written down.
//!
//! Only [`check`](crate::check()) makes one, so nothing after it checks again. Symbols as in the literature:
//! `h` hidden size, `H` heads, `r_q` and `r_kv` the LoRA ranks, `d_n`, `d_r`, `d_v` the head dims.

mod grouped;
mod latent;
mod mask;
mod norm;
mod rope;
mod scores;
mod sparse;
mod training;

pub use grouped::{Cross, Grouped, HeadNorms, QkvProjection};
pub use latent::{
    Dims, DownProjection, KvSource, Latent, LatentScale, Query, QueryScaleSite, QueryUp,
};
pub use mask::{AttnMask, MaskKind, Window};
pub use norm::{Norm, NormKind, NormParams};
pub use rope::{
    Llama3, LongRope, LongRopeSelect, Rope, RopeLayout, RopeScaling, Rotary, Yarn, YarnMagnitude,
    yarn_magnitude,
};
pub use scores::{Gate, GateGranularity, GateSource, Logits, QueryScaling, Sink};
pub use sparse::{
    Core, Forced, Indexer, IndexerQuery, IndexerRope, LightningIndexer, Pool, SplitOrder,
};
pub use training::{IndexerLoss, LossEpsilon, LossReduction, LossStage, QkClip};

use crate::build::Build;

/// A checked spec: what is computed, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What is computed.
    pub layer: Layer,
    /// How it is computed. Never changes the mathematics.
    pub build: Build,
}

/// One attention layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Name of the generated type: an upper-camel-case Rust identifier.
    pub name: String,
    /// Norm of the layer's input (`input_layernorm`); `None` where the caller does that.
    pub input_norm: Option<NormParams>,
    /// How queries, keys and values are made.
    pub projections: Projections,
    /// Rotary embedding.
    pub rope: Rope,
    /// What queries are multiplied by besides the softmax scale.
    pub query_scaling: QueryScaling,
    /// Which keys a query may see.
    pub mask: AttnMask,
    /// What happens to logits and probabilities.
    pub logits: Logits,
    /// Attention itself.
    pub core: Core,
    /// What attention's output is multiplied by before `linear_proj`.
    pub gate: Option<Gate>,
    /// Whether `linear_proj` (HF `o_proj`) has a bias.
    pub output_bias: bool,
    /// How weights are clipped where logits grow too large; `None` where they never are.
    pub qk_clip: Option<QkClip>,
}

/// How queries, keys and values are made: the layer's module.
#[derive(Debug, Clone, PartialEq)]
pub enum Projections {
    /// `MLASelfAttention`: keys and values come from a latent that all heads share.
    Latent(Latent),
    /// `SelfAttention`: groups of query heads share a key and a value head.
    Grouped(Grouped),
    /// `CrossAttention`: keys and values come from another sequence.
    Cross(Cross),
}

impl Layer {
    /// `h`, width of the residual stream.
    pub fn hidden_size(&self) -> u32 {
        match &self.projections {
            Projections::Latent(latent) => latent.dims.hidden_size,
            Projections::Grouped(grouped) => grouped.hidden_size,
            Projections::Cross(cross) => cross.hidden_size,
        }
    }

    /// `H`.
    pub fn num_attention_heads(&self) -> u32 {
        match &self.projections {
            Projections::Latent(latent) => latent.dims.num_attention_heads,
            Projections::Grouped(grouped) => grouped.num_attention_heads,
            Projections::Cross(cross) => cross.num_attention_heads,
        }
    }

    /// Length of a head's query.
    pub fn qk_head_dim(&self) -> u32 {
        match &self.projections {
            Projections::Latent(latent) => latent.dims.qk_head_dim(),
            Projections::Grouped(grouped) => grouped.kv_channels,
            Projections::Cross(cross) => cross.kv_channels,
        }
    }

    /// Length of a head's value.
    pub fn v_head_dim(&self) -> u32 {
        match &self.projections {
            Projections::Latent(latent) => latent.dims.v_head_dim,
            Projections::Grouped(grouped) => grouped.kv_channels,
            Projections::Cross(cross) => cross.kv_channels,
        }
    }

    /// How many elements of a head rope rotates; 0 where it rotates none.
    pub fn rotated_dim(&self) -> u32 {
        match (&self.rope, &self.projections) {
            (Rope::None, _) | (_, Projections::Cross(_)) => 0,
            (Rope::Rotary(_), Projections::Latent(latent)) => latent.dims.qk_rope_head_dim,
            (Rope::Rotary(_), Projections::Grouped(grouped)) => grouped.rotary_dim,
        }
    }

    /// The latent projections; `None` for the other modules.
    pub fn latent(&self) -> Option<&Latent> {
        match &self.projections {
            Projections::Latent(latent) => Some(latent),
            Projections::Grouped(_) | Projections::Cross(_) => None,
        }
    }

    /// The indexer behind a sparse core; `None` where attention is dense.
    pub fn indexer(&self) -> Option<&Indexer> {
        match &self.core {
            Core::Dense => None,
            Core::Sparse(indexer) => Some(indexer),
        }
    }

    /// `τ`, what logits are multiplied by: what the spec states, else `d^-1/2 · g(f, mscale_all_dim)²` (E-01), d the length of a
    /// head's query.
    pub fn softmax_scale(&self) -> f64 {
        self.logits.scale.unwrap_or_else(|| {
            f64::from(self.qk_head_dim()).powf(-0.5) * self.softmax_mscale().powi(2)
        })
    }

    /// `g(f, mscale_all_dim)`: 1 unless rope is YaRN.
    pub fn softmax_mscale(&self) -> f64 {
        match &self.rope {
            Rope::Rotary(Rotary {
                scaling: RopeScaling::Yarn(yarn),
                ..
            }) => yarn_magnitude(yarn.factor, yarn.mscale_all_dim),
            _ => 1.0,
        }
    }

    /// `r_q`; `None` where queries are not made from a latent.
    pub fn q_lora_rank(&self) -> Option<u32> {
        match &self.latent()?.query {
            Query::Plain => None,
            Query::Lora { rank, .. } => Some(*rank),
        }
    }
}
