//! Rules of sparse attention and its indexers.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// A sparse core with an indexer of these parameters, beside the ones given.
macro_rules! indexer {
    ($params:literal) => {
        indexer!($params, "")
    };
    ($params:literal, $slots:literal) => {
        concat!(
            "submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, relu: true, ",
            $params,
            " }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
",
            $slots
        )
    };
}

/// As `indexer!`, in a layer that rotates nothing.
macro_rules! nope_indexer {
    ($params:literal) => {
        concat!("params:\n  rope: { type: none }\n", indexer!($params))
    };
}

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(520),
        title: "a mask that no indexer scores",
        rule: "`SparseAttention` goes with `causal` or `padding_causal`, without window, chunk or blocks.",
        why: "an indexer scores every earlier token of the sequence and picks the best; keys that are hidden besides would \
              take places among them.",
        wrong: concat!(
            "params:\n  window_size: [511, 0]\n",
            indexer!(
                "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
            )
        ),
        right: indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
        ),
    },
    Rule {
        code: Code(521),
        title: "an indexer's head shorter than the rotated part",
        rule: "an indexer's `head_dim` is at least `qk_rope_head_dim`.",
        why: "its queries and keys are rotated at the layer's own frequencies, as many pairs of them.",
        wrong: indexer!(
            "head_dim: 32, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
        ),
        right: indexer!(
            "head_dim: 64, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
        ),
    },
    Rule {
        code: Code(522),
        title: "a rotated indexer in a layer that rotates nothing",
        rule: "`rope_layout` and `split_order` are there exactly where the layer has a rotary embedding.",
        why: "an indexer shares its layer's rope.",
        wrong: nope_indexer!("head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half"),
        right: nope_indexer!("head_dim: 128, topk: 2048, query_input: q_latent"),
    },
    Rule {
        code: Code(523),
        title: "how an indexer is rotated",
        rule: "the indexer of a rotated layer states `rope_layout` and `split_order`.",
        why: "they differ from the layer's own in most models, and from model to model; the wrong ones pick other keys \
              without any error. A reference implementation had them wrong for months.",
        wrong: indexer!("head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half"),
        right: indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
        ),
    },
    Rule {
        code: Code(524),
        title: "no Hadamard matrix of this size",
        rule: "with `hadamard: true` an indexer's `head_dim` is a power of two.",
        why: "the matrix is built by doubling.",
        wrong: nope_indexer!("head_dim: 96, topk: 2048, query_input: q_latent, hadamard: true"),
        right: nope_indexer!("head_dim: 128, topk: 2048, query_input: q_latent, hadamard: true"),
    },
    Rule {
        code: Code(525),
        title: "forced tokens fill all places, or none",
        rule: "`initial` and `local` together are at least 1 and less than `topk`.",
        why: "forced tokens count towards `topk`; where they take all places, the indexer's weights decide nothing.",
        wrong: nope_indexer!(
            "head_dim: 128, topk: 1024, query_input: q_latent, forced: { initial: 16, local: 1024 }"
        ),
        right: nope_indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, forced: { initial: 16, local: 1024 }"
        ),
    },
    Rule {
        code: Code(526),
        title: "`topk` is no whole number of pools",
        rule: "`pool.size` divides `topk`.",
        why: "pools are picked as a whole, `topk / size` of them.",
        wrong: nope_indexer!(
            "head_dim: 128, topk: 2000, query_input: q_latent, pool: { size: 32, always_select_tail: true }"
        ),
        right: nope_indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, pool: { size: 32, always_select_tail: true }"
        ),
    },
    Rule {
        code: Code(527),
        title: "pooled keys beside what is not defined for them",
        rule: "`pool` goes without a rotary embedding, without `forced` and without `hadamard`.",
        why: "a pooled key is a weighted average over positions, element by element: it has no position of its own to be \
              rotated to, it is picked as a whole, and after a Hadamard matrix the averages are others. No model has these.",
        wrong: nope_indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, hadamard: true, pool: { size: 16, always_select_tail: true }"
        ),
        right: nope_indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, pool: { size: 16, always_select_tail: true }"
        ),
    },
    Rule {
        code: Code(528),
        title: "an indexer without a query latent",
        rule: "`query_input: q_latent` needs `q_lora_rank` and a norm outside of the up projection.",
        why: "the indexer reads the normed query latent. Plain queries have none, and one that is normed inside a projection \
              is seen by that projection alone.",
        wrong: concat!(
            "# no q_lora_rank\n# no linear_q_down_proj\n# no q_layernorm\n# no linear_q_up_proj\n",
            indexer!(
                "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first",
                "  linear_q_proj: ColumnParallelLinear\n"
            )
        ),
        right: concat!(
            "# no q_lora_rank\n# no linear_q_down_proj\n# no q_layernorm\n# no linear_q_up_proj\n",
            indexer!(
                "head_dim: 128, topk: 2048, query_input: hidden, rope_layout: half, split_order: rope_first",
                "  linear_q_proj: ColumnParallelLinear\n"
            )
        ),
    },
    Rule {
        code: Code(529),
        title: "`q_input_norm` of a latent that is normed",
        rule: "`q_input_norm` needs `query_input: hidden`.",
        why: "it norms the layer's input for the indexer's queries; the query latent has its norm already.",
        wrong: indexer!(
            "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first",
            "          q_input_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }\n"
        ),
        right: indexer!(
            "head_dim: 128, topk: 2048, query_input: hidden, rope_layout: half, split_order: rope_first",
            "          q_input_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }\n"
        ),
    },
    Rule {
        code: Code(530),
        title: "weights of an indexer that picks nothing",
        rule: "`SharedIndexer` has no slots, and of the parameters `topk` and `pool` alone.",
        why: "the layer attends to what an earlier one picked; these two say how much that may be.",
        wrong: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer: { module: SharedIndexer, params: { topk: 2048, num_heads: 32 }, submodules: { linear_wk: Linear } }
",
        right: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer: { module: SharedIndexer, params: { topk: 2048 } }
",
    },
    Rule {
        code: Code(531),
        title: "a bias that an indexer doesn't see",
        rule: "`core_attention_bias` goes with `DotProductAttention`.",
        why: "an indexer picks keys by its own scores; the bias would come after the choice that it should have a say in.",
        wrong: concat!(
            "params:\n  core_attention_bias: post_scale_bias\nbuild:\n  phases: [forward]\n",
            indexer!(
                "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
            )
        ),
        right: concat!(
            "build:\n  phases: [forward]\n",
            indexer!(
                "head_dim: 128, topk: 2048, query_input: q_latent, rope_layout: half, split_order: rope_first"
            )
        ),
    },
];
