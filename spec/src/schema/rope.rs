//! The schema of `rope`.

use serde_json::{Value, json};

use super::{closed, described, number, size, switch, words};

pub(super) fn rope() -> Value {
    described(
        "Rotary embedding. Required unless `qk_rope_head_dim` is 0.",
        closed(
            [
                (
                    "type",
                    words(
                        &[
                            "none", "plain", "linear", "llama3", "longrope", "dynamic", "yarn",
                        ],
                        "How frequencies are made: not at all, as they are, divided by `factor`, or as the model stretches them.",
                    ),
                ),
                ("theta", number("Base of the frequencies (`rope_theta`).")),
                (
                    "layout",
                    words(
                        &["interleaved", "half"],
                        "Which elements make a pair in the checkpoint's weights: (2i, 2i + 1), or (i, i + d_r / 2). \
                         The wrong one gives wrong numbers, not an error.",
                    ),
                ),
                (
                    "factor",
                    number("How many times longer the context is than in the original training."),
                ),
                (
                    "original_max_position_embeddings",
                    size("Context length of the original training."),
                ),
                (
                    "beta_fast",
                    number("YaRN: rotations above which a frequency is kept."),
                ),
                (
                    "beta_slow",
                    number("YaRN: rotations below which a frequency is divided by `factor`."),
                ),
                (
                    "mscale",
                    number(
                        "YaRN: numerator of what cos and sin are multiplied by. Either this or `attention_factor`.",
                    ),
                ),
                (
                    "attention_factor",
                    number(
                        "YaRN and LongRoPE: what cos and sin are multiplied by, as it stands. In YaRN either this or `mscale`.",
                    ),
                ),
                (
                    "mscale_all_dim",
                    number(
                        "YaRN: exponent of the softmax scale's correction; 0 leaves the scale alone.",
                    ),
                ),
                (
                    "truncate",
                    switch(
                        "YaRN: whether the ramp's bounds are rounded to whole pairs. Default: true.",
                    ),
                ),
                (
                    "low_freq_factor",
                    number(
                        "Llama 3: wavelengths above the original context over this are divided.",
                    ),
                ),
                (
                    "high_freq_factor",
                    number("Llama 3: wavelengths below the original context over this are kept."),
                ),
                (
                    "short_factor",
                    factors("LongRoPE: a divisor for each pair, for short contexts."),
                ),
                (
                    "long_factor",
                    factors("LongRoPE: a divisor for each pair, for long contexts."),
                ),
                (
                    "select",
                    words(
                        &["by_length", "short", "long"],
                        "LongRoPE: which list is used; `by_length` takes the long one for calls past the original context.",
                    ),
                ),
                (
                    "max_position_embeddings",
                    size("Dynamic: the length up to which the base stays as it is."),
                ),
            ],
            &["type"],
        ),
    )
}

/// A number for each pair of the rotated part.
fn factors(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "number" }, "minItems": 1, "description": description })
}
