//! Keys that people write in `rope`.

use super::{Foreign, idle, later, moved, renamed};

#[rustfmt::skip] // a table: one option a line
pub(super) const ROPE: &[Foreign] = &[
    renamed("rope_type", "type", "write `type`"),
    renamed("rope_theta", "theta", "write `theta`"),
    renamed("base", "theta", "write `theta`"),
    renamed("rotary_base", "theta", "write `theta`"),
    renamed("rope_max_timescale", "theta", "write `theta`"),
    renamed("rope_interleave", "layout", "write `layout: interleaved` or `layout: half`"),
    renamed("rotary_interleaved", "layout", "write `layout: interleaved` or `layout: half`"),
    renamed("interleaved", "layout", "write `layout: interleaved` or `layout: half`"),
    renamed("is_neox_style", "layout", "write `layout: half` for true, `layout: interleaved` for false"),
    renamed("rope_factor", "factor", "write `factor`"),
    renamed("scaling_factor", "factor", "write `factor`"),
    renamed("rotary_scaling_factor", "factor", "write `factor`"),
    renamed("original_seq_len", "original_max_position_embeddings", "write `original_max_position_embeddings`"),
    renamed("attn_factor", "attention_factor", "write `attention_factor`"),
    renamed("rope_truncate", "truncate", "write `truncate`"),
    renamed("original_max_position", "original_max_position_embeddings", "write `original_max_position_embeddings`"),
    idle("partial_rotary_factor", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("rotary_percent", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("rotary_dim", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("dim", "remove it: `qk_rope_head_dim` alone says how much of a head is rotated"),
    idle("rope_attention_scaling", "write `mscale` and `mscale_all_dim`, which say what cos and sin are multiplied by"),
    idle("apply_scale", "write `attention_factor: 1.0` for false"),
    idle("rope_pairwise", "write `rope_layout` in `build.cache` for the order of cached keys"),
    later("mrope_section", "remove it, or wait: rope over several axes is not in this release"),
    moved("llama_4_scaling_beta", "write `query_scaling: { type: llama4, .. }` beside `rope`"),
    renamed("short_mscale", "attention_factor", "write `attention_factor`"),
    renamed("long_mscale", "attention_factor", "write `attention_factor`"),
    renamed("original_context_length", "original_max_position_embeddings", "write `original_max_position_embeddings`"),
];
