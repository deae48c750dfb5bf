//! Rules of QK-clip and of an indexer's loss.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// A trained layer of sparse attention that rotates nothing, whose indexer has these parameters beside the required ones.
macro_rules! trained {
    ($params:literal) => {
        concat!(
            "params:
  rope: { type: none }
submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 128, topk: 2048, query_input: q_latent, relu: true,
                  ",
            $params,
            " }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  phases: [train]
"
        )
    };
}

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(540),
        title: "a key of training in a layer that isn't trained",
        rule: "`qk_clip`, and the `loss` of an indexer, need the phase `train`.",
        why: "QK-clip reads the largest logits of a training step, and a loss is computed beside its gradients. Without the \
              phase nothing would read either.",
        wrong: r"params:
  qk_clip: { threshold: 100.0, alpha: 0.5 }
build:
  phases: [forward]
",
        right: r"params:
  qk_clip: { threshold: 100.0, alpha: 0.5 }
build:
  phases: [forward, train]
",
    },
    Rule {
        code: Code(541),
        title: "clipping logits that don't follow the weights",
        rule: "`qk_clip` goes without `attn_logits_soft_cap` and without `core_attention_bias`.",
        why: "QK-clip scales rows of weights so that every logit of a head becomes η times what it was. A soft cap bends what \
              comes of that, and a bias is added to it: neither the largest logit nor the others would be scaled by η.",
        wrong: r"params:
  qk_clip: { threshold: 100.0, alpha: 0.5 }
  attn_logits_soft_cap: 50.0
build:
  phases: [train]
",
        right: r"params:
  qk_clip: { threshold: 100.0, alpha: 0.5 }
build:
  phases: [train]
",
    },
    Rule {
        code: Code(542),
        title: "clipping normed heads",
        rule: "`qk_clip` goes without `q_layernorm` and `k_layernorm` of `SelfAttention`, and without `qk_l2_norm`.",
        why: "a norm behind the projection undoes every factor of its rows, so that clipping would change nothing. Norms of \
              latents stand before the rows that are scaled, and may stay.",
        wrong: r"module: SelfAttention
params:
  qk_clip: { threshold: 100.0, alpha: 0.5 }
  qk_l2_norm: true
  qk_l2_norm_eps: 1.0e-6
build:
  phases: [train]
",
        right: r"module: SelfAttention
params:
  qk_clip: { threshold: 100.0, alpha: 0.5 }
build:
  phases: [train]
",
    },
    Rule {
        code: Code(543),
        title: "a loss of pooled keys",
        rule: "an indexer with `pool` has no `loss`.",
        why: "the loss compares the indexer's probabilities with attention's, key by key. A pool has one score for several \
              keys, and nobody has defined its share of them.",
        wrong: trained!(
            "pool: { size: 16, always_select_tail: true },
                  loss: { stage: sparse, coeff: 1.0, reduction: mean_valid, epsilon: clamp }"
        ),
        right: trained!(
            "loss: { stage: sparse, coeff: 1.0, reduction: mean_valid, epsilon: clamp }"
        ),
    },
    Rule {
        code: Code(544),
        title: "a choice of keys shared in the dense stage",
        rule: "`loss.stage: dense` goes without `share_topk: true`.",
        why: "in the dense stage attention covers every visible key and nothing is picked, so that later layers would be handed \
              nothing. In that stage they attend to every key as well.",
        wrong: trained!(
            "share_topk: true,
                  loss: { stage: dense, coeff: 1.0, reduction: mean_valid, epsilon: clamp }"
        ),
        right: trained!(
            "share_topk: true,
                  loss: { stage: sparse, coeff: 1.0, reduction: mean_valid, epsilon: clamp }"
        ),
    },
];
