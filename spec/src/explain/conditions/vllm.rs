//! vLLM.

use super::{Condition, met, never, refused};

const OWN_KERNELS: &str =
    "kernels are generated for the layer's own sizes; there is no list of supported ones";
const NO_PARALLEL: &str = "a spec has no parallel sizes; `build` refuses them by name";

#[rustfmt::skip] // a table: one condition a paragraph
pub(super) const CONDITIONS: &[Condition] = &[
    refused("1", "a query rank without the modules of the low-rank path",
        "# no linear_q_down_proj\n# no q_layernorm\n# no linear_q_up_proj\nsubmodules:\n  linear_q_proj: ColumnParallelLinear\n"),
    refused("1b", "plain queries without a projection",
        "# no q_lora_rank\n# no linear_q_down_proj\n# no q_layernorm\n# no linear_q_up_proj\nsubmodules:\n  linear_proj: RowParallelLinear\n"),
    refused("1c", "a sparse core whose indexer doesn't say how many keys it picks",
        "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        params: { num_heads: 8, head_dim: 128, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true }\n        submodules: { linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } } }\n"),
    refused("1d", "a sparse core without an indexer",
        "submodules:\n  core_attention: SparseAttention\n"),
    never("2", "heads that the tensor parallel size doesn't divide", NO_PARALLEL),
    met("2b", "picked keys handed to a layer that doesn't take them", "the argument exists only in layers whose indexer is shared or sharing"),
    met("3", "an up projection of another shape", "refused while it is loaded, with both shapes"),
    refused("4", "position scaling without its constants",
        "params:\n  query_scaling: { type: llama4, beta: 0.1 }\n"),
    refused("4b", "position scaling under another system's name",
        "params:\n  llama_4_scaling: { original_max_position_embeddings: 8192, beta: 0.1 }\n"),
    never("5", "a backend of another attention, a duplicated layer name", "a layer is a type with its own cache; there is no registry of backends"),
    refused("5b", "latents shared with a layer that has some of its own",
        "params:\n  kv_source: shared\n"),
    never("6", "fused output quantisation with unfitting groups", "outputs are not quantised"),
    met("7", "lengths that a captured graph or a uniform kernel can't take", "`prefill` and `decode` take ragged batches"),
    refused("8", "a workspace of no rows",
        "build:\n  cache: { format: latent_bf16 }\n  form: mha\n  context_chunk: 0\n"),
    refused("8b", "slopes of ALiBi, which every backend refuses",
        "params:\n  alibi_slopes: [1.0]\n"),
    never("8c", "a sliding window or a soft cap, which every backend refuses", "both are of the language, and every form has them"),
    never("9", "a page size, dtype or architecture outside a backend's list", OWN_KERNELS),
    never("10", "latents of another width than 512 and 64", OWN_KERNELS),
    never("11", "ragged decode that needs a log-sum-exp", "every attention of the runtime returns it"),
    refused("12", "an fp8 cache in a type of arithmetic that can't read it",
        "build:\n  dtype: f64\n  cache: { format: latent_fp8_e4m3, page_size: 64 }\n"),
    never("13", "several tokens per request with unequal lengths", "`prefill` and `decode` take any ragged batch"),
    never("14", "head dims outside a backend's triple", OWN_KERNELS),
    refused("15", "cached values of an unknown type",
        "build:\n  cache: { format: auto }\n"),
    never("16", "head dims outside a prefill backend's list", OWN_KERNELS),
    refused("17", "the sparse kernel's cache format where latents aren't blocks of 128",
        "params:\n  kv_lora_rank: 96\nbuild:\n  cache: { format: fp8_ds_mla, scale_format: f32, page_size: 64 }\n"),
    never("18", "a top-k or rank outside a sparse backend's list", OWN_KERNELS),
    never("19", "an fp8 query split for a sparse backend", "queries are not quantised"),
    refused("20", "an indexer's keys in an unknown format",
        "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        params: { num_heads: 8, head_dim: 128, topk: 64, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true }\n        submodules: { linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } } }\nbuild:\n  cache: { format: latent_bf16, page_size: 64, index_format: int8 }\n"),
    refused("20b", "an indexer's head that its quantised format can't hold",
        "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        params: { num_heads: 8, head_dim: 80, topk: 64, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true }\n        submodules: { linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } } }\nbuild:\n  cache: { format: latent_bf16, page_size: 64, index_format: mxfp4 }\n"),
    met("21", "picked positions of another type, or more than the cache has", "a `Selection` is checked when it is made; positions that are not visible are not attended to"),
    never("22", "decode context parallel sizes that don't fit", NO_PARALLEL),
];
