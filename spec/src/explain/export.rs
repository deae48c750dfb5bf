//! Rules of layers that are written as another system's config. The examples are specs, written as Megatron-LM's arguments: they meet
//! exactly the code they stand under, which a test sees to.

use super::Rule;
use crate::diagnostic::Code;

/// In the order of the codes.
pub const RULES: &[Rule] = &[
    Rule {
        code: Code(722),
        title: "the other system can't say this",
        rule: "a layer is written as another system's config only if that system reads it as a layer of the same mathematics",
        why: "what is left out of a config is computed otherwise, without a word",
        wrong: "params:\n  rope: { type: plain, theta: 10000.0, layout: half }\n",
        right: "params:\n  rope: { type: plain, theta: 10000.0, layout: interleaved }\n",
    },
    Rule {
        code: Code(723),
        title: "the other system lays this out otherwise",
        rule: "what a config does not carry over, and what changes no number, is pointed out",
        why: "tensors stand under other names there, caches hold something else, and schedules are that system's own",
        wrong: "submodules:\n  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n",
        right: "submodules:\n  q_layernorm: IdentityOp\n  \
                linear_q_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }\n  \
                kv_layernorm: IdentityOp\n  \
                linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }\n",
    },
];
