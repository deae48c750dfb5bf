//! The schema of `SelfAttention` and `CrossAttention`.

use serde_json::{Value, json};

use super::{
    bias, build, closed, described, full_precision, mla, name, rope, scores, size, slot, slot_with,
    words,
};
use crate::read::TOP_LEVEL_KEYS;

/// A spec of one of these modules.
pub(super) fn layers() -> [Value; 2] {
    [
        layer(
            "SelfAttention",
            "Grouped-query attention over one sequence.",
            self_params(),
            self_slots(),
        ),
        layer(
            "CrossAttention",
            "Attention from one sequence to another.",
            cross_params(),
            cross_slots(),
        ),
    ]
}

fn layer(module: &str, description: &str, params: Value, submodules: Value) -> Value {
    let module = words(&[module], description);
    let sections = [mla(), name(), module, params, submodules, build()];
    closed(
        TOP_LEVEL_KEYS.into_iter().zip(sections),
        &["mla", "name", "module", "params", "submodules"],
    )
}

fn kv_channels() -> Value {
    size("Length of a head's query, key and value, d (`head_dim`). There is no default.")
}

fn projection(description: &str) -> Value {
    slot_with("ColumnParallelLinear", vec![bias()], description)
}

fn gate(description: &str) -> Value {
    let params = vec![bias(), full_precision()];
    slot_with("ColumnParallelLinear", params, description)
}

fn self_params() -> Value {
    described(
        "Sizes and options of the layer.",
        closed(
            [
                ("hidden_size", size("Width of the residual stream, h.")),
                ("num_attention_heads", size("Number of query heads, H.")),
                (
                    "num_query_groups",
                    size("Number of key and value heads, G (`num_key_value_heads`); divides H."),
                ),
                ("kv_channels", kv_channels()),
                (
                    "rotary_dim",
                    json!({ "type": "integer", "minimum": 2, "multipleOf": 2,
                            "description": "How many elements of a head, the first ones, are rotated. Default: all." }),
                ),
                ("rope", rope()),
                (
                    "qk_l2_norm",
                    json!({ "type": "boolean", "description": "Whether heads are normed behind rope, without weights. Default: false." }),
                ),
                (
                    "qk_l2_norm_eps",
                    json!({ "type": "number", "exclusiveMinimum": 0, "description": "Epsilon of that norm." }),
                ),
                scores::query_scaling(&["log_position", "llama4"]),
                (
                    "attention_output_gate",
                    words(
                        &["per_head", "per_element"],
                        "A sigmoid gate on attention's output; per element it is in `linear_qkv`, where there is one.",
                    ),
                ),
            ]
            .into_iter()
            .chain(scores::self_masks())
            .chain(scores::logits())
            .chain([scores::qk_clip()]),
            &[
                "hidden_size",
                "num_attention_heads",
                "num_query_groups",
                "kv_channels",
                "rope",
                "attn_mask_type",
            ],
        ),
    )
}

fn self_slots() -> Value {
    let norms = ["IdentityOp", "RMSNorm", "LayerNorm"];
    described(
        "What fills each slot.",
        closed(
            [
                (
                    "linear_qkv",
                    projection(
                        "Queries, keys and values, group by group. Replaces `linear_q` and `linear_kv`.",
                    ),
                ),
                ("linear_q", projection("Queries, `q_proj`.")),
                (
                    "linear_kv",
                    projection("Keys and values, group by group, `k_proj` and `v_proj`."),
                ),
                (
                    "q_layernorm",
                    slot(&norms, "Norm of each head's query before rope, `q_norm`."),
                ),
                (
                    "k_layernorm",
                    slot(&norms, "Norm of each head's key before rope, `k_norm`."),
                ),
                (
                    "linear_gate_proj",
                    gate("The output gate, where `linear_qkv` doesn't make it."),
                ),
                (
                    "core_attention",
                    slot(&["DotProductAttention"], "Attention itself."),
                ),
                (
                    "linear_proj",
                    slot(&["RowParallelLinear"], "Output projection, `o_proj`."),
                ),
            ],
            &["core_attention", "linear_proj"],
        ),
    )
}

fn cross_params() -> Value {
    described(
        "Sizes and options of the layer.",
        closed(
            [
                ("hidden_size", size("Width of the residual stream, h.")),
                (
                    "context_hidden_size",
                    size("Width of the sequence attended to."),
                ),
                ("num_attention_heads", size("Number of heads, H.")),
                ("kv_channels", kv_channels()),
                (
                    "attn_mask_type",
                    words(
                        &["no_mask", "padding", "arbitrary", "causal_bottom_right"],
                        "Which keys of the other sequence a query sees.",
                    ),
                ),
            ]
            .into_iter()
            .chain(scores::bounds())
            .chain(scores::logits())
            .chain([scores::qk_clip()]),
            &[
                "hidden_size",
                "context_hidden_size",
                "num_attention_heads",
                "kv_channels",
                "attn_mask_type",
            ],
        ),
    )
}

fn cross_slots() -> Value {
    described(
        "What fills each slot.",
        closed(
            [
                ("linear_q", projection("Queries, `q_proj`.")),
                (
                    "linear_kv",
                    projection("Keys and values of the other sequence, head by head."),
                ),
                (
                    "core_attention",
                    slot(&["DotProductAttention"], "Attention itself."),
                ),
                (
                    "linear_proj",
                    slot(&["RowParallelLinear"], "Output projection, `o_proj`."),
                ),
            ],
            &["linear_q", "linear_kv", "core_attention", "linear_proj"],
        ),
    )
}
