//! The schema of the `build` section.

use serde_json::Value;

use super::{closed, described, list, size, switch, tokens, words};

/// The parts whose values a backward pass needs; `mla_up_proj` is both up projections.
const ACTIVATIONS: [&str; 9] = [
    "input_layernorm",
    "q_down_proj",
    "kv_down_proj",
    "layernorm",
    "q_up_proj",
    "kv_up_proj",
    "mla_up_proj",
    "qkv_proj",
    "core_attn",
];

pub(super) fn build() -> Value {
    described(
        "How the layer is computed. Nothing here changes the mathematics.",
        closed(
            [
                (
                    "phases",
                    list(
                        &["forward", "prefill", "decode", "mixed", "train"],
                        "Functions to emit. Default: `forward`, `prefill` and `decode`.",
                    ),
                ),
                (
                    "dtype",
                    words(
                        &["f32", "bf16", "f64"],
                        "Type of arithmetic and of weights in memory. Default: f32.",
                    ),
                ),
                ("cache", cache()),
                (
                    "form",
                    words(
                        &["auto", "mha", "mqa"],
                        "Form of attention: computed per phase, expanded, or absorbed. Default: auto.",
                    ),
                ),
                (
                    "expect",
                    described(
                        "Lengths at which the cheaper form is chosen, in tokens per request.",
                        closed(
                            [
                                ("prefill_tokens", tokens("New tokens of a prefill.")),
                                (
                                    "prefill_context",
                                    tokens("Tokens already cached at a prefill."),
                                ),
                                ("decode_tokens", tokens("New tokens of a decode step.")),
                                (
                                    "decode_context",
                                    tokens("Tokens already cached at a decode step."),
                                ),
                            ],
                            &[],
                        ),
                    ),
                ),
                (
                    "context_chunk",
                    size("Cached tokens expanded at a time. Default: 32768."),
                ),
                (
                    "flash_decode",
                    switch(
                        "SelfAttention: rotate, cache and attend in one op at decode. Default: false.",
                    ),
                ),
                (
                    "recompute",
                    list(
                        &ACTIVATIONS,
                        "What `train` computes again in its backward pass instead of keeping it.",
                    ),
                ),
                (
                    "offload",
                    list(
                        &ACTIVATIONS,
                        "What `train` keeps in the host's memory until its backward pass. On a CPU that is the device's.",
                    ),
                ),
                (
                    "fold",
                    list(
                        &["input_projections"],
                        "Weights that are combined when they are loaded: `input_projections` puts projections of the layer's input into one matrix. Not beside `train`.",
                    ),
                ),
                (
                    "targets",
                    list(
                        &[
                            "cpu", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120",
                        ],
                        "What the layer is built for: with a GPU's architecture its CUDA kernels are generated too. Default: cpu.",
                    ),
                ),
            ],
            &[],
        ),
    )
}

fn cache() -> Value {
    let formats = [
        "latent_f32",
        "latent_bf16",
        "latent_f16",
        "latent_f64",
        "latent_fp8_e4m3",
        "latent_fp8_e5m2",
        "fp8_ds_mla",
        "fp8_model1",
        "mxfp8",
        "naive_f32",
        "naive_bf16",
        "naive_f16",
        "naive_f64",
    ];
    described(
        "What prefill and decode keep of past tokens.",
        closed(
            [
                (
                    "format",
                    words(
                        &formats,
                        "What is kept, the latents or every head's keys and values, and how. Default: latents in `dtype`.",
                    ),
                ),
                (
                    "scale_format",
                    words(
                        &["f32", "ue8m0"],
                        "How `fp8_ds_mla` rounds its scales: not at all, or up to powers of two.",
                    ),
                ),
                (
                    "index_format",
                    words(
                        &["f32", "bf16", "f16", "f64", "fp8", "fp8_ue8m0", "mxfp4"],
                        "How an indexer's keys are kept. Default: in the type of the latents.",
                    ),
                ),
                (
                    "page_size",
                    size("Tokens per page. Leave it out for a contiguous cache."),
                ),
                (
                    "rope_layout",
                    words(
                        &["interleaved", "half"],
                        "Order of the cached rope key's elements. Default: the layer's own.",
                    ),
                ),
            ],
            &[],
        ),
    )
}
