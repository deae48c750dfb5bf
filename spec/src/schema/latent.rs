//! The schema of `MLASelfAttention`.

use serde_json::{Value, json};

use super::{
    NORMS, bias, build, closed, described, full_precision, mla, name, rope, scores, size, slot,
    slot_with, sparse, switch, words,
};
use crate::read::TOP_LEVEL_KEYS;

/// A spec of latent attention.
pub(super) fn layer() -> Value {
    let sections = [mla(), name(), attention(), params(), submodules(), build()];
    closed(
        TOP_LEVEL_KEYS.into_iter().zip(sections),
        &["mla", "name", "module", "params", "submodules"],
    )
}

fn attention() -> Value {
    words(
        &["MLASelfAttention"],
        "The module described: Multi-head Latent Attention over one sequence.",
    )
}

fn params() -> Value {
    described(
        "Sizes and options of the layer. Names are those of a Hugging Face `config.json`.",
        closed(
            [
                ("hidden_size", size("Width of the residual stream, h.")),
                ("num_attention_heads", size("Number of heads, H.")),
                (
                    "q_lora_rank",
                    size(
                        "Width of the query latent, r_q. Leave it out for plain queries (`linear_q_proj`).",
                    ),
                ),
                (
                    "kv_lora_rank",
                    size(
                        "Width of the key-value latent, r_kv: what the latent cache keeps per token.",
                    ),
                ),
                (
                    "qk_nope_head_dim",
                    size("The part of a head's query and key that is never rotated, d_n."),
                ),
                (
                    "qk_rope_head_dim",
                    json!({ "type": "integer", "minimum": 0, "multipleOf": 2,
                            "description": "The part that rope rotates, d_r; its key is shared by all heads. 0 for none." }),
                ),
                ("v_head_dim", size("Length of a head's value, d_v.")),
                ("rope", rope()),
                scores::query_scaling(&["log_position", "llama4"]),
                ("q_lora_scale", latent_scale(true)),
                ("kv_lora_scale", latent_scale(false)),
                (
                    "attention_output_gate",
                    words(
                        &["per_head", "per_element", "fused_with_query"],
                        "A sigmoid gate on attention's output: a factor per head or per element, made by `linear_gate_proj`, or \
                         per element by `linear_q_gate_proj`.",
                    ),
                ),
                (
                    "kv_source",
                    words(
                        &["own", "shared"],
                        "Whose latents are attended to: the layer's own, or an earlier layer's. Default: own.",
                    ),
                ),
                (
                    "share_kv",
                    switch("Whether later layers attend to this layer's latents. Default: false."),
                ),
            ]
            .into_iter()
            .chain(scores::self_masks())
            .chain(scores::logits())
            .chain([scores::qk_clip()]),
            &[
                "hidden_size",
                "num_attention_heads",
                "kv_lora_rank",
                "qk_nope_head_dim",
                "qk_rope_head_dim",
                "v_head_dim",
                "attn_mask_type",
            ],
        ),
    )
}

/// A constant that a latent is multiplied by.
fn latent_scale(of_queries: bool) -> Value {
    let factor = json!({
        "description": "The constant, or `hidden_over_rank` for sqrt(h / r).",
        "anyOf": [{ "type": "number", "exclusiveMinimum": 0 }, { "type": "string", "enum": ["hidden_over_rank"] }],
    });
    if !of_queries {
        return described(
            "What the normed key-value latent is multiplied by; the cached one is the scaled one.",
            closed([("factor", factor)], &["factor"]),
        );
    }
    let at = words(
        &["latent", "query"],
        "On the normed latent, which an indexer sees, or on the queries.",
    );
    described(
        "What the query is multiplied by.",
        closed([("factor", factor), ("at", at)], &["factor", "at"]),
    )
}

fn submodules() -> Value {
    let down = ["Linear"];
    let up = ["ColumnParallelLinear", "LayerNormColumnParallelLinear"];
    described(
        "What fills each slot: a module's name, or a mapping with `module` and `params`. Slot names are Megatron-Core's.",
        closed(
            [
                (
                    "linear_q_proj",
                    slot(
                        &["ColumnParallelLinear"],
                        "Plain queries, `q_proj`. Excludes the three slots of LoRA queries.",
                    ),
                ),
                (
                    "linear_q_down_proj",
                    slot(&down, "Query latent, `q_a_proj`."),
                ),
                (
                    "q_layernorm",
                    slot(
                        &NORMS,
                        "Norm of the query latent, `q_a_layernorm`; `IdentityOp` where the up projection holds it.",
                    ),
                ),
                (
                    "linear_q_up_proj",
                    slot(&up, "Queries from their latent, `q_b_proj`."),
                ),
                (
                    "linear_kv_down_proj",
                    slot(
                        &down,
                        "Key-value latent and shared rope key, `kv_a_proj_with_mqa`.",
                    ),
                ),
                (
                    "linear_qkv_down_proj",
                    slot(
                        &down,
                        "Both down projections as one matrix, the query's rows first. Replaces the two.",
                    ),
                ),
                (
                    "kv_layernorm",
                    slot(
                        &NORMS,
                        "Norm of the key-value latent, `kv_a_layernorm`; `IdentityOp` where the up projection holds it.",
                    ),
                ),
                (
                    "linear_kv_up_proj",
                    slot(&up, "Keys and values from their latent, `kv_b_proj`."),
                ),
                (
                    "input_layernorm",
                    slot(
                        &NORMS,
                        "Norm of the layer's input; leave it out where the caller norms.",
                    ),
                ),
                (
                    "linear_q_gate_proj",
                    slot_with(
                        "ColumnParallelLinear",
                        Vec::new(),
                        "Queries and their gates from the normed and the raw query latent, `q_gate_proj`.",
                    ),
                ),
                (
                    "k_rope_layernorm",
                    slot(&NORMS, "Norm of the shared rope key before it is rotated."),
                ),
                (
                    "linear_gate_proj",
                    slot_with(
                        "ColumnParallelLinear",
                        vec![bias(), full_precision()],
                        "The output gate, `g_proj`.",
                    ),
                ),
                ("core_attention", sparse::core()),
                (
                    "linear_proj",
                    slot(&["RowParallelLinear"], "Output projection, `o_proj`."),
                ),
            ],
            &["linear_kv_up_proj", "core_attention", "linear_proj"],
        ),
    )
}
