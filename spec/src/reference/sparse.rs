//! Attention over the keys that an indexer picks.

use super::modules::{DENSE, INDEX_LINEAR, INDEX_NORMS, INDEX_WEIGHTS};
use super::scores::INDEX_QUERY_SCALING;
use super::{Filling, Given, Key, Section, Value, Word, formula, key, word};

pub(super) const SPARSE: Word = word(
    "SparseAttention",
    "Attention over the keys that an indexer picks.",
);
pub(super) const LIGHTNING: Word = formula(
    "LightningIndexer",
    "This layer picks.",
    "I(t, u) = Σ_j w_j(t) · h_i^-1/2 · d_i^-1/2 · relu(Q_j(t)·K(u));  the topk keys u with the highest I",
);
pub(super) const SHARED: Word = word("SharedIndexer", "An earlier layer picked.");

/// `core_attention` of latent attention.
pub(super) static CORE: [Filling; 2] = [
    Filling {
        modules: &[DENSE],
        params: &[],
        submodules: &[],
    },
    Filling {
        modules: &[SPARSE],
        params: &[],
        submodules: &[INDEXER],
    },
];

const INDEXER: Key = key(
    "indexer",
    Value::Slot(&INDEXERS),
    Given::Required,
    "What picks the keys.",
)
.detail(
    "Softmax is over the picked keys alone, with the same τ. Ties go to the lowest position. A query that sees fewer keys than `topk` \
     attends to all of them.",
)
.example(
    "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        \
     params: { num_heads: 64, head_dim: 128, topk: 2048, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true }\n        \
     submodules:\n          linear_wq_b: Linear\n          linear_wk: Linear\n          linear_weights_proj: Linear\n          \
     k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }\n",
)
.source("DeepSeek-V3.2, arXiv:2512.02556.");

static INDEXERS: [Filling; 2] = [
    Filling {
        modules: &[LIGHTNING],
        params: LIGHTNING_PARAMS,
        submodules: LIGHTNING_SLOTS,
    },
    Filling {
        modules: &[SHARED],
        params: &[TOPK, POOL],
        submodules: &[],
    },
];

const TOPK: Key = key(
    "topk",
    Value::Size(1),
    Given::Required,
    "How many keys are picked at most.",
)
.detail("A `SharedIndexer` names the number of the layer that picks.");

static POOLS: Section = Section {
    about: "Keys are pooled, and pools picked as a whole.",
    groups: &[&[
        key(
            "size",
            Value::Size(2),
            Given::Required,
            "Tokens per pool; divides `topk`.",
        ),
        key(
            "always_select_tail",
            Value::Switch,
            Given::Required,
            "Whether the tokens behind the last whole pool are always picked, besides `topk`.",
        ),
    ]],
};

const POOL: Key = key(
    "pool",
    Value::Table(&POOLS),
    Given::Optional,
    "Keys are pooled, and pools picked as a whole.",
)
.detail(
    "A pool's key is a learned average of its tokens' keys, channel by channel; a(u) is a weight for the place of token u in its pool. A query may pick a pool \
     when it sees the pool's last token.",
)
.formula("K_pool = Σ_u softmax_u(W_IG · x(u) + a(u)) ⊙ K(u);  the topk / size pools with the highest I")
.source("GLM-5-Next (`index_kpool`) in transformers.");

static FORCED: Section = Section {
    about: "Tokens that are always picked; they count towards `topk`.",
    groups: &[&[
        key(
            "initial",
            Value::Tokens,
            Given::Required,
            "The first of a sequence.",
        ),
        key(
            "local",
            Value::Tokens,
            Given::Required,
            "The last ones, the query's included.",
        ),
    ]],
};

static LOSS: Section = Section {
    about: "How `train` trains the indexer: towards the attention probabilities of all heads. Without it the indexer is not trained.",
    groups: &[&[
        key(
            "stage",
            Value::Words(&[
                word(
                    "dense",
                    "Warm-up. Attention and both distributions cover every visible key, and the indexer alone is trained.",
                ),
                word(
                    "sparse",
                    "Attention and both distributions cover the picked keys, and the indexer is trained beside the layer.",
                ),
            ]),
            Given::Required,
            "Warm-up, over every key and with the indexer alone trained; or over the picked keys, beside the layer.",
        ),
        key(
            "coeff",
            Value::Number,
            Given::Required,
            "What multiplies it, above 0.",
        ),
        key(
            "reduction",
            Value::Words(&[
                word(
                    "mean_valid",
                    "The mean over the rows that see a key (Megatron).",
                ),
                word(
                    "mean_all",
                    "The sum divided by the number of all rows, padding included (MaxText).",
                ),
                word("sum", "The sum (Megatron with `calculate_per_token_loss`)."),
            ]),
            Given::Required,
            "Over rows: the mean of those that see a key (Megatron), the mean of all (MaxText), the sum.",
        ),
        key(
            "epsilon",
            Value::Words(&[
                word(
                    "clamp",
                    "The target is at least 1e-10 inside its logarithm; the student's logarithm is that of its softmax (Megatron).",
                ),
                word(
                    "add",
                    "1e-8 is added inside both logarithms and to the sum that the target is divided by (MaxText).",
                ),
            ]),
            Given::Required,
            "What keeps logarithms finite: a bound (Megatron), or an addend (MaxText).",
        ),
    ]],
};

const LIGHTNING_PARAMS: &[Key] = &[
    key("num_heads", Value::Size(1), Given::Required, "Number of heads.").detail("h_i."),
    key(
        "head_dim",
        Value::Size(1),
        Given::Required,
        "Length of a head's query, and of the key that all heads share.",
    )
    .detail("d_i."),
    TOPK,
    key(
        "rope_layout",
        Value::Words(&[
            word("interleaved", "Pairs of neighbours: GLM-5."),
            word("half", "Pairs half a part away from each other: DeepSeek-V3.2."),
        ]),
        Given::When("where the layer rotates, and required there"),
        "Which elements make a pair; often not as in the layer. Required exactly where the layer rotates.",
    )
    .detail("The indexer turns by the layer's own frequencies. DeepSeek-V3.2 interleaves in the layer and not in the indexer.")
    .source("`indexer_rope_interleave` of transformers and vLLM."),
    key(
        "split_order",
        Value::Words(&[
            word("rope_first", "In front: everybody but HY-V4."),
            word("nope_first", "Behind: HY-V4."),
        ]),
        Given::When("where the layer rotates, and required there"),
        "Where the rotated elements stand. Required exactly where the layer rotates.",
    ),
    key(
        "query_input",
        Value::Words(&[
            formula("q_latent", "The normed query latent.", "Q = W_IQ · ĉ_q"),
            formula("hidden", "The layer's input, behind `q_input_norm` where that is filled.", "Q = W_IQ · x"),
        ]),
        Given::Required,
        "What queries are made from: the normed query latent, or the layer's input.",
    ),
    key(
        "relu",
        Value::Switch,
        Given::Required,
        "Whether dot products below 0 count as 0.",
    )
    .source("Megatron-Core's `dsa_indexer_scoring_relu`."),
    key(
        "hadamard",
        Value::Switch,
        Given::Default("false"),
        "Whether queries and keys are turned by a Hadamard matrix; changes rounding alone.",
    )
    .detail("Exact scores stay as they are. With keys kept in fp8 their errors become smaller.")
    .formula("Q_j ← H Q_j d_i^-1/2;  K ← H K d_i^-1/2")
    .source("DeepSeek-V3.2's reference code; Megatron-Core's `dsa_indexer_rotate_activation`."),
    INDEX_QUERY_SCALING,
    key(
        "forced",
        Value::Table(&FORCED),
        Given::Optional,
        "Tokens that are always picked; they count towards `topk`.",
    )
    .source("LongCat's sparse attention (`index_init_tokens`, `index_local_tokens`)."),
    POOL,
    key(
        "share_topk",
        Value::Switch,
        Given::Default("false"),
        "Whether later layers use what it picks.",
    )
    .detail("With it the layer's functions hand the selection out.")
    .source("GLM-5.2 (`indexer_types`) in transformers; Megatron-Core's `dsa_indexer_topk_freq`."),
    key(
        "loss",
        Value::Table(&LOSS),
        Given::When("with the phase `train`"),
        "How `train` trains the indexer: towards the attention probabilities of all heads. Without it the indexer is not trained.",
    )
    .detail("No gradient of it reaches the layer, and none of the layer's reaches the indexer. Not beside `pool`.")
    .formula("coeff · Σ_t KL(P(t, ·) ‖ softmax(I(t, ·))), where P is Σ_h p_h over its sum")
    .source("DeepSeek-V3.2, arXiv:2512.02556; Megatron-Core's `dsa_indexer_loss_coeff`; MaxText's `indexer_loss_scaling_factor`."),
];

const LIGHTNING_SLOTS: &[Key] = &[
    key(
        "linear_wq_b",
        Value::Slot(&INDEX_LINEAR),
        Given::Required,
        "Queries, `wq_b`.",
    )
    .formula("Q = W_IQ · ĉ_q, or W_IQ · x"),
    key(
        "linear_wk",
        Value::Slot(&INDEX_LINEAR),
        Given::Required,
        "The key, `wk`.",
    )
    .formula("K = norm(W_IK · x)"),
    key(
        "linear_weights_proj",
        Value::Slot(&INDEX_WEIGHTS),
        Given::Required,
        "Weights of the heads, `weights_proj`.",
    )
    .formula("w = W_IW · x"),
    key(
        "k_norm",
        Value::Slot(&INDEX_NORMS),
        Given::Required,
        "Norm of the key.",
    )
    .detail("Mostly a LayerNorm with an epsilon of 1e-6."),
    key(
        "q_input_norm",
        Value::Slot(&INDEX_NORMS),
        Given::When("with `query_input: hidden`"),
        "Norm of the layer's input before `linear_wq_b`, with `query_input: hidden`.",
    )
    .source("Mistral-Large-4 in transformers."),
];

/// Slots of `SparseAttention`.
pub(crate) static SPARSE_SLOTS: Section = Section {
    about: "The slot of `SparseAttention`.",
    groups: &[&[INDEXER]],
};

/// Parameters of an indexer with weights of its own.
pub(super) static LIGHTNING_SECTION: Section = Section {
    about: "Sizes and options of the indexer.",
    groups: &[LIGHTNING_PARAMS],
};

/// Its slots.
pub(crate) static INDEXER_SLOTS: Section = Section {
    about: "What fills each slot of the indexer.",
    groups: &[LIGHTNING_SLOTS],
};

/// Parameters of another layer's selection.
pub(super) static SHARED_SECTION: Section = Section {
    about: "What the layer that picks says, too.",
    groups: &[&[TOPK, POOL]],
};
