//! Rules of how weights lie in memory.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(629),
        title: "weights as codes in training",
        rule: "`weights` as `fp8_blocks` and the phase `train` exclude each other.",
        why: "an e4m3 code has 3 bits behind its leading one, so that neighbours lie a fifteenth to an eighth apart; a step of training changes a weight by \
              far less, and rounding would undo it.",
        wrong: r"build:
  phases: [forward, train]
  weights: fp8_blocks
",
        right: r"build:
  phases: [forward]
  weights: fp8_blocks
",
    },
    Rule {
        code: Code(630),
        title: "weights as codes behind a norm in the same module",
        rule: "`weights` as `fp8_blocks` want the query's norm in `q_layernorm`, not inside `linear_q_up_proj`.",
        why: "a projection with a norm inside is one module, whose matrix is kept as numbers; a norm before a plain projection computes the same. \
              Norms inside `linear_kv_up_proj` may stay, since that matrix is never coded. In a model a layer may keep `weights: numbers` in its \
              own `build`.",
        wrong: r"submodules:
  q_layernorm: IdentityOp
  linear_q_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
build:
  weights: fp8_blocks
",
        right: r"submodules:
  q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
  linear_q_up_proj: ColumnParallelLinear
build:
  weights: fp8_blocks
",
    },
    Rule {
        code: Code(631),
        title: "a form of weights of a later release",
        rule: "`weights` is `numbers` or `fp8_blocks`: e4m3 codes with a scale for each block.",
        why: "other codes and other scales are known but not generated yet; reading them as what they are not would give wrong weights.",
        wrong: r"build:
  weights: int8
",
        right: r"build:
  weights: fp8_blocks
",
    },
];
