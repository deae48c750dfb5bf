//! Rules of other systems' options about recomputation. The examples are such options, for [`super::BASE`]'s layer: they meet exactly
//! the code they stand under, which a test sees to.

use super::Rule;
use crate::diagnostic::Code;

/// In the order of the codes.
pub const RULES: &[Rule] = &[
    Rule {
        code: Code(750),
        title: "no option about what is computed again",
        rule: "MaxText's `remat_policy` and the policies of its tensors are read, or Megatron's `recompute_granularity`, \
               `recompute_modules`, `recompute_method` and `recompute_num_layers`, and at least one of them is there",
        why: "a key that is passed over is mostly a misspelt one, whose tensor is then silently computed again",
        wrong: "{ \"query_wb_proj\": \"device\" }",
        right: "{ \"query_wa_proj\": \"device\" }",
    },
    Rule {
        code: Code(751),
        title: "no policy, preset, granularity or module",
        rule: "a tensor's policy is `remat`, `device` or `offload`; presets, granularities and modules are those of the system",
        why: "a guess would keep something else",
        wrong: "{ \"query_proj\": \"host\" }",
        right: "{ \"query_proj\": \"offload\" }",
    },
    Rule {
        code: Code(752),
        title: "options that contradict each other",
        rule: "options are of one system, tensors of one part have one policy, tensors have policies under `remat_policy: custom` \
               alone, modules stand beside `selective`, and methods beside `full`",
        why: "these systems pass over what they don't read. Here a part is kept, computed again or put aside as a whole: keys \
              with values, and the normed latents of queries with those of keys",
        wrong: "{ \"key_proj\": \"device\", \"value_proj\": \"remat\" }",
        right: "{ \"key_proj\": \"device\", \"value_proj\": \"device\" }",
    },
    Rule {
        code: Code(753),
        title: "options for another layer",
        rule: "a module or a tensor whose system refuses it beside such a layer is refused here",
        why: "the options were written for another model",
        wrong: "{ \"indexer_cutoff_threshold\": \"offload\" }",
        right: "{ \"indexer_cutoff_threshold\": \"remat\" }",
    },
    Rule {
        code: Code(754),
        title: "an option that comes to nothing here (warning)",
        rule: "what is to be kept is a tensor that the layer makes and that its backward pass reads",
        why: "the memory that was counted with is free: nothing reads the output projection's output again, the caller keeps the \
              layer's input, and what lies beside attention is not this layer's",
        wrong: "{ \"out_proj\": \"offload\" }",
        right: "{ \"attention_out\": \"offload\" }",
    },
];
