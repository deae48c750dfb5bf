//! Rules of rope and masks.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(401),
        title: "`rope` is missing",
        rule: "with `qk_rope_head_dim` above 0, `rope` says how that part is rotated, or `{ type: none \
              }` that it isn't.",
        why: "some models keep the rope part in weights and cache and never rotate it; only the spec \
              can tell them from those that do.",
        wrong: r"# no rope
params:
  qk_rope_head_dim: 64
",
        right: r"params:
  rope: { type: plain, theta: 10000.0, layout: interleaved }
",
    },
    Rule {
        code: Code(402),
        title: "`rope` without dims to rotate",
        rule: "with `qk_rope_head_dim: 0`, `rope` is absent or `{ type: none }`.",
        why: "its frequencies would be computed for nothing.",
        wrong: r"params:
  qk_rope_head_dim: 0
",
        right: r"params:
  qk_rope_head_dim: 0
  rope: { type: none }
",
    },
    Rule {
        code: Code(403),
        title: "a rope type of another release",
        rule: "`longrope`, `llama3` and `dynamic` are known, but this release can't generate them.",
        why: "some systems treat any scaled rope as YaRN, which silently gives other frequencies.",
        wrong: r"params:
  rope: { type: longrope, theta: 10000.0, layout: half }
",
        right: r"params:
  rope: { type: plain, theta: 10000.0, layout: half }
",
    },
    Rule {
        code: Code(404),
        title: "`layout` is missing",
        rule: "every rotary embedding states its `layout`: `interleaved` or `half`.",
        why: "checkpoints come in both, most configs don't say which, and the wrong one gives wrong \
              numbers without any error.",
        wrong: r"params:
  rope: { type: plain, theta: 10000.0 }
",
        right: r"params:
  rope: { type: plain, theta: 10000.0, layout: interleaved }
",
    },
    Rule {
        code: Code(405),
        title: "a key of another rope type",
        rule: "`mscale`, `mscale_all_dim`, `attention_factor`, the betas, `truncate` and the original \
              length belong to `yarn`, `factor` to `linear` and `yarn`.",
        why: "elsewhere an `mscale` beside plain rope still changes the softmax scale, by accident.",
        wrong: r"params:
  rope: { type: plain, theta: 10000.0, layout: interleaved, mscale: 1.0 }
",
        right: r"params:
  rope: { type: plain, theta: 10000.0, layout: interleaved }
",
    },
    Rule {
        code: Code(406),
        title: "yarn needs `mscale` or `attention_factor`",
        rule: "exactly one of `mscale` and `attention_factor` says what cos and sin are multiplied by.",
        why: "with `mscale` it is a ratio of two magnitudes, with `attention_factor` a constant; where \
              neither is given, systems disagree by up to 37 %.",
        wrong: r"params:
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale_all_dim: 1.0 }
",
        right: r"params:
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0 }
",
    },
    Rule {
        code: Code(407),
        title: "yarn needs `mscale_all_dim`",
        rule: "`mscale_all_dim` is written, 0 where the softmax scale is left alone.",
        why: "it multiplies the softmax scale; systems without this field use `mscale` or nothing in \
              its place.",
        wrong: r"params:
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0 }
",
        right: r"params:
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0 }
",
    },
    Rule {
        code: Code(408),
        title: "a number of `rope` out of bounds",
        rule: "`theta` is greater than 1, `factor` at least 1, the betas and `attention_factor` greater \
              than 0, `mscale` and `mscale_all_dim` at least 0.",
        why: "outside of these bounds frequencies or magnitudes are infinite, negative or no numbers.",
        wrong: r"params:
  rope: { type: linear, theta: 10000.0, layout: interleaved, factor: 0.5 }
",
        right: r"params:
  rope: { type: linear, theta: 10000.0, layout: interleaved, factor: 2.0 }
",
    },
    Rule {
        code: Code(409),
        title: "`beta_fast` below `beta_slow`",
        rule: "`beta_fast` is at least `beta_slow`.",
        why: "frequencies that turn more often than `beta_fast` over the original context are kept, \
              those below `beta_slow` are stretched; swapped, the ramp between runs backwards.",
        wrong: r"params:
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 1, beta_slow: 32, mscale: 1.0, mscale_all_dim: 1.0 }
",
        right: r"params:
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0 }
",
    },
    Rule {
        code: Code(501),
        title: "a mask of another release",
        rule: "`arbitrary`, `causal_bottom_right` and windows are known, but this release can't \
              generate them.",
        why: "a nearby mask would compute something else.",
        wrong: r"params:
  attn_mask_type: arbitrary
",
        right: r"params:
  attn_mask_type: causal
",
    },
    Rule {
        code: Code(502),
        title: "a mask that can't be cached",
        rule: "`no_mask` and `padding` go with `phases: [forward]` alone.",
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
];
