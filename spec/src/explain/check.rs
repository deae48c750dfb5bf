//! Rules of the `check` stage.

use super::Rule;
use crate::diagnostic::Code;

/// In the order of the codes.
pub const RULES: &[Rule] = &[
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
        rule: "a size is an integer, a switch is `true` or `false`, a choice is a word, `phases` and \
              `targets` are lists.",
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
        rule: "heads times the size per head, of queries and of keys with values, must be at most \
              16777216 rows.",
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
        title: "an option of another system",
        rule: "options of other systems that this language lacks are refused by name, each with what to \
              write instead.",
        why: "many of them are accepted beside latent attention elsewhere and then ignored \
              (`softmax_scale`, `add_qkv_bias`, `no_rope_freq`), or mean two things (`qk_head_dim`, \
              `rotary_percent`). Here an option changes the generated code or is an error.",
        wrong: r"params:
  softmax_scale: 0.1
",
        right: r"params:
  v_head_dim: 128
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
        rule: "masks, rope types, layouts, norms, phases, dtypes, cache formats, forms and targets are \
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
        code: Code(201),
        title: "no such module",
        rule: "`module` and the slots name modules of this language.",
        why: "modules of other systems differ in their parameters even where they share a name.",
        wrong: r"submodules:
  linear_proj: RowLinear
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(202),
        title: "a module of another release",
        rule: "this module is known but this release can't generate it.",
        why: "generating a near relative instead would be a different layer.",
        wrong: r"submodules:
  core_attention: SparseAttention
",
        right: r"submodules:
  core_attention: DotProductAttention
",
    },
    Rule {
        code: Code(203),
        title: "no such slot",
        rule: "`submodules` fills the slots of `MLASelfAttention`, each once, under Megatron-Core's \
              names.",
        why: "a module in a slot that nobody reads would be left out of the layer.",
        wrong: r"# no linear_proj
submodules:
  o_proj: RowParallelLinear
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(204),
        title: "a slot is empty",
        rule: "every slot of the layer's form must be filled.",
        why: "which projections a layer has decides which weights it loads.",
        wrong: r"# no linear_kv_up_proj
submodules:
  linear_proj: RowParallelLinear
",
        right: r"submodules:
  linear_kv_up_proj: ColumnParallelLinear
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(205),
        title: "the module doesn't fit the slot",
        rule: "down projections are `Linear`, `linear_q_proj` is `ColumnParallelLinear`, up projections \
              are `ColumnParallelLinear` or `LayerNormColumnParallelLinear`, `linear_proj` is \
              `RowParallelLinear`.",
        why: "the module says how a projection may be split over devices. A down projection is never \
              split, since its latent is normed whole.",
        wrong: r"submodules:
  linear_kv_down_proj: ColumnParallelLinear
",
        right: r"submodules:
  linear_kv_down_proj: Linear
",
    },
    Rule {
        code: Code(206),
        title: "queries are made twice",
        rule: "either `linear_q_proj` or the low-rank slots make the queries.",
        why: "only one of them could be used; the other's weights would be loaded for nothing.",
        wrong: r"submodules:
  linear_q_proj: ColumnParallelLinear
",
        right: r"submodules:
  linear_q_up_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(207),
        title: "`q_lora_rank` and the slots disagree",
        rule: "with `q_lora_rank` queries need the low-rank slots, without it `linear_q_proj`.",
        why: "the rank and the slots are two statements about the same weights, and no system agrees \
              with another on which one wins.",
        wrong: r"# no q_lora_rank
# no q_layernorm
params:
  v_head_dim: 128
",
        right: r"params:
  q_lora_rank: 768
",
    },
    Rule {
        code: Code(208),
        title: "two down projections for one latent",
        rule: "`linear_qkv_down_proj` replaces `linear_q_down_proj` and `linear_kv_down_proj`.",
        why: "the fused projection already holds the rows of both.",
        wrong: r"submodules:
  linear_qkv_down_proj: Linear
",
        right: r"# no linear_q_down_proj
# no linear_kv_down_proj
submodules:
  linear_qkv_down_proj: Linear
",
    },
    Rule {
        code: Code(209),
        title: "a fused down projection without `q_lora_rank`",
        rule: "`linear_qkv_down_proj` needs low-rank queries.",
        why: "with plain queries there is no query latent, so nothing to fuse.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
# no linear_kv_down_proj
submodules:
  linear_qkv_down_proj: Linear
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
  linear_kv_down_proj: Linear
",
    },
    Rule {
        code: Code(210),
        title: "a norm of the hidden state",
        rule: "`LayerNormColumnParallelLinear` can't fill `linear_q_proj` or a down projection.",
        why: "it would add a trainable norm over the hidden state that no published checkpoint has; a \
              training framework once did so by itself, and its models had weights that could not be \
              exported.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(211),
        title: "a bias where no checkpoint has one",
        rule: "only the down projections and `linear_proj` may have a bias.",
        why: "`attention_bias` elsewhere reaches exactly these. Absorbing the up projection into \
              queries and outputs relies on its having none.",
        wrong: r"submodules:
  linear_kv_up_proj: { module: ColumnParallelLinear, params: { bias: true } }
",
        right: r"submodules:
  linear_kv_down_proj: { module: Linear, params: { bias: true } }
",
    },
    Rule {
        code: Code(212),
        title: "submodules of a module that has none",
        rule: "linear, norm and core modules are whole: they have no slots.",
        why: "what stands there would be ignored.",
        wrong: r"submodules:
  linear_proj: { module: RowParallelLinear, submodules: { norm: RMSNorm } }
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(213),
        title: "a slot of another release",
        rule: "this slot is known but this release can't generate it.",
        why: "leaving it out would be a different layer.",
        wrong: r"submodules:
  g_proj: ColumnParallelLinear
",
        right: r"submodules:
  linear_proj: RowParallelLinear
",
    },
    Rule {
        code: Code(301),
        title: "`eps` is missing",
        rule: "every norm states its `eps`.",
        why: "checkpoints and configs disagree: many models' latent norms use 1e-6 whatever \
              `rms_norm_eps` says, and frameworks default to 1e-5.",
        wrong: r"submodules:
  kv_layernorm: RMSNorm
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(302),
        title: "`eps` out of bounds",
        rule: "`eps` is greater than 0 and less than 0.1.",
        why: "an `eps` of 0 divides by zero on a zero row, a large one is mostly a misplaced sign in \
              its exponent.",
        wrong: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e+6 } }
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(303),
        title: "a latent normed twice",
        rule: "a latent has its norm in the norm slot or inside the up projection, not in both.",
        why: "two norms are two sets of weights, and checkpoints have one.",
        wrong: r"submodules:
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(304),
        title: "`q_layernorm` without a query latent",
        rule: "`q_layernorm` needs `q_lora_rank`.",
        why: "it norms the query latent, which plain queries don't have.",
        wrong: r"# no q_lora_rank
# no linear_q_down_proj
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
",
        right: r"# no q_lora_rank
# no linear_q_down_proj
# no q_layernorm
# no linear_q_up_proj
submodules:
  linear_q_proj: ColumnParallelLinear
",
    },
    Rule {
        code: Code(305),
        title: "parameters of `IdentityOp`",
        rule: "`IdentityOp` takes no parameters.",
        why: "elsewhere it accepts any and ignores them, so that a norm which was meant to be there is \
              silently absent.",
        wrong: r"submodules:
  kv_layernorm: { module: IdentityOp, params: { eps: 1.0e-6 } }
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(306),
        title: "`normalization` is missing",
        rule: "`LayerNormColumnParallelLinear` says which norm it fuses: `RMSNorm` or `LayerNorm`.",
        why: "in spite of its name it mostly holds an RMSNorm, and the two differ in numbers and in \
              weights.",
        wrong: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { eps: 1.0e-6 } }
",
        right: r"submodules:
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(307),
        title: "a norm slot is missing",
        rule: "the norm slot of each latent is written, as `IdentityOp` where it holds no norm.",
        why: "elsewhere the norms are off unless a switch is set, and models were trained without them \
              by accident.",
        wrong: r"# no kv_layernorm
submodules:
  linear_kv_up_proj: ColumnParallelLinear
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
    Rule {
        code: Code(308),
        title: "the key-value latent is not normed (warning)",
        rule: "a key-value latent has a norm, in its slot or inside the up projection.",
        why: "a layer without one is legal, but no published checkpoint is made so.",
        wrong: r"submodules:
  kv_layernorm: IdentityOp
",
        right: r"submodules:
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
    },
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
    Rule {
        code: Code(601),
        title: "a phase of another release",
        rule: "training is known, but this release can't generate it.",
        why: "a forward function without its backward is no training phase.",
        wrong: r"build:
  phases: [forward, train]
",
        right: r"build:
  phases: [forward]
",
    },
    Rule {
        code: Code(602),
        title: "an empty list",
        rule: "`phases` and `targets` list at least one choice.",
        why: "nothing would be generated. An absent key means its default.",
        wrong: r"build:
  phases: []
",
        right: r"build:
  phases: [forward]
",
    },
    Rule {
        code: Code(603),
        title: "a choice listed twice",
        rule: "each phase and each target is listed once.",
        why: "the second would be ignored, or generated twice under one name.",
        wrong: r"build:
  phases: [forward, forward]
",
        right: r"build:
  phases: [forward]
",
    },
    Rule {
        code: Code(604),
        title: "a build key that nothing reads",
        rule: "`cache` and `context_chunk` need `prefill` or `decode`, the lengths in `expect` the \
              phases that they describe and a form that is not forced, `context_chunk` a latent cache \
              that some phase may expand.",
        why: "a key that has no effect is mostly a sign that another one is wrong.",
        wrong: r"build:
  phases: [forward]
  cache: { format: latent_bf16 }
",
        right: r"build:
  phases: [prefill, decode]
  dtype: bf16
  cache: { format: latent_bf16 }
",
    },
    Rule {
        code: Code(605),
        title: "a cache format of another release",
        rule: "quantised caches are known, but this release can't generate them.",
        why: "formats of the same name differ between systems byte by byte.",
        wrong: r"build:
  cache: { format: fp8_ds_mla }
",
        right: r"build:
  dtype: bf16
  cache: { format: latent_bf16 }
",
    },
    Rule {
        code: Code(606),
        title: "the absorbed form over a naive cache",
        rule: "`form: mqa` needs a `latent_*` cache.",
        why: "absorbed queries meet the latent itself, and a naive cache holds expanded keys and \
              values only.",
        wrong: r"build:
  form: mqa
  cache: { format: naive_f32 }
",
        right: r"build:
  form: mha
  cache: { format: naive_f32 }
",
    },
    Rule {
        code: Code(607),
        title: "`rope_layout` of a cache without rotated keys",
        rule: "`cache.rope_layout` needs a rotary embedding.",
        why: "it says in which order rotated keys are kept, and this layer rotates none.",
        wrong: r"params:
  rope: { type: none }
build:
  cache: { format: latent_f32, rope_layout: half }
",
        right: r"build:
  cache: { format: latent_f32, rope_layout: half }
",
    },
    Rule {
        code: Code(608),
        title: "a target of another release",
        rule: "this release generates code for `cpu`.",
        why: "a target decides on kernels, not on numbers, but a missing kernel can't be made up.",
        wrong: r"build:
  targets: [cpu, sm_90a]
",
        right: r"build:
  targets: [cpu]
",
    },
    Rule {
        code: Code(609),
        title: "a cache wider than its values (warning)",
        rule: "the cache's type is no wider than `dtype`.",
        why: "the values were rounded to `dtype` before they are stored: the wider cache costs memory \
              and adds no digit.",
        wrong: r"build:
  dtype: bf16
  cache: { format: latent_f32 }
",
        right: r"build:
  dtype: bf16
  cache: { format: latent_bf16 }
",
    },
    Rule {
        code: Code(610),
        title: "a type of arithmetic of another release",
        rule: "arithmetic is `f32`, `bf16` or, for proofs, `f64`.",
        why: "f16 overflows at 65504 in unnormed activations, and quantised arithmetic needs scales \
              that a spec can't state yet. Weights stored in f16 load into either type.",
        wrong: r"build:
  dtype: f16
",
        right: r"build:
  dtype: bf16
",
    },
];

#[cfg(test)]
mod tests {
    use super::RULES;
    use crate::diagnostic::{Code, Diagnostics, Severity};
    use crate::explain::{BASE, whole};
    use crate::span::Sources;

    fn diagnostics(spec: &str) -> Diagnostics {
        let mut sources = Sources::default();
        let document =
            crate::read::yaml(&mut sources, "example.yaml", spec).expect("an example reads");
        let (checked, diagnostics) = crate::check(&document);
        assert_eq!(checked.is_some(), !diagnostics.has_errors());
        diagnostics
    }

    #[test]
    fn the_base_is_valid() {
        assert!(diagnostics(BASE).is_empty());
    }

    #[test]
    fn each_wrong_example_breaks_its_rule_alone() {
        for rule in RULES {
            let codes: Vec<Code> = diagnostics(&whole(rule.wrong))
                .iter()
                .map(|found| found.code)
                .collect();
            assert!(
                !codes.is_empty() && codes.iter().all(|code| *code == rule.code),
                "{}: {codes:?}",
                rule.code
            );
        }
    }

    #[test]
    fn each_right_example_passes() {
        for rule in RULES {
            assert!(diagnostics(&whole(rule.right)).is_empty(), "{}", rule.code);
        }
    }

    #[test]
    fn warnings_say_so() {
        for rule in RULES {
            let warns = diagnostics(&whole(rule.wrong))
                .iter()
                .all(|found| found.severity == Severity::Warning);
            assert_eq!(warns, rule.title.ends_with("(warning)"), "{}", rule.code);
        }
    }
}
