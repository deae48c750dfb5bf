//! `MLASelfAttention`.

use super::modules::{DOWN, GATE_UP, NORMS, OUTPUT, PLAIN_UP, UP};
use super::rope::ROPE;
use super::scores::{BOUNDS, LATENT_GATES, LOGITS, QK_CLIP, QUERY_SCALING, SELF_MASK, gate};
use super::sparse::CORE;
use super::{Given, Key, Section, Value, key, word};

const FACTOR: Key = key(
    "factor",
    Value::PositiveOr(&[super::formula(
        "hidden_over_rank",
        "What LongCat and dots3 multiply by.",
        "s = (h / r)^1/2",
    )]),
    Given::Required,
    "The constant, or `hidden_over_rank` for sqrt(h / r).",
)
.detail("r is `q_lora_rank` or `kv_lora_rank`.");

static Q_SCALE: Section = Section {
    about: "What the query is multiplied by.",
    groups: &[&[
        FACTOR,
        key(
            "at",
            Value::Words(&[
                super::formula(
                    "latent",
                    "On the normed latent, which an indexer sees too (dots3).",
                    "q = W_UQ · s_q ĉ_q",
                ),
                super::formula(
                    "query",
                    "On the queries; an indexer sees the latent as it was (LongCat).",
                    "q = s_q · W_UQ · ĉ_q",
                ),
            ]),
            Given::Required,
            "On the normed latent, which an indexer sees, or on the queries.",
        ),
    ]],
};

static KV_SCALE: Section = Section {
    about: "What the normed key-value latent is multiplied by; the cached one is the scaled one.",
    groups: &[&[FACTOR]],
};

const SIZES: &[Key] = &[
    key("hidden_size", Value::Size(1), Given::Required, "Width of the residual stream, h.")
        .source("transformers `hidden_size`."),
    key("num_attention_heads", Value::Size(1), Given::Required, "Number of heads, H.")
        .source("transformers `num_attention_heads`."),
    key(
        "q_lora_rank",
        Value::Size(1),
        Given::Optional,
        "Width of the query latent, r_q. Leave it out for plain queries (`linear_q_proj`).",
    )
    .detail(
        "With it the slots `linear_q_down_proj` (or `linear_qkv_down_proj`), `q_layernorm` and `linear_q_up_proj` are filled, without it \
         `linear_q_proj` alone. Other systems write 0 or null for plain queries; here the key is absent.",
    )
    .formula("c_q = W_DQ · x;  ĉ_q = norm(c_q);  q = W_UQ · ĉ_q")
    .source("DeepSeek-V2, arXiv:2405.04434, section 2.1."),
    key(
        "kv_lora_rank",
        Value::Size(1),
        Given::Required,
        "Width of the key-value latent, r_kv: what the latent cache keeps per token.",
    )
    .formula("[c; k_r] = W_DKV · x;  ĉ = norm(c);  [k_n; v]_h = W_UKV,h · ĉ")
    .source("DeepSeek-V2, arXiv:2405.04434, section 2.1."),
    key(
        "qk_nope_head_dim",
        Value::Size(1),
        Given::Required,
        "The part of a head's query and key that is never rotated, d_n.",
    )
    .detail("It stands first in a head, the rotated part behind it. Any size will do, not only powers of two.")
    .formula("q_h = [q_n; q_r] ∈ R^(d_n + d_r)"),
    key(
        "qk_rope_head_dim",
        Value::Even(0),
        Given::Required,
        "The part that rope rotates, d_r; its key is shared by all heads. 0 for none.",
    )
    .detail(
        "Even, since rope turns pairs. With 0 there is no shared key and no `rope`. A part that is there and never rotated \
         (Kimi-Linear) is `rope: { type: none }`.",
    )
    .formula("s_h(t, u) = τ · (q_n·k_n + q_r·k_r)"),
    key("v_head_dim", Value::Size(1), Given::Required, "Length of a head's value, d_v.")
        .detail("It need not be the length of a head's query."),
    key(
        "rope",
        Value::Table(&ROPE),
        Given::When("with `qk_rope_head_dim` above 0, and required there"),
        "Rotary embedding.",
    )
    .detail("It rotates the last d_r elements of each head's query, and the shared key."),
    QUERY_SCALING,
    key(
        "q_lora_scale",
        Value::Table(&Q_SCALE),
        Given::When("with `q_lora_rank`"),
        "What the query is multiplied by.",
    )
    .example("params:\n  q_lora_scale: { factor: hidden_over_rank, at: query }\n")
    .source("LongCat-Flash (`mla_scale_q_lora`), dots3 in transformers."),
    key(
        "kv_lora_scale",
        Value::Table(&KV_SCALE),
        Given::Optional,
        "What the normed key-value latent is multiplied by; the cached one is the scaled one.",
    )
    .detail("The shared rope key is not scaled. The norm stands in its own slot, since the scale is between it and the up projection.")
    .formula("ĉ = s · norm(c)")
    .example("params:\n  kv_lora_scale: { factor: 3.4641016 }\n")
    .source("LongCat-Flash (`mla_scale_kv_lora`), dots3 in transformers."),
    gate(
        LATENT_GATES,
        "A sigmoid gate on attention's output: a factor per head or per element, made by `linear_gate_proj`, or per element by \
         `linear_q_gate_proj`.",
    ),
    key(
        "kv_source",
        Value::Words(&[
            word("own", "The layer makes its latents."),
            word(
                "shared",
                "An earlier layer's latents and rotated keys are attended to. There is no key-value down projection and no norm of the \
                 latent, and only queries are rotated. `forward` takes them as an argument, `prefill` and `decode` read the earlier layer's cache.",
            ),
        ]),
        Given::Default("own"),
        "Whose latents are attended to: the layer's own, or an earlier layer's.",
    )
    .source("Mistral-Large-4 (`kv_source_layers`) in transformers."),
    key(
        "share_kv",
        Value::Switch,
        Given::Default("false"),
        "Whether later layers attend to this layer's latents.",
    )
    .detail("With it `forward` hands the latents out beside its output."),
];

/// Parameters of latent attention.
pub(super) static PARAMS: Section = Section {
    about: "Sizes and options of the layer. Names are those of a Hugging Face `config.json`.",
    groups: &[SIZES, SELF_MASK, BOUNDS, LOGITS, QK_CLIP],
};

/// The norm of a layer's input.
pub(super) const INPUT_NORM: Key = key(
    "input_layernorm",
    Value::Slot(&NORMS),
    Given::Optional,
    "Norm of the layer's input; leave it out where the caller norms.",
)
.detail("The residual stream itself stays as it is: only what the projections read is normed.")
.formula("x = norm(x)")
.example("submodules:\n  input_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n");

/// The last projection.
pub(super) const LINEAR_PROJ: Key = key(
    "linear_proj",
    Value::Slot(&OUTPUT),
    Given::Required,
    "Output projection, `o_proj`.",
)
.formula("y = W_O · [o_1; …; o_H]");

const SLOTS: &[Key] = &[
    INPUT_NORM,
    key(
        "linear_q_proj",
        Value::Slot(&PLAIN_UP),
        Given::When("without `q_lora_rank`, and required there"),
        "Plain queries, `q_proj`. Excludes the three slots of LoRA queries.",
    )
    .formula("q = W_Q · x"),
    key(
        "linear_q_down_proj",
        Value::Slot(&DOWN),
        Given::When("with `q_lora_rank`"),
        "Query latent, `q_a_proj`.",
    )
    .formula("c_q = W_DQ · x"),
    key(
        "q_layernorm",
        Value::Slot(&NORMS),
        Given::When("with `q_lora_rank`, and required there"),
        "Norm of the query latent, `q_a_layernorm`; `IdentityOp` where the up projection holds it.",
    )
    .formula("ĉ_q = norm(c_q)"),
    key(
        "linear_q_up_proj",
        Value::Slot(&UP),
        Given::When("with `q_lora_rank`"),
        "Queries from their latent, `q_b_proj`.",
    )
    .formula("q = W_UQ · ĉ_q"),
    key(
        "linear_q_gate_proj",
        Value::Slot(&PLAIN_UP),
        Given::When("with `attention_output_gate: fused_with_query`, in place of `linear_q_up_proj`"),
        "Queries and their gates from the normed and the raw query latent, `q_gate_proj`.",
    )
    .formula("[q; g]_h = W_UQG,h · [ĉ_q; c_q]")
    .source("A.X-K2 in transformers."),
    key(
        "linear_kv_down_proj",
        Value::Slot(&DOWN),
        Given::When("with latents of the layer's own"),
        "Key-value latent and shared rope key, `kv_a_proj_with_mqa`.",
    )
    .formula("[c; k_r] = W_DKV · x"),
    key(
        "linear_qkv_down_proj",
        Value::Slot(&DOWN),
        Given::When("with `q_lora_rank` and latents of the layer's own"),
        "Both down projections as one matrix, the query's rows first. Replaces the two.",
    )
    .detail("Checkpoints that hold two matrices load too: their rows are put below each other.")
    .formula("[c_q; c; k_r] = W_DQKV · x")
    .example(
        "# no linear_q_down_proj\n# no linear_kv_down_proj\nsubmodules:\n  linear_qkv_down_proj: Linear\n",
    )
    .source("Megatron-Core's `mla_down_proj_fusion`."),
    key(
        "kv_layernorm",
        Value::Slot(&NORMS),
        Given::When("with latents of the layer's own, and required there"),
        "Norm of the key-value latent, `kv_a_layernorm`; `IdentityOp` where the up projection holds it.",
    )
    .detail("The shared rope key is not normed; see `k_rope_layernorm`.")
    .formula("ĉ = norm(c)"),
    key(
        "k_rope_layernorm",
        Value::Slot(&NORMS),
        Given::When("with `qk_rope_head_dim` above 0"),
        "Norm of the shared rope key before it is rotated.",
    )
    .formula("k_r = rope(norm(k_r))")
    .source("dots3 (`k_rope_only_layernorm`) in transformers."),
    key(
        "linear_kv_up_proj",
        Value::Slot(&UP),
        Given::Required,
        "Keys and values from their latent, `kv_b_proj`.",
    )
    .detail(
        "Rows are head by head, a head's key before its value. In the absorbed form its blocks are applied to queries and to what was \
         attended to instead; the weight is the same.",
    )
    .formula("[k_n; v]_h = W_UKV,h · ĉ\nabsorbed: q̃_h = W_UK,hᵀ · q_n;  o_h = W_UV,h · z_h"),
    key(
        "core_attention",
        Value::Slot(&CORE),
        Given::Required,
        "Attention itself: over every key, or over those that an indexer picks.",
    )
    .formula("p = softmax(τ · (q_n·k_n + q_r·k_r));  o_h = Σ p · v_h"),
    key(
        "linear_gate_proj",
        Value::Slot(&GATE_UP),
        Given::When("with `attention_output_gate: per_head` or `per_element`, and required there"),
        "The output gate, `g_proj`.",
    )
    .formula("g = W_G · x"),
    LINEAR_PROJ,
];

/// Slots of latent attention.
pub(crate) static LATENT_SLOTS: Section = Section {
    about: "What fills each slot: a module's name, or a mapping with `module` and `params`. Slot names are Megatron-Core's.",
    groups: &[SLOTS],
};
