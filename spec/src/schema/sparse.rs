//! The schema of attention itself: over every key, or over those that an indexer picks.

use serde_json::{Value, json};

use super::{
    closed, described, full_precision, nested, number, size, slot, slot_with, switch, tokens, words,
};
use crate::schema::scores::index_query_scaling;

/// `core_attention` of latent attention.
pub(super) fn core() -> Value {
    let dense = slot(&["DotProductAttention"], "");
    let sparse = nested(
        words(
            &["SparseAttention"],
            "Attention over the keys that an indexer picks.",
        ),
        closed([], &[]),
        closed([("indexer", indexer())], &["indexer"]),
        &["module", "submodules"],
    );
    let mut shapes: Vec<Value> = dense["anyOf"].as_array().cloned().unwrap_or_default();
    shapes.push(sparse);
    json!({ "description": "Attention itself: over every key, or over those that an indexer picks.", "anyOf": shapes })
}

fn indexer() -> Value {
    let lightning = nested(
        words(&["LightningIndexer"], "This layer picks."),
        lightning_params(),
        lightning_slots(),
        &["module", "params", "submodules"],
    );
    let shared = nested(
        words(&["SharedIndexer"], "An earlier layer picked."),
        closed([topk(), pool()], &["topk"]),
        closed([], &[]),
        &["module", "params"],
    );
    json!({ "description": "What picks the keys.", "anyOf": [lightning, shared] })
}

fn topk() -> (&'static str, Value) {
    ("topk", size("How many keys are picked at most."))
}

fn pool() -> (&'static str, Value) {
    let pool = closed(
        [
            (
                "size",
                json!({ "type": "integer", "minimum": 2, "description": "Tokens per pool; divides `topk`." }),
            ),
            (
                "always_select_tail",
                switch(
                    "Whether the tokens behind the last whole pool are always picked, besides `topk`.",
                ),
            ),
        ],
        &["size", "always_select_tail"],
    );
    (
        "pool",
        described("Keys are pooled, and pools picked as a whole.", pool),
    )
}

fn lightning_params() -> Value {
    closed(
        [
            ("num_heads", size("Number of heads.")),
            (
                "head_dim",
                size("Length of a head's query, and of the key that all heads share."),
            ),
            topk(),
            (
                "rope_layout",
                words(
                    &["interleaved", "half"],
                    "Which elements make a pair; often not as in the layer. Required exactly where the layer rotates.",
                ),
            ),
            (
                "split_order",
                words(
                    &["rope_first", "nope_first"],
                    "Where the rotated elements stand. Required exactly where the layer rotates.",
                ),
            ),
            (
                "query_input",
                words(
                    &["q_latent", "hidden"],
                    "What queries are made from: the normed query latent, or the layer's input.",
                ),
            ),
            ("relu", switch("Whether dot products below 0 count as 0.")),
            (
                "hadamard",
                switch(
                    "Whether queries and keys are turned by a Hadamard matrix; changes rounding alone. Default: false.",
                ),
            ),
            index_query_scaling(),
            (
                "forced",
                described(
                    "Tokens that are always picked; they count towards `topk`.",
                    closed(
                        [
                            ("initial", tokens("The first of a sequence.")),
                            ("local", tokens("The last ones, the query's included.")),
                        ],
                        &["initial", "local"],
                    ),
                ),
            ),
            pool(),
            (
                "share_topk",
                switch("Whether later layers use what it picks. Default: false."),
            ),
            loss(),
        ],
        &["num_heads", "head_dim", "topk", "query_input", "relu"],
    )
}

fn loss() -> (&'static str, Value) {
    let loss = closed(
        [
            (
                "stage",
                words(
                    &["dense", "sparse"],
                    "Warm-up, over every key and with the indexer alone trained; or over the picked keys, beside the layer.",
                ),
            ),
            ("coeff", number("What multiplies it, above 0.")),
            (
                "reduction",
                words(
                    &["mean_valid", "mean_all", "sum"],
                    "Over rows: the mean of those that see a key (Megatron), the mean of all (MaxText), the sum.",
                ),
            ),
            (
                "epsilon",
                words(
                    &["clamp", "add"],
                    "What keeps logarithms finite: a bound (Megatron), or an addend (MaxText).",
                ),
            ),
        ],
        &["stage", "coeff", "reduction", "epsilon"],
    );
    let description = "How `train` trains the indexer: towards the attention probabilities of all heads. Without it the indexer is not trained.";
    ("loss", described(description, loss))
}

fn lightning_slots() -> Value {
    let norms = ["RMSNorm", "LayerNorm"];
    let weights = "Weights of the heads, `weights_proj`.";
    described(
        "What fills each slot of the indexer.",
        closed(
            [
                (
                    "linear_wq_b",
                    slot_with("Linear", Vec::new(), "Queries, `wq_b`."),
                ),
                (
                    "linear_wk",
                    slot_with("Linear", Vec::new(), "The key, `wk`."),
                ),
                (
                    "linear_weights_proj",
                    slot_with("Linear", vec![full_precision()], weights),
                ),
                ("k_norm", slot(&norms, "Norm of the key.")),
                (
                    "q_input_norm",
                    slot(
                        &norms,
                        "Norm of the layer's input before `linear_wq_b`, with `query_input: hidden`.",
                    ),
                ),
            ],
            &["linear_wq_b", "linear_wk", "linear_weights_proj", "k_norm"],
        ),
    )
}
