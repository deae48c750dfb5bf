//! Rules of norms and of scales beside them.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
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
    Rule {
        code: Code(309),
        title: "a gated norm inside a projection",
        rule: "`GatedRMSNorm` fills a norm slot; `normalization` of a fused projection is `RMSNorm` or `LayerNorm`.",
        why: "its gate has two projections of its own, which no fused module holds.",
        wrong: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: GatedRMSNorm, eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  linear_kv_up_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(310),
        title: "`k_rope_layernorm` without a rope key",
        rule: "`k_rope_layernorm` needs `qk_rope_head_dim` above 0.",
        why: "it norms the key that all heads share, which such a layer doesn't have.",
        wrong: r"params:
  qk_rope_head_dim: 0
  rope: { type: none }
submodules:
  k_rope_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
        right: r"submodules:
  k_rope_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(311),
        title: "`q_lora_scale` without a query latent",
        rule: "`q_lora_scale` needs `q_lora_rank`.",
        why: "it scales the query latent, or what is made of it; plain queries have none.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
params:
  q_lora_scale: { factor: 2.0, at: query }
submodules:
  linear_q_proj: ColumnParallelLinear
",
        right: r"params:
  q_lora_scale: { factor: 2.0, at: query }
",
    },
    Rule {
        code: Code(312),
        title: "a scale between a norm and a projection that are one module",
        rule: "a scale of a normed latent needs the norm in its own slot.",
        why: "it stands between the norm and the projection, and a fused module has nothing between them. What a cache \
              keeps, and what an indexer reads, is the scaled latent.",
        wrong: r"params:
  kv_lora_scale: { factor: hidden_over_rank }
submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"params:
  kv_lora_scale: { factor: hidden_over_rank }
",
    },
];
