//! `SelfAttention` and `CrossAttention`.

use super::latent::{INPUT_NORM, LINEAR_PROJ};
use super::modules::{BIASED_UP, DENSE_CORE, GATE_UP, HEAD_NORMS};
use super::rope::ROPE;
use super::scores::{
    BOUNDS, CROSS_MASK, GROUPED_GATES, LOGITS, QK_CLIP, QUERY_SCALING, SELF_MASK, gate,
};
use super::{Given, Key, Section, Value, key};

const HIDDEN_SIZE: Key = key(
    "hidden_size",
    Value::Size(1),
    Given::Required,
    "Width of the residual stream, h.",
);

const KV_CHANNELS: Key = key(
    "kv_channels",
    Value::Size(1),
    Given::Required,
    "Length of a head's query, key and value, d (`head_dim`). There is no default.",
)
.detail("h / H is the head's length in many checkpoints and not in many others, so it is stated.")
.source("Megatron-Core's `kv_channels`, transformers `head_dim`.");

const SELF_SIZES: &[Key] = &[
    HIDDEN_SIZE,
    key(
        "num_attention_heads",
        Value::Size(1),
        Given::Required,
        "Number of query heads, H.",
    ),
    key(
        "num_query_groups",
        Value::Size(1),
        Given::Required,
        "Number of key and value heads, G (`num_key_value_heads`); divides H.",
    )
    .detail("H is multi-head attention, 1 is multi-query attention. H / G query heads that stand side by side share a key and a value.")
    .formula("g(h) = ⌊h G / H⌋")
    .source("GQA: arXiv:2305.13245. Megatron-Core's `num_query_groups`."),
    KV_CHANNELS,
    key(
        "rotary_dim",
        Value::Even(2),
        Given::Optional,
        "How many elements of a head, the first ones, are rotated. Default: all.",
    )
    .detail("Not with `rope: { type: none }`.")
    .source("Megatron-Core's `rotary_percent`, `partial_rotary_factor` of transformers: here it is a number of elements."),
    key("rope", Value::Table(&ROPE), Given::Required, "Rotary embedding.")
        .detail("It rotates the first `rotary_dim` elements of each head's query and key. `{ type: none }` rotates nothing."),
    key(
        "qk_l2_norm",
        Value::Switch,
        Given::Default("false"),
        "Whether heads are normed behind rope, without weights.",
    )
    .detail("Beside it `q_layernorm` and `k_layernorm` are empty.")
    .formula("q_h = q_h / (mean(q_h²) + ε)^1/2, and so k_h")
    .example("params:\n  qk_l2_norm: true\n  qk_l2_norm_eps: 1.0e-6\nmodule: SelfAttention\n")
    .source("Megatron-Core's `qk_l2_norm`; Llama 4."),
    key(
        "qk_l2_norm_eps",
        Value::Positive,
        Given::When("with `qk_l2_norm: true`, and required there"),
        "Epsilon of that norm.",
    ),
    QUERY_SCALING,
    gate(
        GROUPED_GATES,
        "A sigmoid gate on attention's output; per element it is in `linear_qkv`, where there is one.",
    ),
];

/// Parameters of grouped attention.
pub(super) static SELF_PARAMS: Section = Section {
    about: "Sizes and options of the layer.",
    groups: &[SELF_SIZES, SELF_MASK, BOUNDS, LOGITS, QK_CLIP],
};

const CORE: Key = key(
    "core_attention",
    Value::Slot(&DENSE_CORE),
    Given::Required,
    "Attention itself.",
)
.formula("p = softmax(τ · q_h·k_g(h));  o_h = Σ p · v_g(h)");

const SELF_SUBMODULES: &[Key] = &[
    INPUT_NORM,
    key(
        "linear_qkv",
        Value::Slot(&BIASED_UP),
        Given::When("in place of `linear_q` and `linear_kv`"),
        "Queries, keys and values, group by group. Replaces `linear_q` and `linear_kv`.",
    )
    .detail(
        "Rows are group by group: its queries, their gates where `attention_output_gate: per_element` asks for them, its key, its value. \
         Checkpoints with `q_proj`, `k_proj` and `v_proj` load: their rows are put in this order.",
    )
    .formula("[q; k; v]_g = W_QKV,g · x")
    .source("Megatron-Core's `linear_qkv`."),
    key(
        "linear_q",
        Value::Slot(&BIASED_UP),
        Given::When("with `linear_kv`, in place of `linear_qkv`"),
        "Queries, `q_proj`.",
    )
    .formula("q = W_Q · x"),
    key(
        "linear_kv",
        Value::Slot(&BIASED_UP),
        Given::When("with `linear_q`, in place of `linear_qkv`"),
        "Keys and values, group by group, `k_proj` and `v_proj`.",
    )
    .formula("[k; v]_g = W_KV,g · x"),
    key(
        "q_layernorm",
        Value::Slot(&HEAD_NORMS),
        Given::Optional,
        "Norm of each head's query before rope, `q_norm`.",
    )
    .detail("One weight of length d for all heads.")
    .formula("q_h = norm(q_h)")
    .source("Megatron-Core's `qk_layernorm`; Qwen3 in transformers."),
    key(
        "k_layernorm",
        Value::Slot(&HEAD_NORMS),
        Given::Optional,
        "Norm of each head's key before rope, `k_norm`.",
    )
    .detail("One weight of length d for all heads.")
    .formula("k_g = norm(k_g)")
    .source("Megatron-Core's `qk_layernorm`; Qwen3 in transformers."),
    CORE,
    key(
        "linear_gate_proj",
        Value::Slot(&GATE_UP),
        Given::When("with `attention_output_gate`, where `linear_qkv` doesn't make the gate"),
        "The output gate, where `linear_qkv` doesn't make it.",
    )
    .formula("g = W_G · x"),
    LINEAR_PROJ,
];

/// Slots of grouped attention.
pub(crate) static SELF_SLOTS: Section = Section {
    about: "What fills each slot.",
    groups: &[SELF_SUBMODULES],
};

const CROSS_SIZES: &[Key] = &[
    HIDDEN_SIZE,
    key(
        "context_hidden_size",
        Value::Size(1),
        Given::Required,
        "Width of the sequence attended to.",
    ),
    key(
        "num_attention_heads",
        Value::Size(1),
        Given::Required,
        "Number of heads, H.",
    )
    .detail("Every head has keys and values of its own: there are no groups."),
    KV_CHANNELS,
];

/// Parameters of cross attention.
pub(super) static CROSS_PARAMS: Section = Section {
    about: "Sizes and options of the layer.",
    groups: &[CROSS_SIZES, CROSS_MASK, LOGITS, QK_CLIP],
};

const CROSS_SUBMODULES: &[Key] = &[
    key(
        "linear_q",
        Value::Slot(&BIASED_UP),
        Given::Required,
        "Queries, `q_proj`.",
    )
    .formula("q = W_Q · x"),
    key(
        "linear_kv",
        Value::Slot(&BIASED_UP),
        Given::Required,
        "Keys and values of the other sequence, head by head.",
    )
    .detail("They are made once per sequence attended to, not in every step.")
    .formula("[k; v]_h = W_KV,h · c"),
    key(
        "core_attention",
        Value::Slot(&DENSE_CORE),
        Given::Required,
        "Attention itself.",
    )
    .formula("p = softmax(τ · q_h·k_h);  o_h = Σ p · v_h"),
    LINEAR_PROJ,
];

/// Slots of cross attention.
pub(crate) static CROSS_SLOTS: Section = Section {
    about: "What fills each slot.",
    groups: &[CROSS_SUBMODULES],
};
