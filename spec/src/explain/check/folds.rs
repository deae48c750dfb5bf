//! Rules of weights that are combined when they are loaded.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(625),
        title: "nothing to fold",
        rule: "`fold: [input_projections]` is for layers with two or more projections of their input that make latents, an indexer's keys or its \
               weights, without a bias and in the layer's own type. In a model's own `build` it counts for the layers that have them.",
        why: "they become one matrix. A single one already is, and queries and keys in heads would have to be copied out of its result.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
build:
  fold: [input_projections]
",
        right: r"build:
  fold: [input_projections]
",
    },
    Rule {
        code: Code(626),
        title: "folded weights in training",
        rule: "`fold` and the phase `train` exclude each other.",
        why: "weights are folded once, when they are loaded; training changes each of them and writes it back.",
        wrong: r"build:
  phases: [forward, train]
  fold: [input_projections]
",
        right: r"build:
  phases: [forward]
  fold: [input_projections]
",
    },
    Rule {
        code: Code(627),
        title: "a product that saves nothing",
        rule: "`fold` names steps that save a product or a pass over memory.",
        why: "the product of two projections is larger than both: of a head's W_UQ and W_UK it has r_q · r_kv numbers instead of \
              d_n (r_q + r_kv), 786432 instead of 262144 in DeepSeek-V3. A norm's weight, the softmax scale and the order of rope's pairs \
              cost nothing where they are.",
        wrong: r"build:
  fold: [q_up_kv_up]
",
        right: r"build:
  fold: [input_projections]
",
    },
];
