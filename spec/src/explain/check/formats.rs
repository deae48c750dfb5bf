//! Rules of caches and their formats.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(611),
        title: "sparse attention over expanded keys",
        rule: "over a cache, `SparseAttention` is computed in the absorbed form, from a `latent_*` cache or a quantised one.",
        why: "what was picked differs from query to query, so that every picked latent would be expanded for every query anew; a naive \
              cache holds no latents at all. `form: mha` remains for `forward`.",
        wrong: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer: { module: SharedIndexer, params: { topk: 2048 } }
build:
  form: mha
",
        right: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer: { module: SharedIndexer, params: { topk: 2048 } }
build:
  form: mqa
",
    },
    Rule {
        code: Code(612),
        title: "latents that a format's groups don't divide",
        rule: "`fp8_ds_mla` needs a `kv_lora_rank` that 128 divides, `fp8_model1` one that 64 divides, `mxfp8` a `kv_lora_rank` and a \
              `qk_rope_head_dim` that 32 divides.",
        why: "so many elements share a scale; a group that is left incomplete, or belongs to latent and rope key at once, has no place \
              in the format.",
        wrong: r"params:
  kv_lora_rank: 320
build:
  dtype: bf16
  cache: { format: fp8_ds_mla, scale_format: ue8m0 }
",
        right: r"params:
  kv_lora_rank: 384
build:
  dtype: bf16
  cache: { format: fp8_ds_mla, scale_format: ue8m0 }
",
    },
    Rule {
        code: Code(613),
        title: "a format of pages without pages",
        rule: "`fp8_model1`, and an `index_format` of `fp8`, `fp8_ue8m0` or `mxfp4`, need `page_size`.",
        why: "these formats keep all of a page's scales behind its data.",
        wrong: r"build:
  dtype: bf16
  cache: { format: fp8_model1 }
",
        right: r"build:
  dtype: bf16
  cache: { format: fp8_model1, page_size: 64 }
",
    },
    Rule {
        code: Code(614),
        title: "`scale_format` that nothing reads",
        rule: "`scale_format` needs `format: fp8_ds_mla`.",
        why: "the other formats have no scales per group, or only powers of two. Scales of an indexer's keys are part of `index_format`.",
        wrong: r"build:
  dtype: bf16
  cache: { format: mxfp8, scale_format: ue8m0 }
",
        right: r"build:
  dtype: bf16
  cache: { format: mxfp8 }
",
    },
    Rule {
        code: Code(615),
        title: "`scale_format` is missing",
        rule: "`fp8_ds_mla` states its `scale_format`: `f32` or `ue8m0`.",
        why: "readers take any scale, writers disagree: a cache written by one that rounds scales up to powers of two holds other bytes.",
        wrong: r"build:
  dtype: bf16
  cache: { format: fp8_ds_mla }
",
        right: r"build:
  dtype: bf16
  cache: { format: fp8_ds_mla, scale_format: ue8m0 }
",
    },
    Rule {
        code: Code(616),
        title: "`index_format` that nothing reads",
        rule: "`index_format` needs a `LightningIndexer`.",
        why: "it says how an indexer's keys are kept, and only a layer that picks has any.",
        wrong: r"build:
  cache: { format: latent_f32, index_format: bf16 }
",
        right: r"build:
  cache: { format: latent_f32 }
",
    },
    Rule {
        code: Code(617),
        title: "an indexer's keys that its format doesn't hold",
        rule: "`fp8` and `fp8_ue8m0` store keys of at most 128 elements, or of a multiple of 128; `mxfp4` of a multiple of 32; \
              none stores pooled keys.",
        why: "so many elements share a scale. Pooled keys are kept unpooled, with their gates.",
        wrong: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 80, topk: 2048, relu: true, query_input: q_latent,
                  rope_layout: half, split_order: rope_first }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  dtype: bf16
  cache: { format: latent_bf16, page_size: 64, index_format: mxfp4 }
",
        right: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 96, topk: 2048, relu: true, query_input: q_latent,
                  rope_layout: half, split_order: rope_first }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  dtype: bf16
  cache: { format: latent_bf16, page_size: 64, index_format: mxfp4 }
",
    },
    Rule {
        code: Code(618),
        title: "a quantised cache for proofs",
        rule: "`dtype: f64` goes with caches of plain numbers.",
        why: "f64 is there to prove that forms agree to the last digits; 8 bits leave three of them.",
        wrong: r"build:
  dtype: f64
  cache: { format: latent_fp8_e4m3 }
",
        right: r"build:
  dtype: f64
  cache: { format: latent_f64 }
",
    },
    Rule {
        code: Code(619),
        title: "`flash_decode` over latents",
        rule: "`flash_decode` is for `SelfAttention`.",
        why: "it rotates a step's keys, writes them and attends as one op over keys and values of heads; a latent cache holds neither.",
        wrong: r"build:
  flash_decode: true
",
        right: r"build:
  form: mqa
",
    },
    Rule {
        code: Code(620),
        title: "shared latents in an expanded cache",
        rule: "a layer with `kv_source: shared` or `share_kv: true` has a latent cache.",
        why: "one layer reads what another has cached, and each expands it with weights of its own.",
        wrong: r"params:
  share_kv: true
build:
  cache: { format: naive_f32 }
",
        right: r"params:
  share_kv: true
build:
  cache: { format: latent_f32 }
",
    },
    Rule {
        code: Code(621),
        title: "pools that pages split",
        rule: "`pool.size` divides `page_size`.",
        why: "a pool's key is kept in the page that holds its tokens, and pages stand anywhere.",
        wrong: r"params:
  rope: { type: none }
submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 128, topk: 2048, relu: true, query_input: q_latent,
                  pool: { size: 16, always_select_tail: true } }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  cache: { format: latent_f32, page_size: 40 }
",
        right: r"params:
  rope: { type: none }
submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 128, topk: 2048, relu: true, query_input: q_latent,
                  pool: { size: 16, always_select_tail: true } }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  cache: { format: latent_f32, page_size: 48 }
",
    },
];
