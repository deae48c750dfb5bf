//! The generator of random specs covers the language.

use mla_spec::read::tokens::{self, Door};
use mla_spec::{Body, Document, ModuleSpec, Node, NodeKind, Param, Scalar, Sources};
use mla_tests::random_spec::{checked, document, yaml};

#[test]
fn every_random_spec_is_valid() {
    for seed in 0..2000 {
        checked(seed);
    }
}

#[test]
fn every_random_spec_is_the_same_in_rust() {
    for seed in 0..500 {
        let wanted = document(seed);
        let (arguments, structure) = in_rust(&wanted);
        let what = format!("seed {seed}: #[mla_layer({arguments})] {structure}");
        let arguments = arguments.parse().expect("tokens");
        let structure =
            syn::parse_str(&structure).unwrap_or_else(|error| panic!("{what}: {error}"));
        match tokens::attribute(arguments, &structure, &mut Sources::default()).read {
            Ok(Door::Document(found)) => assert_eq!(found, wanted, "{what}"),
            Ok(Door::Spec { .. }) => panic!("{what} names no file"),
            Err(diagnostics) => panic!("{what}: {diagnostics:#?}"),
        }
    }
}

/// A layer's arguments and its struct.
fn in_rust(document: &Document) -> (String, String) {
    let Body::Layer(layer) = &document.body else {
        panic!("{} is a layer", document.name.value);
    };
    let mut arguments = vec![
        format!("module = {}", layer.module.value),
        "mla = 1".to_owned(),
    ];
    arguments.extend(layer.params.iter().map(argument));
    if let Some(build) = &document.build {
        arguments.push(entry("build", build));
    }
    let fields = layer.submodules.iter().map(|submodule| {
        let (slot, spec) = (&submodule.slot.value, &submodule.spec);
        let mut inside: Vec<String> = spec.params.iter().map(argument).collect();
        inside.extend(submodules(spec));
        format!(
            "#[mla({})] {slot}: {},",
            inside.join(", "),
            spec.module.value
        )
    });
    let fields: String = fields.collect();
    let structure = format!("struct {} {{ {fields} }}", document.name.value);
    (arguments.join(", "), structure)
}

/// `submodules(..)`, if there are any.
fn submodules(spec: &ModuleSpec) -> Option<String> {
    let all = spec.submodules.iter().map(|submodule| {
        let (slot, spec) = (&submodule.slot.value, &submodule.spec);
        let mut inside = vec![format!("module = {}", spec.module.value)];
        if !spec.params.is_empty() {
            let params: Vec<String> = spec.params.iter().map(argument).collect();
            inside.push(format!("params({})", params.join(", ")));
        }
        inside.extend(submodules(spec));
        format!("{slot}({})", inside.join(", "))
    });
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| format!("submodules({})", all.join(", ")))
}

fn argument(param: &Param) -> String {
    entry(&param.key.value, &param.value)
}

fn entry(key: &str, value: &Node) -> String {
    match &value.kind {
        NodeKind::Map(entries) => {
            let all = entries
                .iter()
                .map(|inner| entry(&inner.key.value, &inner.value));
            format!("{key}({})", all.collect::<Vec<_>>().join(", "))
        }
        NodeKind::Seq(_) | NodeKind::Scalar(_) => format!("{key} = {}", plain(value)),
    }
}

/// A list or a scalar.
fn plain(value: &Node) -> String {
    match &value.kind {
        NodeKind::Seq(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        NodeKind::Scalar(Scalar::Bool(value)) => value.to_string(),
        NodeKind::Scalar(Scalar::Int(value)) => value.to_string(),
        NodeKind::Scalar(Scalar::Float(value)) => format!("{value:?}"),
        NodeKind::Scalar(Scalar::Str(word)) if syn::parse_str::<syn::Ident>(word).is_ok() => {
            word.clone()
        }
        NodeKind::Scalar(Scalar::Str(word)) => format!("{word:?}"),
        other => panic!("{other:?} has no spelling here"),
    }
}

#[test]
fn every_choice_of_the_language_occurs() {
    let all: String = (0..1000).map(yaml).collect();
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
        "fold: [input_projections]",
        "weights: fp8_blocks",
        "decode_tokens",
        "window_size: [3, 0]",
        "window_size: [-1, 1]",
        "attention_chunk_size",
        "attn_logits_soft_cap",
        "softmax_type: off-by-one",
        "softmax_type: learnable",
        "softmax_scale: 0.0884",
        "attention_dropout",
        "type: llama4",
        "\n  query_scaling: { type: log_position }",
        "topk: 4, rope_layout: half, split_order: nope_first, query_input: hidden",
        "query_input: q_latent",
        "relu: false",
        "hadamard: true",
        "relu: true, query_scaling: { type: log_position }",
        "forced: { initial: 1",
        "forced: { initial: 0",
        "always_select_tail: true",
        "always_select_tail: false",
        "share_topk: true",
        "q_input_norm: { module: LayerNorm",
        "linear_weights_proj: { module: Linear, params: { dtype: f32 } }",
        "index_format: bf16",
        "kv_lora_scale: { factor: hidden_over_rank }",
        "factor: 0.75, at: latent",
        "factor: 2, at: query",
        "attention_output_gate: per_head",
        "attention_output_gate: per_element",
        "attention_output_gate: fused_with_query",
        "linear_gate_proj: { module: ColumnParallelLinear, params: { dtype: f32, bias: true } }",
        "input_layernorm: { module: GatedRMSNorm",
        "q_layernorm: { module: GatedRMSNorm",
        "kv_layernorm: { module: GatedRMSNorm",
        "k_rope_layernorm: { module: GatedRMSNorm",
        "k_rope_layernorm: { module: RMSNorm",
        "type: llama3",
        "select: long",
        "select: by_length",
        "type: dynamic",
        "module: SelfAttention",
        "linear_qkv: ColumnParallelLinear",
        "linear_q: { module: ColumnParallelLinear, params: { bias: true } }",
        "linear_kv: ColumnParallelLinear",
        "num_query_groups: 1\n",
        "num_query_groups: 3\n",
        "rotary_dim: 4",
        "qk_l2_norm: true",
        "  k_layernorm: { module: LayerNorm",
        "flash_decode: true",
        "phases: [train]",
        "phases: [forward, prefill, decode, train]",
        "phases: [decode, train]",
        "qk_clip: { threshold: 0.02, alpha: 0.25 }",
        "loss: { stage: dense",
        "loss: { stage: sparse",
        "reduction: sum, epsilon: add",
        "reduction: mean_valid, epsilon: clamp",
        "recompute: [input_layernorm",
        "recompute: [q_down_proj",
        "recompute: [mla_up_proj",
        "recompute: [qkv_proj",
        "offload: [layernorm",
        "offload: [q_up_proj, kv_up_proj",
    ] {
        assert!(all.contains(word), "no spec has `{word}`");
    }
}
