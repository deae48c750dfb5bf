//! The generator of random specs covers the language.

use mla_tests::random_spec::{checked, yaml};

#[test]
fn every_random_spec_is_valid() {
    for seed in 0..2000 {
        checked(seed);
    }
}

#[test]
fn every_choice_of_the_language_occurs() {
    let all: String = (0..300).map(yaml).collect();
    for word in [
        "linear_q_proj",
        "linear_qkv_down_proj",
        "LayerNormColumnParallelLinear",
        "IdentityOp\n  linear_kv_up_proj: ColumnParallelLinear",
        "module: LayerNorm,",
        "module: RMSNorm,",
        "type: none",
        "type: plain",
        "type: linear",
        "type: yarn",
        "layout: half",
        "layout: interleaved",
        "attention_factor",
        "truncate: false",
        "bias: true",
        "padding_causal",
        "mask_type: padding\n",
        "no_mask",
        "qk_rope_head_dim: 0",
        "phases: [forward]",
        "phases: [decode]",
        "phases: [prefill]",
        "naive_f32",
        "latent_bf16",
        "latent_f16",
        "page_size: 1",
        "rope_layout: half",
        "form: mqa",
        "form: mha",
        "form: auto",
        "dtype: bf16",
        "dtype: f64",
        "context_chunk: 1",
        "decode_tokens",
    ] {
        assert!(all.contains(word), "no spec has `{word}`");
    }
}
