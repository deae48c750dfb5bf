//! Mistral's own files (Mistral Large 3 and later), `layers.{i}.attention.`.

use super::Table;

pub(super) static TABLE: Table = Table {
    names: &[
        ("q_proj", &["wq"]),
        ("k_proj", &["wk"]),
        ("v_proj", &["wv"]),
        ("q_a_proj", &["wq_a"]),
        ("q_a_layernorm", &["q_a_norm"]),
        ("q_b_proj", &["wq_b"]),
        ("kv_a_proj_with_mqa", &["wkv_a_with_mqa"]),
        ("kv_a_layernorm", &["kv_a_norm"]),
        ("kv_b_proj", &["wkv_b"]),
        ("o_proj", &["wo"]),
    ],
    stacked: &[],
    grouped: &[],
    flax: false,
    block_scales: "weight_scale_inv",
    ignored: &[],
};
