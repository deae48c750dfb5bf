//! Rules of what a training step keeps, computes again or puts aside.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(622),
        title: "a part that is computed again and kept",
        rule: "no part stands in `recompute` and in `offload`.",
        why: "what is computed again in the backward pass is not kept at all, in no memory.",
        wrong: r"build:
  phases: [train]
  recompute: [mla_up_proj]
  offload: [q_up_proj]
",
        right: r"build:
  phases: [train]
  recompute: [kv_up_proj]
  offload: [q_up_proj]
",
    },
    Rule {
        code: Code(623),
        title: "a part of another layer in `recompute` or `offload`",
        rule: "both list parts that the layer has: `input_layernorm` where that slot is filled, `q_down_proj` beside a query \
               latent, `kv_down_proj` beside latents of the layer's own that no fused projection makes (`q_down_proj` then \
               names both), `layernorm` where latents or heads are normed, `q_up_proj`, `kv_up_proj` and `mla_up_proj` beside \
               latents, `qkv_proj` without, `core_attn` everywhere. In a model's own `build` a part counts for the layers that \
               have it.",
        why: "nothing would be computed again or put aside, and the memory that was counted on would be missing.",
        wrong: r"build:
  phases: [train]
  recompute: [qkv_proj]
",
        right: r"build:
  phases: [train]
  recompute: [mla_up_proj]
",
    },
    Rule {
        code: Code(624),
        title: "a value that is never kept",
        rule: "`recompute` and `offload` name parts of the layer whose values the backward pass reads.",
        why: "nobody reads the output projection's own output again, the caller keeps the layer's input, and what lies beside \
              attention is not this layer's. Other systems name single tensors where a part makes several.",
        wrong: r"build:
  phases: [train]
  recompute: [out_proj]
",
        right: r"build:
  phases: [train]
  recompute: [core_attn]
",
    },
];
