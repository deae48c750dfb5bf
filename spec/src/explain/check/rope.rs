//! Rules of rope.

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
        rule: "`mrope` is known, but this release can't generate it.",
        why: "its tokens have several positions each, and rotating by one of them alone gives other numbers.",
        wrong: r"params:
  rope: { type: mrope, theta: 10000.0, layout: half }
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
        rule: "`mscale`, `mscale_all_dim`, the betas and `truncate` belong to `yarn`, the frequency factors to `llama3`, the \
              lists of factors and `select` to `longrope`, and so on: a type has its own keys alone.",
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
        rule: "`theta` is greater than 1, `factor` at least 1, the betas, `attention_factor` and every factor of a list \
              greater than 0, `mscale` and `mscale_all_dim` at least 0.",
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
        code: Code(410),
        title: "`low_freq_factor` not below `high_freq_factor`",
        rule: "`low_freq_factor` is less than `high_freq_factor`.",
        why: "wavelengths above the original context over `low_freq_factor` are stretched, those below it over \
              `high_freq_factor` are kept; swapped or equal, the blend between divides by zero or runs backwards.",
        wrong: r"params:
  rope: { type: llama3, theta: 500000.0, layout: half, factor: 8.0, low_freq_factor: 4.0, high_freq_factor: 1.0,
          original_max_position_embeddings: 8192 }
",
        right: r"params:
  rope: { type: llama3, theta: 500000.0, layout: half, factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0,
          original_max_position_embeddings: 8192 }
",
    },
    Rule {
        code: Code(411),
        title: "not one factor for each pair",
        rule: "`short_factor` and `long_factor` have half as many entries as elements are rotated.",
        why: "each pair's frequency is divided by its own factor; a list of another length belongs to another model.",
        wrong: r"params:
  qk_rope_head_dim: 4
  rope: { type: longrope, theta: 10000.0, layout: half, short_factor: [1.0, 1.0, 1.0], long_factor: [1.0, 4.0],
          original_max_position_embeddings: 4096, attention_factor: 1.19, select: long }
",
        right: r"params:
  qk_rope_head_dim: 4
  rope: { type: longrope, theta: 10000.0, layout: half, short_factor: [1.0, 1.0], long_factor: [1.0, 4.0],
          original_max_position_embeddings: 4096, attention_factor: 1.19, select: long }
",
    },
    Rule {
        code: Code(412),
        title: "frequencies that change under a cache (warning)",
        rule: "with `type: dynamic`, or `longrope` with `select: by_length`, a long call differs from the same tokens in \
               steps.",
        why: "the frequencies follow the longest position of a call, and keys in a cache keep those that they were rotated \
              at. Other systems do the same; it is legal, and no step equals the whole any more.",
        wrong: r"params:
  rope: { type: dynamic, theta: 10000.0, layout: half, factor: 2.0, max_position_embeddings: 4096 }
",
        right: r"params:
  rope: { type: dynamic, theta: 10000.0, layout: half, factor: 2.0, max_position_embeddings: 4096 }
build:
  phases: [forward]
",
    },
];
