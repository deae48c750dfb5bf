//! The model families that are known: how they name themselves, what their config classes default to, how they rotate.

use crate::suggest::suggest;

/// Which elements a family's modeling code rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Always pairs `(2i, 2i + 1)`, whatever the config says.
    AlwaysInterleaved,
    /// As `rope_interleave` says; interleaved where the key is absent.
    Configured,
    /// Nothing is rotated; the rope part still counts in the dot product.
    Never,
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
    pub(super) v_head_dim: u32,
    pub(super) max_position_embeddings: u32,
    pub(super) rms_norm_eps: f64,
}

/// A supported family.
#[derive(Debug)]
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
}

const DEEPSEEK_V3: Defaults = Defaults {
    hidden_size: 7168,
    num_hidden_layers: 61,
    num_attention_heads: 128,
    q_lora_rank: Some(1536),
    kv_lora_rank: 512,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: 128,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
};

/// Every supported family.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_types: &["deepseek_v2"],
        architectures: &["DeepseekV2ForCausalLM", "DeepseekV2Model"],
        layer_name: "DeepSeekV2Attention",
        defaults: Defaults {
            hidden_size: 4096,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            max_position_embeddings: 2048,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::AlwaysInterleaved,
    },
    Family {
        model_types: &["deepseek_v3"],
        architectures: &["DeepseekV3ForCausalLM", "DeepseekV3Model"],
        layer_name: "DeepSeekV3Attention",
        defaults: DEEPSEEK_V3,
        rotation: Rotation::Configured,
    },
    Family {
        model_types: &["kimi_k2"],
        architectures: &["KimiK2ForCausalLM"],
        layer_name: "KimiK2Attention",
        defaults: DEEPSEEK_V3,
        rotation: Rotation::Configured,
    },
    Family {
        model_types: &["youtu", "youtu_llm"],
        architectures: &["YoutuForCausalLM", "YoutuModel"],
        layer_name: "YoutuAttention",
        defaults: Defaults {
            hidden_size: 2048,
            num_hidden_layers: 32,
            num_attention_heads: 16,
            max_position_embeddings: 131_072,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Configured,
    },
    Family {
        model_types: &["axk1", "AXK1", "ax_k1", "AX_K1", "a.x-k1", "A.X-K1"],
        architectures: &["AXK1ForCausalLM", "AXK1Model"],
        layer_name: "AXK1Attention",
        defaults: Defaults {
            num_attention_heads: 64,
            max_position_embeddings: 32_768,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Configured,
    },
    Family {
        model_types: &["glm4_moe_lite"],
        architectures: &["Glm4MoeLiteForCausalLM", "Glm4MoeLiteModel"],
        layer_name: "GLM4MoeLiteAttention",
        defaults: Defaults {
            hidden_size: 2048,
            num_hidden_layers: 47,
            num_attention_heads: 20,
            q_lora_rank: Some(768),
            qk_nope_head_dim: 192,
            v_head_dim: 256,
            max_position_embeddings: 202_752,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Configured,
    },
    Family {
        model_types: &["kimi_linear"],
        architectures: &["KimiLinearForCausalLM", "KimiLinearModel"],
        layer_name: "KimiLinearAttention",
        defaults: Defaults {
            hidden_size: 2304,
            num_hidden_layers: 27,
            num_attention_heads: 32,
            q_lora_rank: None,
            max_position_embeddings: 1_048_576,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Never,
    },
];

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
        model_type: "deepseek_v32",
        needs: "sparse attention (the lightning indexer)",
    },
    Later {
        model_type: "glm_moe_dsa",
        needs: "sparse attention (the lightning indexer)",
    },
    Later {
        model_type: "axk2",
        needs: "sparse attention (the lightning indexer)",
    },
    Later {
        model_type: "AXK2",
        needs: "sparse attention (the lightning indexer)",
    },
    Later {
        model_type: "glm5_next",
        needs: "sparse attention (the lightning indexer)",
    },
    Later {
        model_type: "deepseek_v4",
        needs: "compressed caches and attention sinks",
    },
    Later {
        model_type: "mistral4",
        needs: "position-dependent query scaling",
    },
    Later {
        model_type: "mistral_large4",
        needs: "position-dependent query scaling and per-layer rope",
    },
    Later {
        model_type: "bailing_hybrid",
        needs: "the output gate per head",
    },
    Later {
        model_type: "bailing_moe_v2_5",
        needs: "the output gate per head",
    },
    Later {
        model_type: "minicpm3",
        needs: "longrope",
    },
    Later {
        model_type: "longcat_flash",
        needs: "scaled latents and two attentions per layer",
    },
    Later {
        model_type: "hy_v4",
        needs: "its attention variants",
    },
    Later {
        model_type: "dots3_note",
        needs: "scaled latents and sliding windows",
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

/// Configs that hold the language model's config under `text_config`, and the family where that one names none.
pub(super) const WRAPPERS: &[(&str, &str)] =
    &[("kimi_vl", "deepseek_v3"), ("kimi_k25", "deepseek_v3")];

/// The family that calls itself `model_type`.
pub(super) fn by_model_type(model_type: &str) -> Option<&'static Family> {
    FAMILIES
        .iter()
        .find(|family| family.model_types.contains(&model_type))
}

/// The family that one of these `architectures` belongs to.
pub(super) fn by_architecture(architecture: &str) -> Option<&'static Family> {
    FAMILIES
        .iter()
        .find(|family| family.architectures.contains(&architecture))
}

/// The known `model_type` nearest to a misspelt one.
pub(super) fn nearest(model_type: &str) -> Option<&'static str> {
    suggest(
        model_type,
        FAMILIES
            .iter()
            .flat_map(|family| family.model_types.iter().copied()),
    )
}

/// Names of the supported families, for messages.
pub(super) fn names() -> String {
    let names: Vec<_> = FAMILIES
        .iter()
        .map(|family| format!("`{}`", family.model_types[0]))
        .collect();
    names.join(", ")
}

impl Family {
    /// How messages name it.
    pub(super) fn name(&self) -> &'static str {
        self.model_types[0]
    }
}
