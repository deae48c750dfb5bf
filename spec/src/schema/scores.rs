//! The schema of masks, logits and query scaling, which attention modules share.

use serde_json::{Value, json};

use super::{closed, described, number, size, switch, tokens, words};

/// `attn_mask_type` of attention within one sequence, and the keys beside it.
pub(super) fn self_masks() -> Vec<(&'static str, Value)> {
    let masks = [
        "causal",
        "no_mask",
        "padding",
        "padding_causal",
        "arbitrary",
    ];
    let mut params = vec![(
        "attn_mask_type",
        words(
            &masks,
            "Which keys a query sees: what came before (`causal`), everything (`no_mask`), the same with padded inputs \
             allowed (`padding_causal`, `padding`), or what an input says (`arbitrary`).",
        ),
    )];
    params.extend(bounds());
    params
}

/// What narrows or widens a mask.
pub(super) fn bounds() -> [(&'static str, Value); 3] {
    [
        (
            "window_size",
            json!({ "type": "array", "items": { "type": "integer", "minimum": -1 }, "minItems": 2, "maxItems": 2,
                    "description": "Tokens seen before the query and behind it, itself not counted; -1 for no bound. A sliding window of w tokens is `[w - 1, 0]`." }),
        ),
        (
            "attention_chunk_size",
            size("A query sees keys of its own chunk of so many tokens."),
        ),
        (
            "bidirectional_blocks",
            switch(
                "Whether tokens of one block see each other whatever the mask; blocks are given at run time. Default: false.",
            ),
        ),
    ]
}

/// What happens to logits and probabilities.
pub(super) fn logits() -> [(&'static str, Value); 5] {
    [
        (
            "softmax_scale",
            number(
                "What logits are multiplied by. Default: the head dim to the power of -1/2, corrected by YaRN.",
            ),
        ),
        (
            "softmax_type",
            words(
                &["vanilla", "off-by-one", "learnable"],
                "What softmax's denominator holds besides the keys: nothing, 1, or a learned sink per head. Default: vanilla.",
            ),
        ),
        (
            "attn_logits_soft_cap",
            number("cap: logits become cap tanh(logits / cap)."),
        ),
        (
            "core_attention_bias",
            words(
                &["no_bias", "post_scale_bias"],
                "Whether an input is added to scaled logits. Default: no_bias.",
            ),
        ),
        (
            "attention_dropout",
            number("Probability of dropping an attention probability in training. Default: 0."),
        ),
    ]
}

/// How weights are clipped in training.
pub(super) fn qk_clip() -> (&'static str, Value) {
    let clip = closed(
        [
            (
                "threshold",
                number("The largest logit a head may have, above 0. Published: 100."),
            ),
            (
                "alpha",
                number(
                    "How much of the factor queries take, between 0 and 1; keys take the rest. Published: 0.5.",
                ),
            ),
        ],
        &["threshold", "alpha"],
    );
    let description = "QK-clip (MuonClip): after a training step, scales what makes queries and keys of heads whose logits grew too large.";
    ("qk_clip", described(description, clip))
}

/// What queries are multiplied by, by position.
pub(super) fn query_scaling(types: &[&str]) -> (&'static str, Value) {
    let scaling = closed(
        [
            (
                "type",
                words(
                    types,
                    "How: by steps of a context length, or by the logarithm of the position, learned.",
                ),
            ),
            ("beta", number("llama4: weight of the logarithm.")),
            (
                "original_max_position_embeddings",
                size("llama4: length of a step, in tokens."),
            ),
            ("position_offset", tokens("llama4: added to positions.")),
        ],
        &["type"],
    );
    let description = "What queries are multiplied by, by position.";
    ("query_scaling", described(description, scaling))
}

/// What an indexer's queries are multiplied by, by position.
pub(super) fn index_query_scaling() -> (&'static str, Value) {
    let types = words(
        &["log_position"],
        "By the logarithm of the position, learned.",
    );
    let description = "What its queries are multiplied by, by position.";
    (
        "query_scaling",
        described(description, closed([("type", types)], &["type"])),
    )
}
