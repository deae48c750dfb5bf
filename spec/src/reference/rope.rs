//! `rope`.

use super::{Given, Key, Section, Value, formula, key, word};

const YARN: Given = Given::When("with `type: yarn`, and required there");
const LLAMA3: Given = Given::When("with `type: llama3`, and required there");
const LONGROPE: Given = Given::When("with `type: longrope`, and required there");

const KEYS: &[Key] = &[
    key(
        "type",
        Value::Words(&[
            word(
                "none",
                "Nothing is rotated. Where d_r is not 0, that part still counts in the dot product.",
            ),
            formula("plain", "Frequencies as they are.", "ω_i = θ^(-2i / d_r), i < d_r / 2"),
            formula("linear", "All of them divided.", "ω_i / f"),
            formula(
                "llama3",
                "Long wavelengths are divided, short ones kept, a blend between.",
                "λ_i = 2π / ω_i;  b = (L_0 / λ_i - low) / (high - low), between 0 and 1;  b ω_i + (1 - b) ω_i / f",
            ),
            formula(
                "longrope",
                "Each divided by a factor of its own, from one of two lists.",
                "ω_i / short_i, or ω_i / long_i",
            ),
            formula(
                "dynamic",
                "The base grows with the longest position of a call, L.",
                "θ' = θ · (f L / L_0 - f + 1)^(d_r / (d_r - 2)) where L > L_0",
            ),
            formula(
                "yarn",
                "High frequencies are kept, low ones divided, a ramp between.",
                "pair(r) = d_r ln(L_0 / 2πr) / (2 ln θ);  low = max(⌊pair(beta_fast)⌋, 0);  high = min(⌈pair(beta_slow)⌉, d_r - 1);\n\
                 ρ_i = (i - low) / (high - low), between 0 and 1;  ω_i (1 - ρ_i) + ρ_i ω_i / f",
            ),
        ]),
        Given::Required,
        "How frequencies are made: not at all, as they are, divided by `factor`, or as the model stretches them.",
    )
    .detail(
        "Position p turns pair i by the angle p ω_i. Each type has its own keys, and one of another type is an error: elsewhere an `mscale` \
         beside plain rope changes the softmax scale, by accident. Frequencies are computed by the compiler in f64 and stand in \
         the generated code.",
    )
    .source(
        "RoPE: arXiv:2104.09864. YaRN: arXiv:2309.00071, as DeepSeek-V2 has it. LongRoPE: arXiv:2402.13753. `llama3` and `dynamic`: \
         transformers' `modeling_rope_utils`.",
    ),
    key(
        "theta",
        Value::Number,
        Given::When("with every type but `none`, and required there"),
        "Base of the frequencies (`rope_theta`).",
    )
    .detail("θ, greater than 1.")
    .source("transformers `rope_theta`, Megatron-Core's `rotary_base`, MaxText's `rope_max_timescale`."),
    key(
        "layout",
        Value::Words(&[
            formula(
                "interleaved",
                "Pairs of neighbours. DeepSeek's own checkpoints, GLM-5, Kimi.",
                "(x_2i, x_2i+1)",
            ),
            formula(
                "half",
                "Pairs half a part away from each other. Llama, Qwen, MiniCPM3, HY-V4.",
                "(x_i, x_i+d_r/2)",
            ),
        ]),
        Given::When("with every type but `none`, and required there"),
        "Which elements make a pair in the checkpoint's weights: (2i, 2i + 1), or (i, i + d_r / 2). The wrong one gives wrong numbers, \
         not an error.",
    )
    .formula("(a, b) → (a cos φ - b sin φ, a sin φ + b cos φ), φ = p ω_i")
    .source("transformers `rope_interleave`, Megatron-Core's `rotary_interleaved`."),
    key(
        "factor",
        Value::Number,
        Given::When("with `linear`, `llama3`, `dynamic` and `yarn`, and required there"),
        "How many times longer the context is than in the original training.",
    )
    .detail("f, at least 1."),
    key(
        "original_max_position_embeddings",
        Value::Size(1),
        Given::When("with `llama3`, `longrope` and `yarn`, and required there"),
        "Context length of the original training.",
    )
    .detail("L_0, in tokens."),
    key(
        "beta_fast",
        Value::Number,
        YARN,
        "YaRN: rotations above which a frequency is kept.",
    )
    .detail("Rotations over L_0 tokens. At least `beta_slow`."),
    key(
        "beta_slow",
        Value::Number,
        YARN,
        "YaRN: rotations below which a frequency is divided by `factor`.",
    )
    .detail("Rotations over L_0 tokens."),
    key(
        "mscale",
        Value::Number,
        Given::When("with `type: yarn` and no `attention_factor`, and required there"),
        "YaRN: numerator of what cos and sin are multiplied by. Either this or `attention_factor`.",
    )
    .formula("g(f, mscale) / g(f, mscale_all_dim), where g(f, m) = 0.1 m ln f + 1 for f > 1, else 1")
    .source("DeepSeek-V2's `modeling_deepseek.py`."),
    key(
        "attention_factor",
        Value::Number,
        Given::When("with `longrope`, where it is required, and with `yarn` in place of `mscale`"),
        "YaRN and LongRoPE: what cos and sin are multiplied by, as it stands. In YaRN either this or `mscale`.",
    )
    .source("transformers `rope_parameters`."),
    key(
        "mscale_all_dim",
        Value::Number,
        YARN,
        "YaRN: exponent of the softmax scale's correction; 0 leaves the scale alone.",
    )
    .detail("Systems without this field use `mscale` or nothing in its place; here it is written.")
    .formula("τ = d^-1/2 · g(f, mscale_all_dim)², where g(f, m) = 0.1 m ln f + 1 for f > 1, else 1")
    .example(
        "params:\n  rope: { type: yarn, theta: 10000.0, layout: interleaved, factor: 40.0, original_max_position_embeddings: 4096,\n          beta_fast: 32.0, beta_slow: 1.0, mscale: 1.0, mscale_all_dim: 1.0 }\n",
    )
    .source("DeepSeek-V2's `modeling_deepseek.py`; Megatron-Core's `mscale_all_dim`."),
    key(
        "truncate",
        Value::Switch,
        Given::Default("true"),
        "YaRN: whether the ramp's bounds are rounded to whole pairs.",
    )
    .detail("With `false` they are real numbers.")
    .source("MaxText's `rope_truncate`, transformers `truncate`."),
    key(
        "low_freq_factor",
        Value::Number,
        LLAMA3,
        "Llama 3: wavelengths above the original context over this are divided.",
    ),
    key(
        "high_freq_factor",
        Value::Number,
        LLAMA3,
        "Llama 3: wavelengths below the original context over this are kept.",
    )
    .detail("Greater than `low_freq_factor`."),
    key(
        "short_factor",
        Value::Numbers,
        LONGROPE,
        "LongRoPE: a divisor for each pair, for short contexts.",
    )
    .detail("As many as pairs are rotated."),
    key(
        "long_factor",
        Value::Numbers,
        LONGROPE,
        "LongRoPE: a divisor for each pair, for long contexts.",
    )
    .detail("As many as pairs are rotated."),
    key(
        "select",
        Value::Words(&[
            word(
                "by_length",
                "The long list for calls whose longest position reaches L_0, else the short one. Such a call differs from the same tokens in \
                 steps, which is a warning.",
            ),
            word("short", "Always the short list."),
            word("long", "Always the long list."),
        ]),
        LONGROPE,
        "LongRoPE: which list is used; `by_length` takes the long one for calls past the original context.",
    ),
    key(
        "max_position_embeddings",
        Value::Size(1),
        Given::When("with `type: dynamic`, and required there"),
        "Dynamic: the length up to which the base stays as it is.",
    )
    .detail("L_0 of its formula."),
];

/// Rotary embedding.
pub(super) static ROPE: Section = Section {
    about: "Rotary embedding.",
    groups: &[KEYS],
};
