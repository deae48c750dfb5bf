//! Rules of output gates and of latents of other layers.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(214),
        title: "a gate's slot without a gate",
        rule: "`linear_gate_proj` and `linear_q_gate_proj` need `attention_output_gate`.",
        why: "the slot says which weights there are, the parameter what they gate: a head as a whole or each of its elements.",
        wrong: r"submodules:
  linear_gate_proj: ColumnParallelLinear
",
        right: r"params:
  attention_output_gate: per_head
submodules:
  linear_gate_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(215),
        title: "a gate without its slot",
        rule: "`per_head` and `per_element` need `linear_gate_proj`, `fused_with_query` needs `linear_q_gate_proj`.",
        why: "a gate is made by a projection, whose weights a checkpoint must hold.",
        wrong: r"params:
  attention_output_gate: per_element
",
        right: r"params:
  attention_output_gate: per_element
submodules:
  linear_gate_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(216),
        title: "a gate fused with plain queries",
        rule: "`attention_output_gate: fused_with_query` needs `q_lora_rank`.",
        why: "query and gate come out of one projection of the query latent, normed and raw; plain queries have none.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
params:
  attention_output_gate: fused_with_query
submodules:
  linear_q_proj: ColumnParallelLinear
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
params:
  attention_output_gate: per_element
submodules:
  linear_q_proj: ColumnParallelLinear
  linear_gate_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(217),
        title: "two up projections of the query",
        rule: "`linear_q_gate_proj` replaces `linear_q_up_proj`.",
        why: "it makes the queries too, each with its gate.",
        wrong: r"params:
  attention_output_gate: fused_with_query
submodules:
  linear_q_gate_proj: ColumnParallelLinear
",
        right: r"# no linear_q_up_proj
params:
  attention_output_gate: fused_with_query
submodules:
  linear_q_gate_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(218),
        title: "a fused gate without a norm of its own",
        rule: "beside `linear_q_gate_proj` the query latent has its norm in `q_layernorm`.",
        why: "the projection reads the normed latent and the raw one; with a norm inside it could not tell them apart, and \
              without a norm it would read the same latent twice.",
        wrong: r"# no linear_q_up_proj
params:
  attention_output_gate: fused_with_query
submodules:
  q_layernorm: IdentityOp
  linear_q_gate_proj: ColumnParallelLinear
",
        right: r"# no linear_q_up_proj
params:
  attention_output_gate: fused_with_query
submodules:
  q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
  linear_q_gate_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(219),
        title: "a slot that makes what another layer makes",
        rule: "with `kv_source: shared` there is no key-value down projection and no norm of latent or rope key.",
        why: "the layer attends to normed latents and rotated keys of an earlier one; its own would have weights that nobody \
              uses.",
        wrong: r"# no linear_kv_down_proj
params:
  kv_source: shared
",
        right: r"# no linear_kv_down_proj
# no kv_layernorm
params:
  kv_source: shared
",
    },
    Rule {
        code: Code(220),
        title: "a parameter of another layer's latents",
        rule: "`kv_lora_scale` and `share_kv` stand at the layer that makes the latents.",
        why: "what is shared is the scaled latent, and a layer that takes latents over has none to hand out.",
        wrong: r"# no linear_kv_down_proj
# no kv_layernorm
params:
  kv_source: shared
  kv_lora_scale: { factor: 2.0 }
",
        right: r"# no linear_kv_down_proj
# no kv_layernorm
params:
  kv_source: shared
",
    },
];
