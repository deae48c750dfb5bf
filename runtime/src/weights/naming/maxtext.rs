//! MaxText's MLA, layers not scanned: leaves of the parameter tree joined by dots, kernels `[in, heads, dim]`.

use super::Table;

pub(super) static TABLE: Table = Table {
    names: &[
        ("q_proj", &["query"]),
        ("q_a_proj", &["wq_a"]),
        ("q_a_layernorm", &["q_norm"]),
        ("q_b_proj", &["wq_b"]),
        ("kv_a_proj_with_mqa", &["wkv_a"]),
        ("kv_a_layernorm", &["kv_norm"]),
        ("kv_b_proj", &["wkv_b"]),
        ("o_proj", &["out"]),
    ],
    stacked: &[],
    grouped: &[],
    flax: true,
    block_scales: "weight_scale_inv",
    ignored: &[],
};
