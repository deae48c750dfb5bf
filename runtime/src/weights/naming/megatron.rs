//! Megatron-Core, `decoder.layers.{i}.self_attention.`: `MLASelfAttention`, `SelfAttention` and `CrossAttention`.
//!
//! A norm that is fused into the projection behind it is that projection's `layer_norm_weight`.

use super::{Joined, Table};

pub(super) static TABLE: Table = Table {
    names: &[
        ("q_proj", &["linear_q_proj", "linear_q"]),
        ("k_proj", &[]),
        ("v_proj", &[]),
        ("q_a_proj", &["linear_q_down_proj"]),
        ("q_a_layernorm", &["q_layernorm"]),
        (
            "q_a_layernorm.weight",
            &["q_layernorm.weight", "linear_q_up_proj.layer_norm_weight"],
        ),
        (
            "q_a_layernorm.bias",
            &["q_layernorm.bias", "linear_q_up_proj.layer_norm_bias"],
        ),
        ("q_b_proj", &["linear_q_up_proj"]),
        ("q_gate_proj", &["linear_q_gate_proj"]),
        ("kv_a_proj_with_mqa", &["linear_kv_down_proj"]),
        ("kv_a_layernorm", &["kv_layernorm"]),
        (
            "kv_a_layernorm.weight",
            &["kv_layernorm.weight", "linear_kv_up_proj.layer_norm_weight"],
        ),
        (
            "kv_a_layernorm.bias",
            &["kv_layernorm.bias", "linear_kv_up_proj.layer_norm_bias"],
        ),
        ("kv_b_proj", &["linear_kv_up_proj"]),
        ("o_proj", &["linear_proj"]),
        ("g_proj", &["linear_gate_proj"]),
        ("sinks", &["core_attention.softmax_offset"]),
        ("q_norm", &["q_layernorm"]),
        ("k_norm", &["k_layernorm"]),
        (
            "input_layernorm.weight",
            &[
                "input_layernorm.weight",
                "linear_qkv.layer_norm_weight",
                "linear_qkv_down_proj.layer_norm_weight",
            ],
        ),
        (
            "input_layernorm.bias",
            &[
                "input_layernorm.bias",
                "linear_qkv.layer_norm_bias",
                "linear_qkv_down_proj.layer_norm_bias",
            ],
        ),
        ("indexer.wq_b", &["core_attention.indexer.linear_wq_b"]),
        ("indexer.wk", &["core_attention.indexer.linear_wk"]),
        ("indexer.k_norm", &["core_attention.indexer.k_norm"]),
        (
            "indexer.weights_proj",
            &["core_attention.indexer.linear_weights_proj"],
        ),
    ],
    stacked: &[Joined {
        name: "linear_qkv_down_proj",
        parts: &["q_a_proj", "kv_a_proj_with_mqa"],
    }],
    grouped: &[
        Joined {
            name: "linear_qkv",
            parts: &["q_proj", "k_proj", "v_proj"],
        },
        Joined {
            name: "linear_kv",
            parts: &["k_proj", "v_proj"],
        },
    ],
    flax: false,
    block_scales: "weight_scale_inv",
    ignored: &["._extra_state"],
};
