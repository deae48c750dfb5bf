//! Rules of masks and logits.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(501),
        title: "a mask that is said otherwise",
        rule: "windows, chunks and blocks are keys beside a mask; `causal_bottom_right` is `causal` where queries and keys \
              are of one sequence.",
        why: "one mask would have two names. Where there are as many keys as queries, the last query stands at the last key \
              anyway; prefill and decode put new tokens behind the cached ones.",
        wrong: r"params:
  attn_mask_type: causal_bottom_right
",
        right: r"params:
  attn_mask_type: causal
",
    },
    Rule {
        code: Code(502),
        title: "a mask that can't be cached",
        rule: "`no_mask` and `padding` go with the phases `forward` and `train` alone.",
        why: "where a token sees later ones, its output changes with every token that arrives; what \
              was cached would be out of date, and chunked would differ from one shot.",
        wrong: r"params:
  attn_mask_type: no_mask
build:
  phases: [forward, decode]
",
        right: r"params:
  attn_mask_type: no_mask
build:
  phases: [forward]
",
    },
    Rule {
        code: Code(503),
        title: "a window that doesn't fit the mask",
        rule: "a window leaves more than the query itself and hides something; in a causal mask it ends at the query: \
              `[left, 0]`.",
        why: "a right bound of a causal mask would be ignored, a window without bounds changes nothing, and `[0, 0]` is \
              mostly a window of one too few: other systems count the query itself.",
        wrong: r"params:
  window_size: [511, 64]
",
        right: r"params:
  window_size: [511, 0]
",
    },
    Rule {
        code: Code(504),
        title: "a window and a chunk",
        rule: "`window_size` and `attention_chunk_size` exclude each other.",
        why: "both bound how far back a query sees; no model has both.",
        wrong: r"params:
  window_size: [511, 0]
  attention_chunk_size: 8192
",
        right: r"params:
  attention_chunk_size: 8192
",
    },
    Rule {
        code: Code(505),
        title: "a key that the mask leaves nothing to",
        rule: "`arbitrary` takes no window, chunk or blocks; `no_mask` and `padding` take blocks only beside a bound.",
        why: "an arbitrary mask already says of every key whether it is seen, and without a mask blocks already see each \
              other.",
        wrong: r"params:
  attn_mask_type: arbitrary
  window_size: [511, 0]
build:
  phases: [forward]
",
        right: r"params:
  attn_mask_type: arbitrary
build:
  phases: [forward]
",
    },
    Rule {
        code: Code(506),
        title: "an input that caches have no place for",
        rule: "`arbitrary` and `core_attention_bias` go with the phases `forward` and `train` alone.",
        why: "they are inputs with a row per query and a column per key. Over caches every request of a batch has a width of \
              its own, its past included.",
        wrong: r"params:
  core_attention_bias: post_scale_bias
",
        right: r"params:
  core_attention_bias: post_scale_bias
build:
  phases: [forward]
",
    },
    Rule {
        code: Code(507),
        title: "dropout without `train` or `forward`",
        rule: "`attention_dropout` above 0 needs the phase `train` or `forward`.",
        why: "probabilities are dropped in training, and prefill and decode don't train.",
        wrong: r"params:
  attention_dropout: 0.1
build:
  phases: [prefill, decode]
",
        right: r"params:
  attention_dropout: 0.1
build:
  phases: [forward, prefill, decode]
",
    },
    Rule {
        code: Code(510),
        title: "two softmax scales",
        rule: "`softmax_scale` goes with `mscale_all_dim: 0` or another rope than YaRN.",
        why: "`mscale_all_dim` corrects the scale that follows from the head dims; a stated scale replaces that one, and \
              systems disagree on whether it is then corrected.",
        wrong: r"params:
  softmax_scale: 0.0721688
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0 }
",
        right: r"params:
  softmax_scale: 0.135234
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 0.0 }
",
    },
];
