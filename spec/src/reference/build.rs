//! `build`: how a layer is computed.

use super::{Given, Key, Section, Value, Word, formula, key, word};

/// The parts whose values a backward pass needs.
const ACTIVATIONS: &[Word] = &[
    word("input_layernorm", "The normed input."),
    word(
        "q_down_proj",
        "The raw query latent; with `linear_qkv_down_proj`, all that it makes.",
    ),
    word(
        "kv_down_proj",
        "The raw key-value latent and the shared rope key.",
    ),
    word(
        "layernorm",
        "Normed latents, a normed rope key, normed heads.",
    ),
    word("q_up_proj", "A latent layer's queries, rotated and scaled."),
    word(
        "kv_up_proj",
        "Every head's key and value, or absorbed queries.",
    ),
    word("mla_up_proj", "`q_up_proj` and `kv_up_proj`."),
    word(
        "qkv_proj",
        "Queries, keys and values of `SelfAttention` and `CrossAttention`.",
    ),
    word("core_attn", "Attention's output and log-sum-exp."),
];

static EXPECT: Section = Section {
    about: "Lengths at which the cheaper form is chosen, in tokens per request.",
    groups: &[&[
        key(
            "prefill_tokens",
            Value::Tokens,
            Given::Default("2048"),
            "New tokens of a prefill.",
        )
        .detail("Also of a `forward` and of a training step."),
        key(
            "prefill_context",
            Value::Tokens,
            Given::Default("0"),
            "Tokens already cached at a prefill.",
        ),
        key(
            "decode_tokens",
            Value::Tokens,
            Given::Default("1"),
            "New tokens of a decode step.",
        ),
        key(
            "decode_context",
            Value::Tokens,
            Given::Default("4096"),
            "Tokens already cached at a decode step.",
        ),
    ]],
};

static CACHE: Section = Section {
    about: "What prefill and decode keep of past tokens.",
    groups: &[&[
        key(
            "format",
            Value::Words(&[
                word("latent_f32", "Latents and the shared key, as numbers: 4 (r_kv + d_r) bytes per token."),
                word("latent_bf16", "The same in bf16: 2 (r_kv + d_r) bytes."),
                word("latent_f16", "The same in f16: 2 (r_kv + d_r) bytes."),
                word("latent_f64", "The same in f64, for proofs: 8 (r_kv + d_r) bytes."),
                formula(
                    "latent_fp8_e4m3",
                    "A byte per element, the shared key included, and one scale for the whole cache, 1 or what `with_k_scale` gives while it is empty: r_kv + d_r bytes.",
                    "value = e4m3 · scale",
                ),
                formula(
                    "latent_fp8_e5m2",
                    "The same in e5m2.",
                    "value = e5m2 · scale",
                ),
                formula(
                    "fp8_ds_mla",
                    "FlashMLA's layout of DeepSeek-V3.2: r_kv codes of e4m3, a scale of f32 per 128 of them, the shared key in bf16: \
                     656 bytes for r_kv = 512 and d_r = 64.",
                    "value = e4m3 · scale of its 128;  scale = amax / 448, or the next power of two",
                ),
                formula(
                    "fp8_model1",
                    "FlashMLA's MODEL1 layout: codes of e4m3, a power-of-two scale per 64 of them behind each block's data, the shared key in \
                     bf16: 584 bytes for r_kv = 448 and d_r = 64.",
                    "value = e4m3 · 2^(scale - 127)",
                ),
                formula(
                    "mxfp8",
                    "Codes of e4m3, the shared key's too, and a power-of-two scale per 32 of them: 528 bytes for r_kv = 448 and d_r = 64.",
                    "value = e4m3 · 2^(scale - 127)",
                ),
                word(
                    "naive_f32",
                    "Every head's key and value: 4 H (d_n + d_r + d_v) bytes per token, or 8 G d in `SelfAttention`.",
                ),
                word("naive_bf16", "The same in bf16."),
                word("naive_f16", "The same in f16."),
                word("naive_f64", "The same in f64, for proofs."),
            ]),
            Given::Optional,
            "What is kept, the latents or every head's keys and values, and how. Default: latents in `dtype`.",
        )
        .detail("`SelfAttention` keeps keys and values, so `naive_` is its only kind and its default. The chapter on caches has more.")
        .example("build:\n  cache: { format: latent_bf16, page_size: 64 }\n")
        .source("vLLM's and FlashMLA's cache formats."),
        key(
            "scale_format",
            Value::Words(&[
                word("f32", "Any f32."),
                word("ue8m0", "Rounded up to a power of two."),
            ]),
            Given::When("with `format: fp8_ds_mla`, and required there"),
            "How `fp8_ds_mla` rounds its scales: not at all, or up to powers of two.",
        )
        .source("DeepSeek-V3.2's reference code (`scale_fmt`)."),
        key(
            "index_format",
            Value::Words(&[
                word("f32", "As numbers."),
                word("bf16", "As numbers."),
                word("f16", "As numbers."),
                word("f64", "As numbers, for proofs."),
                word(
                    "fp8",
                    "e4m3 with a scale of f32 per 128 elements, behind each block's data: 132 bytes for d_i = 128.",
                ),
                word("fp8_ue8m0", "The same, the scale a power of two."),
                word(
                    "mxfp4",
                    "e2m1 with a power-of-two scale per 32 elements: 68 bytes for d_i = 128.",
                ),
            ]),
            Given::When("with an indexer of the layer's own"),
            "How an indexer's keys are kept. Default: in the type of the latents.",
        ),
        key(
            "index_queries",
            Value::Words(&[
                word("numbers", "As they are."),
                word(
                    "as_keys",
                    "Rounded as `index_format` rounds keys, so that scores are products of codes.",
                ),
            ]),
            Given::When("with an indexer of the layer's own; `as_keys` with an `index_format` that is quantised"),
            "What an indexer's queries are when they meet cached keys. Default: `numbers`.",
        )
        .detail("Scores over a cache take half as long on a Hopper GPU where both are codes of e4m3. `forward` reads no cache and rounds nothing.")
        .source("DeepSeek-V3.2's reference code and vLLM, which always round them."),
        key(
            "page_size",
            Value::Size(1),
            Given::Optional,
            "Tokens per page. Leave it out for a contiguous cache.",
        )
        .detail("A request's tokens lie in the pages that its list of blocks names. A contiguous cache has one block for each request."),
        key(
            "rope_layout",
            Value::Words(&[
                word("interleaved", "Pairs of neighbours: vLLM's and FlashMLA's caches."),
                word("half", "Pairs half a part away: Megatron's, MaxText's and transformers' caches."),
            ]),
            Given::Optional,
            "Order of the cached rope key's elements. Default: the layer's own.",
        )
        .detail("For a cache that another system reads or writes. Queries are put in the same order, so that results stay the same."),
    ]],
};

const KEYS: &[Key] = &[
    key(
        "phases",
        Value::List(&[
            word("forward", "Whole sequences, no cache."),
            word("prefill", "New tokens of a ragged batch over a cache, planned for many of each request."),
            word("decode", "The same, planned for few of each request."),
            word(
                "mixed",
                "The same, each request in the form that is the cheaper one for it. Wants a dense layer, a cache of latents and `form: auto`.",
            ),
            word("train", "Whole sequences, forward and backward."),
        ]),
        Given::Default("[forward, prefill, decode]"),
        "Functions to emit.",
    ),
    key(
        "dtype",
        Value::Words(&[
            word("f32", "IEEE binary32."),
            word("bf16", "bfloat16, accumulated in f32."),
            word("f64", "IEEE binary64, for proofs."),
        ]),
        Given::Default("f32"),
        "Type of arithmetic and of weights in memory.",
    )
    .detail("It is the default type parameter of the generated layer, which is generic over its backend."),
    key(
        "cache",
        Value::Table(&CACHE),
        Given::When("with a phase that has a cache: `prefill`, `decode` or `mixed`"),
        "What prefill and decode keep of past tokens.",
    ),
    key(
        "form",
        Value::Words(&[
            word("auto", "In each phase the one that costs less at the lengths in `expect`."),
            formula(
                "mha",
                "Expanded: keys and values are made for each head from the latent.",
                "2 (d_n + d_r + d_v) FLOP per query, key and head, and making keys and values",
            ),
            formula(
                "mqa",
                "Absorbed: queries meet the latent itself, one key-value head for all.",
                "2 (2 r_kv + d_r) FLOP per query, key and head",
            ),
        ]),
        Given::Default("auto"),
        "Form of attention: computed per phase, expanded, or absorbed.",
    )
    .detail("Both compute the same. `mla-gen show` says which was chosen and why.")
    .source("DeepSeek-V2, arXiv:2405.04434, section 2.1 (absorption)."),
    key(
        "expect",
        Value::Table(&EXPECT),
        Given::When("with `form: auto`"),
        "Lengths at which the cheaper form is chosen, in tokens per request.",
    ),
    key(
        "context_chunk",
        Value::Size(1),
        Given::Default("32768"),
        "Cached tokens expanded at a time.",
    )
    .detail(
        "Where a phase in the expanded form meets a cache of latents, keys and values of so many cached tokens are in memory at once; \
         chunks are merged by their log-sum-exp.",
    ),
    key(
        "flash_decode",
        Value::Switch,
        Given::Default("false"),
        "SelfAttention: rotate, cache and attend in one op at decode.",
    )
    .source("Megatron-Core's `flash_decode`."),
    key(
        "recompute",
        Value::List(ACTIVATIONS),
        Given::When("with the phase `train`"),
        "What `train` computes again in its backward pass instead of keeping it.",
    )
    .detail("Gradients are the same to the bit, whatever is listed. `mla-gen show SPEC --budget BYTES` finds the cheapest list.")
    .example("build:\n  phases: [train]\n  recompute: [layernorm, mla_up_proj]\n")
    .source("Megatron-Core's `recompute_modules`; MaxText's `remat_policy`."),
    key(
        "offload",
        Value::List(ACTIVATIONS),
        Given::When("with the phase `train`"),
        "What `train` keeps in the host's memory until its backward pass. On a CPU that is the device's.",
    )
    .source("Megatron-Core's `fine_grained_activation_offloading`."),
    key(
        "fold",
        Value::List(&[formula(
            "input_projections",
            "Projections of the layer's input stand in one matrix: the input is read once.",
            "[W_1; W_2] x = [W_1 x; W_2 x]",
        )]),
        Given::Optional,
        "Weights that are combined when they are loaded: `input_projections` puts projections of the layer's input into one matrix. Not \
         beside `train`.",
    ),
    key(
        "weights",
        Value::Words(&[
            word("numbers", "In `dtype`. Codes of a checkpoint are multiplied by their scales when they are loaded."),
            formula(
                "fp8_blocks",
                "e4m3 codes, and a scale of f32 for each block of 64 rows and 128 columns: half the bytes of bf16. Not beside `train`.",
                "weight = e4m3 · scale of its block",
            ),
        ]),
        Given::Default("numbers"),
        "How the weights of projections lie in memory.",
    )
    .detail(
        "Products multiply the layer's own numbers by widened weights; what they read is not quantised. An fp8 checkpoint's blocks keep their codes and \
         scales exactly, other checkpoints are rounded when they are loaded. Always numbers are `linear_kv_up_proj`, of which absorbed attention \
         multiplies by parts, head weights of an indexer and gates of heads that are computed in f32, and norms.",
    )
    .example("build:\n  dtype: bf16\n  weights: fp8_blocks\n")
    .source("DeepSeek-V3's released weights: `weight` in e4m3 and `weight_scale_inv`, one for 128 rows and 128 columns."),
    key(
        "targets",
        Value::List(&[
            word("cpu", "Any CPU that Rust compiles for."),
            word("sm_80", "NVIDIA A100."),
            word("sm_86", "NVIDIA A10, RTX 30."),
            word("sm_89", "NVIDIA L4, L40, RTX 40."),
            word("sm_90a", "NVIDIA H100, H200, with Hopper's own instructions."),
            word("sm_100", "NVIDIA B200."),
            word("sm_120", "NVIDIA RTX 50."),
        ]),
        Given::Default("[cpu]"),
        "What the layer is built for: with a GPU's architecture its CUDA kernels are generated too.",
    ),
];

/// How a layer is computed.
pub(crate) static BUILD: Section = Section {
    about: "How the layer is computed. Nothing here changes the mathematics.",
    groups: &[KEYS],
};
