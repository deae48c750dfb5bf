//! Rules of names, sizes and parameters.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(101),
        title: "a key that nothing reads",
        rule: "every key of a mapping must be one that the module, the slot or the section knows, and \
              stand there once.",
        why: "an option that is accepted and then ignored gives another layer than the one described. \
              The vocabulary is closed, so a misspelt key can't vanish.",
        wrong: r"params:
  v_head_dim: 128
  v_head_dims: 128
",
        right: r"params:
  v_head_dim: 128
",
    },
    Rule {
        code: Code(102),
        title: "a required key is missing",
        rule: "the sizes, the mask and the keys of the chosen rope must all be written.",
        why: "nothing that changes numbers has a default: other systems' defaults for the same key \
              differ from each other by entry point.",
        wrong: r"# no v_head_dim
params:
  hidden_size: 2048
",
        right: r"params:
  hidden_size: 2048
  v_head_dim: 128
",
    },
    Rule {
        code: Code(103),
        title: "a value of the wrong kind",
        rule: "a size is an integer, a switch is `true` or `false`, a choice is a word, `phases`, \
              `targets`, `recompute` and `offload` are lists.",
        why: "a value that is converted silently, such as `128.0` or `\"128\"`, hides what a \
              checkpoint's config really said.",
        wrong: r#"params:
  v_head_dim: "128"
"#,
        right: r"params:
  v_head_dim: 128
",
    },
    Rule {
        code: Code(104),
        title: "an integer out of bounds",
        rule: "sizes lie between 1 and 1048576 (`qk_rope_head_dim` may be 0), pages and lengths within \
              bounds of their own.",
        why: "a size of 0 makes an empty tensor, and a huge one is a total where a size per head was \
              wanted. The bounds keep every product within the integers that generated code uses.",
        wrong: r"params:
  kv_lora_rank: 0
",
        right: r"params:
  kv_lora_rank: 512
",
    },
    Rule {
        code: Code(105),
        title: "a layer too large",
        rule: "heads times the size per head, of queries, of keys with values and of latents, must be at most 16777216.",
        why: "each size is plausible by itself and the product is not: mostly a total such as \
              `num_attention_heads * head_dim` was given per head.",
        wrong: r"params:
  num_attention_heads: 65536
  qk_nope_head_dim: 8192
",
        right: r"params:
  num_attention_heads: 64
  qk_nope_head_dim: 128
",
    },
    Rule {
        code: Code(106),
        title: "`qk_rope_head_dim` must be even",
        rule: "the rotated part of a head has an even number of elements, or none.",
        why: "rope turns pairs of elements; one element alone has no partner.",
        wrong: r"params:
  qk_rope_head_dim: 63
",
        right: r"params:
  qk_rope_head_dim: 64
",
    },
    Rule {
        code: Code(107),
        title: "`q_lora_rank` is neither a rank nor absent",
        rule: "plain queries are described by leaving `q_lora_rank` out, not by `null`, `0` or `none`.",
        why: "systems spell the absent rank in four ways, and each misreads the others' spelling. Here \
              there is one.",
        wrong: r"params:
  q_lora_rank: null
",
        right: r"params:
  q_lora_rank: 768
",
    },
    Rule {
        code: Code(108),
        title: "an option of another system, of a later release or of another place",
        rule: "options of other systems, options that this release lacks and keys of this language in the wrong mapping \
               are refused by name, each with what to write instead.",
        why: "many such options are accepted beside latent attention elsewhere and then ignored (`query_pre_attn_scalar`, \
              `add_qkv_bias`, `no_rope_freq`), or mean two things (`qk_head_dim`, `rotary_percent`). Here an option \
              changes the generated code or is an error.",
        wrong: r"params:
  query_pre_attn_scalar: 128
",
        right: r"params:
  softmax_scale: 0.0883883
",
    },
    Rule {
        code: Code(109),
        title: "the name is no Rust type's name",
        rule: "`name` is an upper camel case identifier: an ASCII capital, then ASCII letters and \
              digits, at most 64.",
        why: "the name becomes a type in generated code and part of file names. Anything else could \
              not be compiled, or could smuggle code into it.",
        wrong: r"name: my_attention
",
        right: r"name: MyAttention
",
    },
    Rule {
        code: Code(110),
        title: "the name is taken",
        rule: "a layer can't be called like the prelude's types or those that generated code uses.",
        why: "the layer would hide the other type in its own module.",
        wrong: r"name: Linear
",
        right: r"name: LinearAttention
",
    },
    Rule {
        code: Code(111),
        title: "a word that is no choice",
        rule: "masks, gates, softmax and rope types, layouts, norms, phases, dtypes, cache formats, forms, targets and parts to recompute are \
              words of fixed lists.",
        why: "guessing the nearest word would describe a layer that nobody wrote.",
        wrong: r"params:
  attn_mask_type: casual
",
        right: r"params:
  attn_mask_type: causal
",
    },
    Rule {
        code: Code(112),
        title: "a number out of bounds",
        rule: "scales, soft caps, factors, thresholds and coefficients are greater than 0, `attention_dropout` is at least 0 and less \
               than 1, `qk_clip.alpha` between 0 and 1.",
        why: "a cap of 0 divides by zero, a scale of 0 or below forgets or reverses what queries ask for, and with a dropout \
              of 1 nothing is left.",
        wrong: r"params:
  attn_logits_soft_cap: 0.0
",
        right: r"params:
  attn_logits_soft_cap: 50.0
",
    },
    Rule {
        code: Code(113),
        title: "a list of the wrong length",
        rule: "`window_size` is `[left, right]`.",
        why: "one number alone is counted with the query by some systems and without it by others.",
        wrong: r"params:
  window_size: [512]
",
        right: r"params:
  window_size: [511, 0]
",
    },
];
