//! DeepSeek's reference implementation, `layers.{i}.attn.`. Its converter calls block scales `scale`.

use super::Table;

pub(super) static TABLE: Table = Table {
    names: &[
        ("q_proj", &["wq"]),
        ("q_a_proj", &["wq_a"]),
        ("q_a_layernorm", &["q_norm"]),
        ("q_b_proj", &["wq_b"]),
        ("kv_a_proj_with_mqa", &["wkv_a"]),
        ("kv_a_layernorm", &["kv_norm"]),
        ("kv_b_proj", &["wkv_b"]),
        ("o_proj", &["wo"]),
        ("sinks", &["sinks", "attn_sink"]),
    ],
    stacked: &[],
    grouped: &[],
    flax: false,
    block_scales: "scale",
    ignored: &[],
};
