//! Rules of slots and modules.

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
        rule: "`submodules` fills the slots that its module has, each once, under Megatron-Core's names.",
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
              are `ColumnParallelLinear` or `LayerNormColumnParallelLinear`, gates are `ColumnParallelLinear`, \
              `linear_proj` is `RowParallelLinear`, an indexer's projections are `Linear`.",
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
        rule: "only the down projections, `linear_gate_proj` and `linear_proj` may have a bias.",
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
];
