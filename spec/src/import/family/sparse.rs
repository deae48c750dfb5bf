//! Families whose layers attend to what an indexer picks.

use std::sync::LazyLock;

use super::dense::{BASE, DEEPSEEK_V3, yarn};
use super::{Defaults, Family, IndexerTraits, LatentEps, QueryRank, Rotation, Trait};
use crate::import::assemble::real;
use crate::import::schedule::Rule;
use crate::layer::{QueryScaleSite, RopeLayout, SplitOrder};
use crate::node::Entry;
use crate::span::Spanned;

/// DeepSeek-V3.2's indexer.
const INDEXER: IndexerTraits = IndexerTraits {
    num_heads: 64,
    head_dim: 128,
    topk: 2048,
    layout: RopeLayout::Half,
    split: SplitOrder::RopeFirst,
    configured_eps: false,
    full_precision_weights: true,
    from_hidden: false,
    pooled: false,
    optional: false,
};

/// LongCat's sparse checkpoints, as third parties describe them (L-15).
pub(super) const LONGCAT_INDEXER: IndexerTraits = IndexerTraits {
    num_heads: 32,
    layout: RopeLayout::Interleaved,
    full_precision_weights: false,
    optional: true,
    ..INDEXER
};

const INDEX_KEYS: &[&str] = &[
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "indexer_rope_interleave",
    "layer_types",
];

const SHARING_KEYS: &[&str] = &[
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "indexer_rope_interleave",
    "layer_types",
    "indexer_types",
    "index_topk_freq",
    "index_skip_topk_offset",
    "index_topk_pattern",
];

pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_types: &["deepseek_v32"],
        architectures: &["DeepseekV32ForCausalLM", "DeepseekV32Model"],
        layer_name: "DeepSeekV32Attention",
        defaults: Defaults {
            max_position_embeddings: 163_840,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        query_rank: QueryRank::Required,
        indexer: Some(INDEXER),
        layers: Rule::Indexed,
        known: INDEX_KEYS,
        ..BASE
    },
    Family {
        model_types: &["glm_moe_dsa"],
        architectures: &["GlmMoeDsaForCausalLM", "GlmMoeDsaModel"],
        layer_name: "GLMMoeDsaAttention",
        defaults: Defaults {
            hidden_size: 6144,
            num_hidden_layers: 78,
            num_attention_heads: 64,
            q_lora_rank: Some(2048),
            qk_nope_head_dim: 192,
            v_head_dim: Some(256),
            max_position_embeddings: 202_752,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        query_rank: QueryRank::Required,
        indexer: Some(IndexerTraits {
            num_heads: 32,
            layout: RopeLayout::Interleaved,
            ..INDEXER
        }),
        layers: Rule::IndexShared,
        known: SHARING_KEYS,
        reviewed: &["index_share_for_mtp_iteration"],
        ..BASE
    },
    Family {
        model_types: &["glm5_next", "glm5_next_text"],
        architectures: &["Glm5NextForCausalLM", "Glm5NextForConditionalGeneration"],
        layer_name: "GLM5NextAttention",
        defaults: Defaults {
            hidden_size: 4096,
            num_hidden_layers: 45,
            num_attention_heads: 64,
            qk_nope_head_dim: 256,
            qk_rope_head_dim: 0,
            v_head_dim: Some(256),
            max_position_embeddings: 1_048_576,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::NoRopePart,
        latent_eps: LatentEps::Configured,
        query_rank: QueryRank::Required,
        indexer: Some(IndexerTraits {
            num_heads: 32,
            full_precision_weights: false,
            pooled: true,
            ..INDEXER
        }),
        layers: Rule::Glm5Next,
        known: &[
            "index_n_heads",
            "index_head_dim",
            "index_topk",
            "layer_types",
            "indexer_types",
            "index_topk_freq",
            "index_skip_topk_offset",
            "index_topk_pattern",
            "index_kpool",
            "index_kpool_always_select_tail",
        ],
        reviewed: &[
            "hc_eps",
            "hc_mult",
            "hc_sinkhorn_iters",
            "image_end_token_id",
            "image_start_token_id",
            "image_token_id",
            "index_share_for_mtp_iteration",
            "linear_attn_config",
            "linear_conv_kernel_dim",
            "linear_head_dim",
            "linear_lower_bound",
            "linear_num_heads",
            "video_end_token_id",
            "video_start_token_id",
            "video_token_id",
            "vision_config",
        ],
        nested_prefix: "model.language_model",
        ..BASE
    },
    Family {
        model_types: &["axk2", "AXK2"],
        architectures: &["AXK2ForCausalLM", "AXK2Model"],
        layer_name: "AXK2Attention",
        defaults: Defaults {
            hidden_size: 2048,
            num_hidden_layers: 48,
            num_attention_heads: 32,
            q_lora_rank: Some(384),
            kv_lora_rank: 128,
            qk_nope_head_dim: 64,
            qk_rope_head_dim: 32,
            v_head_dim: Some(64),
            max_position_embeddings: 131_072,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        query_rank: QueryRank::Required,
        indexer: Some(IndexerTraits {
            num_heads: 16,
            ..INDEXER
        }),
        layers: Rule::Indexed,
        traits: &[Trait::GateWithQuery, Trait::GatedInputNorm],
        known: &[
            "index_n_heads",
            "index_head_dim",
            "index_topk",
            "indexer_rope_interleave",
            "layer_types",
            "gated_norm_rank",
        ],
        ..BASE
    },
    Family {
        model_types: &["hy_v4"],
        architectures: &["HYV4ForCausalLM", "HYV4Model"],
        layer_name: "HYV4Attention",
        defaults: Defaults {
            hidden_size: 2816,
            num_hidden_layers: 34,
            num_attention_heads: 32,
            qk_nope_head_dim: 192,
            v_head_dim: Some(256),
            max_position_embeddings: 262_144,
            rms_norm_eps: 1e-5,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Half),
        query_rank: QueryRank::Required,
        indexer: Some(IndexerTraits {
            num_heads: 16,
            split: SplitOrder::NopeFirst,
            configured_eps: true,
            ..INDEXER
        }),
        layers: Rule::HyV4,
        traits: &[Trait::GatePerElement, Trait::Sinks],
        known: &[
            "index_n_heads",
            "index_head_dim",
            "index_topk",
            "indexer_rope_interleave",
            "layer_types",
            "indexer_types",
        ],
        reviewed: &["hc_eps", "hc_magnitude", "hc_mult", "learnable_sink_init"],
        released_names: Some("the gate `linear_gate`, the sinks `learnable_sink_param`"),
        ..BASE
    },
    Family {
        model_types: &["dots3_note", "dots3_note_text"],
        architectures: &["Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration"],
        layer_name: "Dots3NoteAttention",
        defaults: Defaults {
            hidden_size: 5120,
            num_hidden_layers: 46,
            q_lora_rank: Some(1024),
            max_position_embeddings: 524_288,
            rms_norm_eps: 1e-5,
            rope_theta: 80_000_000.0,
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        latent_eps: LatentEps::Configured,
        query_rank: QueryRank::Required,
        indexer: Some(IndexerTraits {
            layout: RopeLayout::Interleaved,
            full_precision_weights: false,
            ..INDEXER
        }),
        layers: Rule::Dots3,
        traits: &[
            Trait::LatentScales(QueryScaleSite::Latent),
            Trait::RopeKeyNorm,
            Trait::GatePerHead {
                full_precision: false,
            },
            Trait::PerLayerType,
            Trait::NoSoftmaxCorrection,
            Trait::HeadDimOfOthers,
        ],
        known: &[
            "index_n_heads",
            "index_head_dim",
            "index_topk",
            "indexer_rope_interleave",
            "layer_types",
            "per_layer_config",
            "sliding_window",
            "sliding_window_size",
            "use_dsa",
            "use_sliding_window",
            "swa_num_attention_heads",
            "swa_num_key_value_heads",
            "swa_q_lora_rank",
            "swa_kv_lora_rank",
            "swa_head_dim",
            "swa_qk_nope_head_dim",
            "swa_qk_rope_head_dim",
            "swa_v_head_dim",
            "swa_rope_theta",
        ],
        reviewed: &[
            "audio_config",
            "audio_token_id",
            "image_token_id",
            "moe_shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "video_token_id",
            "vision_config",
        ],
        nested_prefix: "model.language_model",
        ..BASE
    },
    Family {
        model_types: &["mistral_large4", "mistral_large4_text"],
        architectures: &[
            "MistralLarge4ForCausalLM",
            "MistralLarge4ForConditionalGeneration",
        ],
        layer_name: "MistralLarge4Attention",
        defaults: Defaults {
            hidden_size: 6144,
            num_hidden_layers: 72,
            num_attention_heads: 64,
            q_lora_rank: None,
            qk_nope_head_dim: 64,
            max_position_embeddings: 1_048_576,
            rms_norm_eps: 1e-5,
            rope: Some(mistral_large4_rope),
            ..DEEPSEEK_V3
        },
        rotation: Rotation::Always(RopeLayout::Interleaved),
        latent_eps: LatentEps::Configured,
        query_rank: QueryRank::Never,
        indexer: Some(IndexerTraits {
            num_heads: 32,
            layout: RopeLayout::Interleaved,
            from_hidden: true,
            ..INDEXER
        }),
        layers: Rule::MistralLarge4,
        traits: &[
            Trait::LogPositionScaling,
            Trait::LearnedFrequencies,
            Trait::NopeWidens,
        ],
        known: &[
            "index_n_heads",
            "index_head_dim",
            "index_topk",
            "indexer_rope_interleave",
            "layer_types",
            "indexer_types",
            "index_topk_freq",
            "index_skip_topk_offset",
            "index_topk_pattern",
            "no_rope_layers",
            "no_rope_layer_interval",
            "kv_source_layers",
        ],
        reviewed: &["final_logit_softcapping", "index_share_for_mtp_iteration"],
        nested_prefix: "model.language_model",
        released_names: Some(
            "`layers.N.attention.*`: `wq`, `wkv_a_with_mqa`, `kv_a_norm`, `wkv_b`, `wo`, `ssmax_scaling.s` and `.b`",
        ),
    },
];

/// What `mistral_large4` takes where a config has no rope parameters.
fn mistral_large4_rope() -> &'static [Entry] {
    static ROPE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let mut rope = yarn(2048.0, 512);
        rope.push(real("attention_factor", Spanned::unplaced(1.0)));
        rope
    });
    &ROPE
}
