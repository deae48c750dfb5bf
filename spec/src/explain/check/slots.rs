//! Rules of slots, modules and norms.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(201),
        title: "no such module",
        rule: "`module` and the slots name modules of this language.",
        why: "modules of other systems differ in their parameters even where they share a name.",
        wrong: r"submodules:
  linear_proj: RowLinear
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(203),
        title: "no such slot",
        rule: "`submodules` fills the slots of `MLASelfAttention`, each once, under Megatron-Core's \
              names.",
        why: "a module in a slot that nobody reads would be left out of the layer.",
        wrong: r"# no linear_proj
submodules:
  o_proj: RowParallelLinear
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(204),
        title: "a slot is empty",
        rule: "every slot of the layer's form must be filled.",
        why: "which projections a layer has decides which weights it loads.",
        wrong: r"# no linear_kv_up_proj
submodules:
  linear_proj: RowParallelLinear
",
        right: r"submodules:
  linear_kv_up_proj: ColumnParallelLinear
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(205),
        title: "the module doesn't fit the slot",
        rule: "down projections are `Linear`, `linear_q_proj` is `ColumnParallelLinear`, up projections \
              are `ColumnParallelLinear` or `LayerNormColumnParallelLinear`, `linear_proj` is \
              `RowParallelLinear`.",
        why: "the module says how a projection may be split over devices. A down projection is never \
              split, since its latent is normed whole.",
        wrong: r"submodules:
  linear_kv_down_proj: ColumnParallelLinear
",
        right: r"submodules:
  linear_kv_down_proj: Linear
",
    },
    Rule {
        code: Code(206),
        title: "queries are made twice",
        rule: "either `linear_q_proj` or the low-rank slots make the queries.",
        why: "only one of them could be used; the other's weights would be loaded for nothing.",
        wrong: r"submodules:
  linear_q_proj: ColumnParallelLinear
",
        right: r"submodules:
  linear_q_up_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(207),
        title: "`q_lora_rank` and the slots disagree",
        rule: "with `q_lora_rank` queries need the low-rank slots, without it `linear_q_proj`.",
        why: "the rank and the slots are two statements about the same weights, and no system agrees \
              with another on which one wins.",
        wrong: r"# no q_lora_rank
# no q_layernorm
params:
  v_head_dim: 128
",
        right: r"params:
  q_lora_rank: 768
",
    },
    Rule {
        code: Code(208),
        title: "two down projections for one latent",
        rule: "`linear_qkv_down_proj` replaces `linear_q_down_proj` and `linear_kv_down_proj`.",
        why: "the fused projection already holds the rows of both.",
        wrong: r"submodules:
  linear_qkv_down_proj: Linear
",
        right: r"# no linear_q_down_proj
# no linear_kv_down_proj
submodules:
  linear_qkv_down_proj: Linear
",
    },
    Rule {
        code: Code(209),
        title: "a fused down projection without `q_lora_rank`",
        rule: "`linear_qkv_down_proj` needs low-rank queries.",
        why: "with plain queries there is no query latent, so nothing to fuse.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
# no linear_kv_down_proj
submodules:
  linear_qkv_down_proj: Linear
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
  linear_kv_down_proj: Linear
",
    },
    Rule {
        code: Code(210),
        title: "a norm of the hidden state",
        rule: "`LayerNormColumnParallelLinear` can't fill `linear_q_proj` or a down projection.",
        why: "it would add a trainable norm over the hidden state that no published checkpoint has; a \
              training framework once did so by itself, and its models had weights that could not be \
              exported.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(211),
        title: "a bias where no checkpoint has one",
        rule: "only the down projections and `linear_proj` may have a bias.",
        why: "`attention_bias` elsewhere reaches exactly these. Absorbing the up projection into \
              queries and outputs relies on its having none.",
        wrong: r"submodules:
  linear_kv_up_proj: { module: ColumnParallelLinear, params: { bias: true } }
",
        right: r"submodules:
  linear_kv_down_proj: { module: Linear, params: { bias: true } }
",
    },
    Rule {
        code: Code(212),
        title: "submodules of a module that has none",
        rule: "linear, norm and core modules are whole: they have no slots.",
        why: "what stands there would be ignored.",
        wrong: r"submodules:
  linear_proj: { module: RowParallelLinear, submodules: { norm: RMSNorm } }
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(213),
        title: "a slot of another release",
        rule: "this slot is known but this release can't generate it.",
        why: "leaving it out would be a different layer.",
        wrong: r"submodules:
  g_proj: ColumnParallelLinear
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(301),
        title: "`eps` is missing",
        rule: "every norm states its `eps`.",
        why: "checkpoints and configs disagree: many models' latent norms use 1e-6 whatever \
              `rms_norm_eps` says, and frameworks default to 1e-5.",
        wrong: r"submodules:
  kv_layernorm: RMSNorm
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(302),
        title: "`eps` out of bounds",
        rule: "`eps` is greater than 0 and less than 0.1.",
        why: "an `eps` of 0 divides by zero on a zero row, a large one is mostly a misplaced sign in \
              its exponent.",
        wrong: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e+6 } }
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(303),
        title: "a latent normed twice",
        rule: "a latent has its norm in the norm slot or inside the up projection, not in both.",
        why: "two norms are two sets of weights, and checkpoints have one.",
        wrong: r"submodules:
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(304),
        title: "`q_layernorm` without a query latent",
        rule: "`q_layernorm` needs `q_lora_rank`.",
        why: "it norms the query latent, which plain queries don't have.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(305),
        title: "parameters of `IdentityOp`",
        rule: "`IdentityOp` takes no parameters.",
        why: "elsewhere it accepts any and ignores them, so that a norm which was meant to be there is \
              silently absent.",
        wrong: r"submodules:
  kv_layernorm: { module: IdentityOp, params: { eps: 1.0e-6 } }
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(306),
        title: "`normalization` is missing",
        rule: "`LayerNormColumnParallelLinear` says which norm it fuses: `RMSNorm` or `LayerNorm`.",
        why: "in spite of its name it mostly holds an RMSNorm, and the two differ in numbers and in \
              weights.",
        wrong: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(307),
        title: "a norm slot is missing",
        rule: "the norm slot of each latent is written, as `IdentityOp` where it holds no norm.",
        why: "elsewhere the norms are off unless a switch is set, and models were trained without them \
              by accident.",
        wrong: r"# no kv_layernorm
submodules:
  linear_kv_up_proj: ColumnParallelLinear
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(308),
        title: "the key-value latent is not normed (warning)",
        rule: "a key-value latent has a norm, in its slot or inside the up projection.",
        why: "a layer without one is legal, but no published checkpoint is made so.",
        wrong: r"submodules:
  kv_layernorm: IdentityOp
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
];
