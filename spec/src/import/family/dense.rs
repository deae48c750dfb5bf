//! Families whose layers attend to every visible key.

use std::sync::LazyLock;

use super::{Defaults, Family, LatentEps, QueryRank, Rotation, Trait};
use crate::import::assemble::{real, size, word};
use crate::import::schedule::Rule;
use crate::layer::{QueryScaleSite, RopeLayout};
use crate::node::Entry;
use crate::span::{Span, Spanned};

/// What most config classes descend from.
pub(super) const DEEPSEEK_V3: Defaults = Defaults {
    hidden_size: 7168,
    num_hidden_layers: 61,
    num_attention_heads: 128,
    q_lora_rank: Some(1536),
    kv_lora_rank: 512,
    qk_nope_head_dim: 128,
    qk_rope_head_dim: 64,
    v_head_dim: Some(128),
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    rope: None,
};

/// DeepSeek-V3 itself, which the others are compared with.
pub(super) const BASE: Family = Family {
    model_types: &["deepseek_v3"],
    architectures: &["DeepseekV3ForCausalLM", "DeepseekV3Model"],
    layer_name: "DeepSeekV3Attention",
    defaults: DEEPSEEK_V3,
    rotation: Rotation::Configured,
    latent_eps: LatentEps::OfTheClass,
    query_rank: QueryRank::Optional,
    indexer: None,
    layers: Rule::Alike,
    traits: &[],
    known: &[],
    reviewed: &[],
    nested_prefix: "language_model.model",
    released_names: None,
};

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
        rotation: Rotation::Always(RopeLayout::Interleaved),
        ..BASE
    },
    BASE,
    Family {
        model_types: &["kimi_k2"],
        architectures: &["KimiK2ForCausalLM"],
        layer_name: "KimiK2Attention",
        ..BASE
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
        ..BASE
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
        ..BASE
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
            v_head_dim: Some(256),
            max_position_embeddings: 202_752,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        traits: &[Trait::HeadDimIsRopeDim],
        ..BASE
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
        layers: Rule::KimiLinear,
        known: &["layer_types", "linear_attn_config", "mla_use_nope"],
        reviewed: &[
            "linear_conv_kernel_dim",
            "linear_head_dim",
            "linear_num_heads",
            "short_conv_kernel_size",
        ],
        ..BASE
    },
    Family {
        model_types: &["bailing_hybrid"],
        architectures: &["BailingHybridForCausalLM", "BailingHybridModel"],
        layer_name: "BailingHybridAttention",
        defaults: Defaults {
            hidden_size: 2560,
            num_hidden_layers: 42,
            num_attention_heads: 32,
            q_lora_rank: None,
            max_position_embeddings: 262_144,
            rope_theta: 6_000_000.0,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        query_rank: QueryRank::Never,
        layers: Rule::LastOfGroup,
        // The modeling code takes the sigmoid in f32; vLLM computes the whole gate so (S-13).
        traits: &[
            Trait::GatePerHead {
                full_precision: true,
            },
            Trait::HeadDimOfOthers,
        ],
        known: &["layer_types", "layer_group_size"],
        reviewed: &[
            "kda_lower_bound",
            "kda_safe_gate",
            "linear_conv_kernel_dim",
            "linear_head_dim",
            "linear_num_heads",
            "moe_router_enable_expert_bias",
            "num_nextn_predict_layers",
            "score_function",
            "short_conv_kernel_size",
        ],
        released_names: Some("`model.layers.N.attention.*`, its output projection `dense`"),
        ..BASE
    },
    Family {
        model_types: &["minicpm3"],
        architectures: &["MiniCPM3ForCausalLM", "MiniCPM3Model"],
        layer_name: "MiniCPM3Attention",
        defaults: Defaults {
            hidden_size: 2560,
            num_hidden_layers: 62,
            num_attention_heads: 40,
            q_lora_rank: Some(768),
            kv_lora_rank: 256,
            qk_nope_head_dim: 64,
            qk_rope_head_dim: 32,
            v_head_dim: None,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Half),
        reviewed: &["dim_model_base", "scale_depth", "scale_emb"],
        ..BASE
    },
    Family {
        model_types: &["mistral4"],
        architectures: &["Mistral4ForCausalLM", "Mistral4Model"],
        layer_name: "Mistral4Attention",
        defaults: Defaults {
            hidden_size: 4096,
            num_hidden_layers: 36,
            num_attention_heads: 32,
            q_lora_rank: Some(1024),
            kv_lora_rank: 256,
            qk_nope_head_dim: 64,
            max_position_embeddings: 1_048_576,
            rope: Some(mistral4_rope),
            ..DEEPSEEK_V3
        },
        traits: &[Trait::Llama4Scaling],
        ..BASE
    },
    Family {
        model_types: &["longcat_flash"],
        architectures: &["LongcatFlashForCausalLM", "LongcatFlashModel"],
        layer_name: "LongcatFlashAttention",
        defaults: Defaults {
            hidden_size: 6144,
            num_hidden_layers: 56,
            num_attention_heads: 64,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000_000.0,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        query_rank: QueryRank::Required,
        indexer: Some(super::sparse::LONGCAT_INDEXER),
        layers: Rule::Longcat,
        traits: &[
            Trait::LatentScales(QueryScaleSite::Query),
            Trait::TwoAttentions,
        ],
        known: &[
            "num_layers",
            "mla_scale_q_lora",
            "mla_scale_kv_lora",
            "index_n_heads",
            "index_head_dim",
            "index_topk",
            "index_k_norm_type",
            "index_init_tokens",
            "index_local_tokens",
            "indexer_rope_interleave",
            "cli_factor",
        ],
        reviewed: &[
            "attention_method",
            "expert_ffn_hidden_size",
            "ffn_hidden_size",
            "moe_topk",
            "router_bias",
            "zero_expert_num",
            "zero_expert_type",
        ],
        ..BASE
    },
];

/// What `mistral4` takes where a config has no rope parameters.
fn mistral4_rope() -> &'static [Entry] {
    static ROPE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let mut rope = yarn(128.0, 8192);
        rope.extend(
            [
                ("mscale", 1.0),
                ("mscale_all_dim", 1.0),
                ("llama_4_scaling_beta", 0.1),
            ]
            .map(|(key, value)| real(key, Spanned::unplaced(value))),
        );
        rope
    });
    &ROPE
}

/// A YaRN rope at the usual bounds.
pub(super) fn yarn(factor: f64, original: u32) -> Vec<Entry> {
    vec![
        word("rope_type", "yarn", Span::NONE),
        real("rope_theta", Spanned::unplaced(10_000.0)),
        real("factor", Spanned::unplaced(factor)),
        size(
            "original_max_position_embeddings",
            Spanned::unplaced(original),
        ),
        real("beta_fast", Spanned::unplaced(32.0)),
        real("beta_slow", Spanned::unplaced(1.0)),
    ]
}
