//! What a backward pass needs of the forward pass, in groups that a schedule can name.

use crate::layer::{DownProjection, HeadNorms, KvSource, Latent, Layer, Norm, Projections, Query};

/// A group of values that the backward pass needs, by the part of the layer that makes them (features O-02). `mla_up_proj` is
/// [`QUp`](Self::QUp) and [`KvUp`](Self::KvUp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activation {
    /// `input_layernorm`: the normed input (O-04).
    InputLayernorm,
    /// `q_down_proj`: the raw query latent; what a fused down projection makes.
    QDown,
    /// `kv_down_proj`: the raw key-value latent and the shared rope key.
    KvDown,
    /// `layernorm`: normed latents, a normed rope key, and normed heads.
    Layernorm,
    /// `q_up_proj`: a latent layer's queries, rotated and scaled (O-03); with plain queries, those of `linear_q_proj`.
    QUp,
    /// `kv_up_proj`: every head's key and value, or absorbed queries (O-03).
    KvUp,
    /// `qkv_proj`: queries, keys and values of `SelfAttention` and `CrossAttention`.
    Qkv,
    /// `core_attn`: attention's output and log-sum-exp (O-07).
    CoreAttn,
}

impl Activation {
    /// All of them, ascending.
    pub const ALL: [Self; 8] = [
        Self::InputLayernorm,
        Self::QDown,
        Self::KvDown,
        Self::Layernorm,
        Self::QUp,
        Self::KvUp,
        Self::Qkv,
        Self::CoreAttn,
    ];

    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        match self {
            Self::InputLayernorm => "input_layernorm",
            Self::QDown => "q_down_proj",
            Self::KvDown => "kv_down_proj",
            Self::Layernorm => "layernorm",
            Self::QUp => "q_up_proj",
            Self::KvUp => "kv_up_proj",
            Self::Qkv => "qkv_proj",
            Self::CoreAttn => "core_attn",
        }
    }

    /// Whether a layer makes these values, so that its schedule may name them. What `linear_qkv_down_proj` makes is
    /// [`QDown`](Self::QDown) as a whole.
    pub fn is_made_by(self, layer: &Layer) -> bool {
        match (self, &layer.projections) {
            (Self::CoreAttn, _) => true,
            (Self::InputLayernorm, _) => layer.input_norm.is_some(),
            (Self::Layernorm, projections) => norms(projections),
            (Self::QDown, Projections::Latent(latent)) => {
                matches!(latent.query, Query::Lora { .. })
            }
            (Self::KvDown, Projections::Latent(latent)) => {
                matches!(latent.kv_source, KvSource::Own { .. })
                    && matches!(latent.down, DownProjection::Separate { .. })
            }
            (Self::QUp | Self::KvUp, Projections::Latent(_)) => true,
            (Self::QDown | Self::KvDown | Self::QUp | Self::KvUp, _) => false,
            (Self::Qkv, projections) => !matches!(projections, Projections::Latent(_)),
        }
    }
}

/// Whether a latent or a head is normed.
fn norms(projections: &Projections) -> bool {
    match projections {
        Projections::Latent(latent) => norms_latents(latent),
        Projections::Grouped(grouped) => match grouped.norms {
            HeadNorms::Learned { q, k } => q.is_some() || k.is_some(),
            HeadNorms::L2 { .. } => true,
        },
        Projections::Cross(_) => false,
    }
}

fn norms_latents(latent: &Latent) -> bool {
    let queries = match &latent.query {
        Query::Plain => None,
        Query::Lora { norm, .. } => Some(norm),
    };
    let latents = queries.into_iter().chain([&latent.kv_norm]);
    latents.into_iter().any(|norm| *norm != Norm::Identity) || latent.k_rope_norm.is_some()
}
