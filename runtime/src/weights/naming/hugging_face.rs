//! Hugging Face transformers. Two model families differ from the rest by a name.

use super::Table;

pub(super) static TABLE: Table = Table {
    // HunYuan's hy_v4 calls its output gate `gate_proj`; BART and its kin call W_O `out_proj`
    names: &[
        ("g_proj", &["g_proj", "gate_proj"]),
        ("o_proj", &["o_proj", "out_proj"]),
    ],
    stacked: &[],
    grouped: &[],
    flax: false,
    block_scales: "weight_scale_inv",
    ignored: &[],
};
