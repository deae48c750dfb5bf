//! FlashMLA, DeepGEMM, transformers, DeepSeek's reference, mistral.rs.

use super::{Condition, met, never, refused};

const OWN_KERNELS: &str =
    "kernels are generated for the layer's own sizes; there is no list of supported ones";

#[rustfmt::skip] // a table: one condition a paragraph
pub(super) const CONDITIONS: &[Condition] = &[
    never("1", "dense decode of other widths, pages or types than the kernel's", OWN_KERNELS),
    never("2", "sparse decode of other widths or heads than the kernel's", OWN_KERNELS),
    refused("2b", "no key picked at all",
        "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        params: { num_heads: 8, head_dim: 128, topk: 0, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true }\n        submodules: { linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } } }\n"),
    never("3", "sparse prefill of other widths or heads than the kernel's", OWN_KERNELS),
    never("4", "scheduler metadata of another batch", "every call plans its own work"),
    met("5", "a layer that shares another's picked keys and gets none", "`TopK::get` refuses an empty buffer or one of another number of rows"),
    refused("5b", "a list of sources of the wrong length",
        "model:\n  topk_source: [0, 1, 1]\n"),
    refused("5d", "a source that runs later",
        "model:\n  topk_source: [0, 1, 3, 1]\n"),
    refused("5e", "a source without anything of its own to share",
        "model:\n  topk_source: [0, 1, 0, 1]\n"),
    refused("5c", "an indexer's head shorter than the rotated part",
        "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        params: { num_heads: 8, head_dim: 32, topk: 64, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true }\n        submodules: { linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } } }\n"),
    refused("5f", "a length of heads beside the parts that make it",
        "params:\n  head_dim: 192\n"),
    refused("5g", "key-value heads that are fewer than the heads",
        "params:\n  num_key_value_heads: 1\n"),
    never("6", "ranks that disagree on the picked keys", "ties go to the lowest position, so equal scores give equal keys everywhere"),
    never("7", "decode of one token only, or rope types that are not built", "`decode` takes any number of tokens; every rope type of the language is generated"),
];
