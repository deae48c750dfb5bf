//! Rules of an indexer's queries over a cache.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[Rule {
    code: Code(628),
    title: "queries rounded as keys that are not",
    rule: "`index_queries: as_keys` needs a `LightningIndexer` and an `index_format` of `fp8`, `fp8_ue8m0` or `mxfp4`.",
    why: "queries take the keys' format, so that scores are products of codes; keys that are kept as numbers are rounded to none.",
    wrong: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 128, topk: 2048, relu: true, query_input: q_latent,
                  rope_layout: half, split_order: rope_first }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  dtype: bf16
  cache: { format: latent_bf16, page_size: 64, index_queries: as_keys }
",
    right: r"submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 32, head_dim: 128, topk: 2048, relu: true, query_input: q_latent,
                  rope_layout: half, split_order: rope_first }
        submodules:
          linear_wq_b: Linear
          linear_wk: Linear
          linear_weights_proj: Linear
          k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
build:
  dtype: bf16
  cache: { format: latent_bf16, page_size: 64, index_format: fp8, index_queries: as_keys }
",
}];
