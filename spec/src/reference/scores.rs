//! Masks, logits, query scaling, gates and QK-clip, which attention modules share.

use super::{Given, Key, Section, Value, Word, formula, key, word};

const MASK_SOURCE: &str = "Megatron-Core's `AttnMaskType`.";

/// `attn_mask_type` of attention within one sequence.
pub(super) const SELF_MASK: &[Key] = &[key(
    "attn_mask_type",
    Value::Words(&[
        word("causal", "Itself and what came before."),
        word("no_mask", "Everything in its sequence. Not with caches."),
        word("padding", "Everything in its sequence; inputs may be padded. Not with caches."),
        word("padding_causal", "Itself and what came before; inputs may be padded."),
        word(
            "arbitrary",
            "What an input of `forward` says, key by key. Not with caches.",
        ),
    ]),
    Given::Required,
    "Which keys a query sees: what came before (`causal`), everything (`no_mask`), the same with padded inputs allowed \
     (`padding_causal`, `padding`), or what an input says (`arbitrary`).",
)
.detail("Packed sequences are an input of every mask: which rows make a sequence is said at run time.")
.source(MASK_SOURCE)];

/// `attn_mask_type` of attention to another sequence.
pub(super) const CROSS_MASK: &[Key] = &[key(
    "attn_mask_type",
    Value::Words(&[
        word("no_mask", "Everything in the other sequence."),
        word("padding", "The same; inputs may be padded."),
        word("arbitrary", "What an input says, key by key."),
        word(
            "causal_bottom_right",
            "Causal, the last query aligned with the last key: query t of T sees the keys up to t + S - T of S.",
        ),
    ]),
    Given::Required,
    "Which keys of the other sequence a query sees.",
)
.source(MASK_SOURCE)];

/// What narrows or widens a mask.
pub(super) const BOUNDS: &[Key] = &[
    key(
        "window_size",
        Value::Window,
        Given::Optional,
        "Tokens seen before the query and behind it, itself not counted; -1 for no bound. A sliding window of w tokens is `[w - 1, 0]`.",
    )
    .detail(
        "In a causal mask the second number is 0. Not beside `attention_chunk_size`. Other systems count the query itself, so their \
         numbers are mostly one more.",
    )
    .formula("u is seen where t - left ≤ u ≤ t + right")
    .example("params:\n  window_size: [511, 0]\n")
    .source("Megatron-Core's `window_size`."),
    key(
        "attention_chunk_size",
        Value::Size(1),
        Given::Optional,
        "A query sees keys of its own chunk of so many tokens.",
    )
    .detail("Chunks are counted from the start of the sequence, padding left out.")
    .formula("u is seen where ⌊u / n⌋ = ⌊t / n⌋")
    .source("Llama 4 (`attention_chunk_size`) in transformers."),
    key(
        "bidirectional_blocks",
        Value::Switch,
        Given::Default("false"),
        "Whether tokens of one block see each other whatever the mask; blocks are given at run time.",
    )
    .detail("For images among text: the tokens of an image see each other.")
    .source("MaxText's `bidirectional_block_mask`."),
];

/// What happens to logits and probabilities.
pub(super) const LOGITS: &[Key] = &[
    key(
        "softmax_scale",
        Value::Number,
        Given::Optional,
        "What logits are multiplied by. Default: the head dim to the power of -1/2, corrected by YaRN.",
    )
    .detail(
        "A number that is written replaces all of it, and with YaRN then goes with `mscale_all_dim: 0` alone. d is the length of a head's \
         query: d_n + d_r, or `kv_channels`.",
    )
    .formula("τ = d^-1/2 · g(f, mscale_all_dim)²; g is 1 unless rope is YaRN")
    .source("Megatron-Core's `softmax_scale`."),
    key(
        "softmax_type",
        Value::Words(&[
            formula("vanilla", "Nothing.", "p_u = exp(s_u) / Σ exp(s)"),
            formula(
                "off-by-one",
                "1, the exponential of a logit of 0.",
                "p_u = exp(s_u) / (1 + Σ exp(s))",
            ),
            formula(
                "learnable",
                "The exponential of one logit for each head, a weight (`sinks`).",
                "p_u = exp(s_u) / (exp(sink_h) + Σ exp(s))",
            ),
        ]),
        Given::Default("vanilla"),
        "What softmax's denominator holds besides the keys: nothing, 1, or a learned sink per head.",
    )
    .detail("Computed behind attention, with l the log-sum-exp of the logits: o ← σ(l - sink_h) · o.")
    .example("params:\n  softmax_type: learnable\n")
    .source("Megatron-Core's `softmax_type`; gpt-oss and HY-V4 (`sinks`) in transformers."),
    key(
        "attn_logits_soft_cap",
        Value::Number,
        Given::Optional,
        "cap: logits become cap tanh(logits / cap).",
    )
    .detail("On scaled logits, before the mask. Above 0.")
    .formula("s ← cap · tanh(s / cap)")
    .source("Gemma 2, arXiv:2408.00118; MaxText's `attn_logits_soft_cap`."),
    key(
        "core_attention_bias",
        Value::Words(&[
            word("no_bias", "None."),
            formula(
                "post_scale_bias",
                "An argument of `forward`, a number for each head, query and key. Not with caches.",
                "p = softmax(τ q·k + b)",
            ),
        ]),
        Given::Default("no_bias"),
        "Whether an input is added to scaled logits.",
    )
    .source("Transformer Engine's `core_attention_bias_type`."),
    key(
        "attention_dropout",
        Value::Number,
        Given::Default("0.0"),
        "Probability of dropping an attention probability in training.",
    )
    .detail("From 0 to below 1. `forward` and `forward_train` take a seed, and the same seed drops the same.")
    .formula("p ← p · keep / (1 - rate)")
    .source("Megatron-Core's `attention_dropout`."),
];

static CLIP: Section = Section {
    about: "How weights are clipped in training.",
    groups: &[&[
        key(
            "threshold",
            Value::Number,
            Given::Required,
            "The largest logit a head may have, above 0. Published: 100.",
        )
        .detail("τ_c."),
        key(
            "alpha",
            Value::Number,
            Given::Required,
            "How much of the factor queries take, between 0 and 1; keys take the rest. Published: 0.5.",
        )
        .detail("α."),
    ]],
};

/// How weights are clipped in training.
pub(super) const QK_CLIP: &[Key] = &[key(
    "qk_clip",
    Value::Table(&CLIP),
    Given::When("with the phase `train`"),
    "QK-clip (MuonClip): after a training step, scales what makes queries and keys of heads whose logits grew too large.",
)
.detail(
    "The largest logit of each head comes out of the training step at no extra pass. Rows that meet a key which all heads share, those \
     of q_r, take the whole factor, since that key is no head's own. Not beside a soft cap, a bias of logits or a norm of heads: logits would not follow the weights.",
)
.formula("η_h = min(1, τ_c / max_h);  W_UQ,h's rows of q_n times η_h^α, those of q_r times η_h;  W_UK,h's rows times η_h^(1 - α)")
.example("params:\n  qk_clip: { threshold: 100.0, alpha: 0.5 }\nbuild:\n  phases: [train]\n")
.source("Kimi K2, arXiv:2507.20534; Megatron-Core's `qk_clip`.")];

const BETA: Given = Given::When("with `type: llama4`, and required there");

static SCALING: Section = Section {
    about: "What queries are multiplied by, by position.",
    groups: &[&[
        key(
            "type",
            Value::Words(&[
                formula(
                    "log_position",
                    "By the logarithm of the position; a and b are weights, one of each for each head (`softmax_scaling`).",
                    "q_h ← q_h · (a_h ln(pos + 1) + b_h)",
                ),
                formula(
                    "llama4",
                    "In steps of a context length.",
                    "q ← q · (1 + β ln(1 + ⌊(pos + offset) / L_0⌋))",
                ),
            ]),
            Given::Required,
            "How: by steps of a context length, or by the logarithm of the position, learned.",
        ),
        key(
            "beta",
            Value::Number,
            BETA,
            "llama4: weight of the logarithm.",
        )
        .detail("β, above 0."),
        key(
            "original_max_position_embeddings",
            Value::Size(1),
            BETA,
            "llama4: length of a step, in tokens.",
        )
        .detail("L_0."),
        key(
            "position_offset",
            Value::Tokens,
            BETA,
            "llama4: added to positions.",
        )
        .detail("0 in Mistral 4, 1 in Llama 4."),
    ]],
};

/// What queries are multiplied by, by position.
pub(super) const QUERY_SCALING: Key = key(
    "query_scaling",
    Value::Table(&SCALING),
    Given::Optional,
    "What queries are multiplied by, by position.",
)
.detail("The whole query, behind rope.")
.example("params:\n  query_scaling: { type: llama4, beta: 0.1, original_max_position_embeddings: 8192, position_offset: 0 }\n")
.source("Mistral 4 (`llama_4_scaling_beta`) and Mistral-Large-4 (`softmax_scaling`) in transformers.");

static INDEX_SCALING: Section = Section {
    about: "What its queries are multiplied by, by position.",
    groups: &[&[key(
        "type",
        Value::Words(&[formula(
            "log_position",
            "By the logarithm of the position, learned.",
            "Q_j ← Q_j · (a_j ln(pos + 1) + b_j)",
        )]),
        Given::Required,
        "By the logarithm of the position, learned.",
    )]],
};

/// What an indexer's queries are multiplied by, by position.
pub(super) const INDEX_QUERY_SCALING: Key = key(
    "query_scaling",
    Value::Table(&INDEX_SCALING),
    Given::Optional,
    "What its queries are multiplied by, by position.",
)
.source("Mistral-Large-4 in transformers.");

/// The gates of latent attention.
pub(super) const LATENT_GATES: &[Word] = &[
    formula(
        "per_head",
        "A factor for each head, made by `linear_gate_proj`.",
        "y = W_O · [σ(g_1) o_1; …; σ(g_H) o_H]",
    ),
    formula(
        "per_element",
        "A factor for each element, made by `linear_gate_proj`.",
        "y = W_O · (σ(g) ⊙ [o_1; …; o_H])",
    ),
    formula(
        "fused_with_query",
        "A factor for each element, made by `linear_q_gate_proj` beside the query.",
        "[q; g]_h = W_UQG,h · [ĉ_q; c_q];  y = W_O · (σ(g) ⊙ [o_1; …; o_H])",
    ),
];

/// The gates of grouped attention.
pub(super) const GROUPED_GATES: &[Word] = &[
    formula(
        "per_head",
        "A factor for each head, made by `linear_gate_proj`.",
        "y = W_O · [σ(g_1) o_1; …; σ(g_H) o_H]",
    ),
    formula(
        "per_element",
        "A factor for each element, made by `linear_qkv` where that is filled, else by `linear_gate_proj`.",
        "y = W_O · (σ(g) ⊙ [o_1; …; o_H])",
    ),
];

/// `attention_output_gate`.
pub(super) const fn gate(words: &'static [Word], means: &'static str) -> Key {
    key(
        "attention_output_gate",
        Value::Words(words),
        Given::Optional,
        means,
    )
    .source("Megatron-Core's `attention_output_gate`; Kimi-K3, Ling-3, HY-V4, dots3 and A.X-K2 (`g_proj`) in transformers.")
}
