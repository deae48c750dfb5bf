//! The model families that are known: how they name themselves, what their config classes default to, and where their
//! attention differs from DeepSeek-V3's.

mod dense;
mod keys;
mod sparse;

pub(super) use keys::review;

use super::schedule;
use crate::layer::{QueryScaleSite, RopeLayout, SplitOrder};
use crate::node::Entry;
use crate::suggest::suggest;

/// Which elements a family's modeling code rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Always in this layout, whatever the config says.
    Always(RopeLayout),
    /// As `rope_interleave` says; interleaved where the key is absent.
    Configured,
    /// Nothing is rotated; the rope part still counts in the dot product.
    Never,
    /// There is no rope part: `qk_rope_head_dim` has to be 0.
    NoRopePart,
}

/// What a config class takes for absent keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) hidden_size: u32,
    pub(super) num_hidden_layers: u32,
    pub(super) num_attention_heads: u32,
    pub(super) q_lora_rank: Option<u32>,
    pub(super) kv_lora_rank: u32,
    pub(super) qk_nope_head_dim: u32,
    pub(super) qk_rope_head_dim: u32,
    /// `None`: the hidden size over the number of heads.
    pub(super) v_head_dim: Option<u32>,
    pub(super) max_position_embeddings: u32,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    /// Rope parameters of a config that has none, where the class has its own.
    pub(super) rope: Option<fn() -> &'static [Entry]>,
}

/// Which eps the latent norms are built with (features C-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LatentEps {
    /// The norm class's own default, 1e-6, whatever `rms_norm_eps` says.
    OfTheClass,
    /// `rms_norm_eps`.
    Configured,
}

/// Whether a config may leave out the query latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryRank {
    /// `null` means plain queries.
    Optional,
    /// The modeling code has no plain queries.
    Required,
    /// The modeling code has no query latent.
    Never,
}

/// Where a family's attention differs from DeepSeek-V3's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trait {
    /// `sqrt(h / r)` on both normed latents, the query's at this place (B-10, S-12).
    LatentScales(QueryScaleSite),
    /// Norm of the shared rope key (S-09).
    RopeKeyNorm,
    /// `g_proj`: one gate per head (S-13).
    GatePerHead {
        /// Whether it is computed in f32.
        full_precision: bool,
    },
    /// `gate_proj`: one gate per element (S-13).
    GatePerElement,
    /// `q_gate_proj`: query and gate from both query latents (S-13).
    GateWithQuery,
    /// `sinks`: a learned logit per head (S-08).
    Sinks,
    /// `llama_4_scaling_beta` inside the rope parameters (E-02).
    Llama4Scaling,
    /// `softmax_scaling`: `a ln(pos + 1) + b` per head (S-14).
    LogPositionScaling,
    /// `rotary_emb.alpha`: frequencies multiplied by a learned factor that lies outside the layer.
    LearnedFrequencies,
    /// Rope parameters per layer type, other sizes in sliding layers (S-11).
    PerLayerType,
    /// `mscale_all_dim` does not correct the softmax scale.
    NoSoftmaxCorrection,
    /// Two attentions in each decoder layer.
    TwoAttentions,
    /// `head_dim` is another name of `qk_rope_head_dim`.
    HeadDimIsRopeDim,
    /// `head_dim` belongs to layers of another kind.
    HeadDimOfOthers,
    /// The layer's input norm, outside `self_attn`, is gated (B-12).
    GatedInputNorm,
    /// Rope parts that are not rotated widen the other part (S-15).
    NopeWidens,
}

/// A family's indexer.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexerTraits {
    pub(super) num_heads: u32,
    pub(super) head_dim: u32,
    pub(super) topk: u32,
    /// How its rope part is rotated (L-04).
    pub(super) layout: RopeLayout,
    /// Where its rope part stands (S-18).
    pub(super) split: SplitOrder,
    /// Whether the eps of its key norm is `rms_norm_eps`, rather than 1e-6.
    pub(super) configured_eps: bool,
    /// Whether `weights_proj` stays in f32 (L-08).
    pub(super) full_precision_weights: bool,
    /// Whether its queries come from the layer's normed input instead of the query latent.
    pub(super) from_hidden: bool,
    /// Whether keys are pooled (`index_kpool`, S-17).
    pub(super) pooled: bool,
    /// Whether there is one only where the config has `index_topk`.
    pub(super) optional: bool,
}

/// A supported family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// Spellings of `model_type`; the first one names the family in messages.
    pub(super) model_types: &'static [&'static str],
    /// Names in `architectures`, for configs without a `model_type`.
    pub(super) architectures: &'static [&'static str],
    /// Name of the generated layer where the user gives none.
    pub(super) layer_name: &'static str,
    /// Values of absent keys.
    pub(super) defaults: Defaults,
    /// How it rotates.
    pub(super) rotation: Rotation,
    /// Eps of its latent norms.
    pub(super) latent_eps: LatentEps,
    /// Whether queries come from a latent.
    pub(super) query_rank: QueryRank,
    /// Its indexer, where attention is sparse.
    pub(super) indexer: Option<IndexerTraits>,
    /// How its layers differ from each other.
    pub(super) layers: schedule::Rule,
    /// What else is special.
    pub(super) traits: &'static [Trait],
    /// Keys that only this family reads.
    pub(super) known: &'static [&'static str],
    /// Keys of this family that were reviewed: they do not change its attention.
    pub(super) reviewed: &'static [&'static str],
    /// Where layers stand when the config holds the language model in `text_config`.
    pub(super) nested_prefix: &'static str,
    /// How the released checkpoint spells tensors that the modeling code renames, where it does.
    pub(super) released_names: Option<&'static str>,
}

impl Family {
    /// How messages name it.
    pub(super) fn name(&self) -> &'static str {
        self.model_types[0]
    }

    /// Whose values absent keys have, for messages.
    pub(super) fn class_defaults(&self) -> String {
        format!("`{}`'s class defaults", self.name())
    }

    /// Whether this is one of its traits.
    pub(super) fn has(&self, wanted: Trait) -> bool {
        self.traits.contains(&wanted)
    }
}

/// A family that has MLA layers this release can't express, and what it would take.
pub(super) struct Later {
    /// Its `model_type`.
    pub(super) model_type: &'static str,
    /// What is missing.
    pub(super) needs: &'static str,
}

/// Families that are known and refused.
pub(super) const LATER: &[Later] = &[
    Later {
        model_type: "deepseek_v4",
        needs: "compressed caches and an output LoRA",
    },
    Later {
        model_type: "bailing_moe_v2_5",
        needs: "a review of its config keys",
    },
    Later {
        model_type: "pangu_ultra_moe",
        needs: "a review of its config keys",
    },
    Later {
        model_type: "kimi_k3",
        needs: "a review of its config keys",
    },
];

/// A config that holds the language model's config under `text_config`.
pub(super) struct Wrapper {
    /// Its `model_type`.
    pub(super) model_type: &'static str,
    /// The family of a `text_config` that names none; `None` where that is no MLA family.
    pub(super) default: Option<&'static str>,
    /// Whether `text_config` may be missing: the language model's keys stand beside the others then.
    pub(super) may_be_flat: bool,
}

/// Every known wrapper.
pub(super) const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        model_type: "kimi_vl",
        default: Some("deepseek_v3"),
        may_be_flat: false,
    },
    Wrapper {
        model_type: "kimi_k25",
        default: Some("deepseek_v3"),
        may_be_flat: false,
    },
    Wrapper {
        model_type: "mistral3",
        default: None,
        may_be_flat: false,
    },
    Wrapper {
        model_type: "mistral_large4",
        default: Some("mistral_large4"),
        may_be_flat: false,
    },
    Wrapper {
        model_type: "glm5_next",
        default: Some("glm5_next"),
        may_be_flat: true,
    },
    Wrapper {
        model_type: "dots3_note",
        default: Some("dots3_note"),
        may_be_flat: true,
    },
];

/// Every supported family.
fn families() -> impl Iterator<Item = &'static Family> {
    dense::FAMILIES.iter().chain(sparse::FAMILIES)
}

/// The family that calls itself `model_type`.
pub(super) fn by_model_type(model_type: &str) -> Option<&'static Family> {
    families().find(|family| family.model_types.contains(&model_type))
}

/// The family that one of these `architectures` belongs to.
pub(super) fn by_architecture(architecture: &str) -> Option<&'static Family> {
    families().find(|family| family.architectures.contains(&architecture))
}

/// The known `model_type` nearest to a misspelt one.
pub(super) fn nearest(model_type: &str) -> Option<&'static str> {
    suggest(
        model_type,
        families().flat_map(|family| family.model_types.iter().copied()),
    )
}

/// Names of the supported families, for messages.
pub(super) fn names() -> String {
    let names: Vec<_> = families()
        .map(|family| format!("`{}`", family.model_types[0]))
        .collect();
    names.join(", ")
}
