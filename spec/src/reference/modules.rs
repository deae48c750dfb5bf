//! The modules that fill slots, and their parameters.

use super::{Filling, Given, Key, Value, Word, formula, key, word};

pub(super) const LINEAR: Word = formula(
    "Linear",
    "A projection that every rank holds as a whole.",
    "y = W · x, or W · x + b",
);
pub(super) const COLUMN: Word = formula(
    "ColumnParallelLinear",
    "A projection whose rows belong to heads.",
    "y = W · x, or W · x + b",
);
pub(super) const ROW: Word = formula(
    "RowParallelLinear",
    "A projection whose columns belong to heads.",
    "y = W · x, or W · x + b",
);
pub(super) const NORM_COLUMN: Word = formula(
    "LayerNormColumnParallelLinear",
    "A norm and a projection in one module, the norm slot before it filled with `IdentityOp`. The norm is the one that \
     `normalization` names.",
    "y = W · norm(x)",
);
pub(super) const IDENTITY: Word = formula("IdentityOp", "No norm.", "y = x");
pub(super) const RMS: Word = formula(
    "RMSNorm",
    "A weight, no bias.",
    "y = γ x / (mean(x²) + ε)^1/2",
);
pub(super) const LAYER_NORM: Word = formula(
    "LayerNorm",
    "A weight and a bias.",
    "y = γ (x - mean(x)) / (var(x) + ε)^1/2 + β",
);
pub(super) const GATED: Word = formula(
    "GatedRMSNorm",
    "An RMSNorm and a low-rank gate behind it.",
    "n = RMSNorm(x);  y = n ⊙ σ(W_2 · silu(W_1 · n))",
);
pub(super) const DENSE: Word = word("DotProductAttention", "Attention over every visible key.");

pub(super) const BIAS: Key = key(
    "bias",
    Value::Switch,
    Given::Default("false"),
    "Whether the projection has a bias.",
)
.example("submodules:\n  linear_proj: { module: RowParallelLinear, params: { bias: true } }\n")
.source("Megatron-Core's `add_bias_linear`; `attention_bias` of transformers.");

pub(super) const FULL_PRECISION: Key = key(
    "dtype",
    Value::Words(&[word(
        "f32",
        "Weights and arithmetic are f32. In a layer of f64 they are f64.",
    )]),
    Given::Optional,
    "Computed in f32 whatever `build.dtype` says.",
)
.source("DeepSeek-V3.2's reference code (`weights_proj`), Ling-3 (`g_proj`).");

pub(super) const EPS: Key = key(
    "eps",
    Value::Positive,
    Given::When("with a norm, and required there"),
    "The norm's epsilon. Often not the config's `rms_norm_eps`.",
)
.detail(
    "It is added to the mean square or to the variance, under the root. Greater than 0 and less than 0.1. Many models' latent norms \
     take their class's default of 1e-6 whatever the config's `rms_norm_eps` says, and frameworks default to 1e-5: so there is no default here.",
)
.example("submodules:\n  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n")
.source("RMSNorm: arXiv:1910.07467. LayerNorm: arXiv:1607.06450.");

pub(super) const RANK: Key = key(
    "rank",
    Value::Size(1),
    Given::When("with `GatedRMSNorm`, and required there"),
    "Rank of the gate behind the norm: rows of W_1.",
)
.source("A.X-K2 (`gated_norm_rank`) in transformers.");

pub(super) const NORMALIZATION: Key = key(
    "normalization",
    Value::Words(&[RMS, LAYER_NORM]),
    Given::When("with `LayerNormColumnParallelLinear`, and required there"),
    "The norm that the projection holds.",
)
.detail("In spite of the module's name it mostly holds an RMSNorm.")
.example(
    "submodules:\n  kv_layernorm: IdentityOp\n  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }\n",
)
.source("Megatron-Core's `normalization`.");

pub(super) const NORM_PARAMS: &[Key] = &[EPS, RANK];

/// A slot for one kind of projection.
const fn filled(modules: &'static [Word], params: &'static [Key]) -> Filling {
    Filling {
        modules,
        params,
        submodules: &[],
    }
}

pub(super) static DOWN: [Filling; 1] = [filled(&[LINEAR], &[BIAS])];
pub(super) static UP: [Filling; 1] = [filled(&[COLUMN, NORM_COLUMN], &[EPS, NORMALIZATION])];
pub(super) static PLAIN_UP: [Filling; 1] = [filled(&[COLUMN], &[])];
pub(super) static BIASED_UP: [Filling; 1] = [filled(&[COLUMN], &[BIAS])];
pub(super) static GATE_UP: [Filling; 1] = [filled(&[COLUMN], &[BIAS, FULL_PRECISION])];
pub(super) static OUTPUT: [Filling; 1] = [filled(&[ROW], &[BIAS])];
pub(super) static NORMS: [Filling; 1] = [filled(&[IDENTITY, RMS, LAYER_NORM, GATED], NORM_PARAMS)];
pub(super) static HEAD_NORMS: [Filling; 1] = [filled(&[IDENTITY, RMS, LAYER_NORM], &[EPS])];
pub(super) static INDEX_NORMS: [Filling; 1] = [filled(&[RMS, LAYER_NORM], &[EPS])];
pub(super) static INDEX_LINEAR: [Filling; 1] = [filled(&[LINEAR], &[])];
pub(super) static INDEX_WEIGHTS: [Filling; 1] = [filled(&[LINEAR], &[FULL_PRECISION])];
pub(super) static DENSE_CORE: [Filling; 1] = [filled(&[DENSE], &[])];

/// The modules of slots, with what they take, for the page on them.
pub(super) const ALL: &[Word] = &[
    LINEAR,
    COLUMN,
    ROW,
    NORM_COLUMN,
    IDENTITY,
    RMS,
    LAYER_NORM,
    GATED,
    DENSE,
    super::sparse::SPARSE,
    super::sparse::LIGHTNING,
    super::sparse::SHARED,
];

/// Their parameters.
pub(super) const PARAMS: &[Key] = &[BIAS, FULL_PRECISION, EPS, NORMALIZATION, RANK];
