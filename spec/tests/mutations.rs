//! Valid specs, broken at random: the checks never panic, and give a layer exactly if nothing is an error.

use mla_spec::{
    Body, Document, Entry, ModuleSpec, Node, NodeKind, Param, Rope, Scalar, Sources, Span, Spanned,
    Submodule,
};
use proptest::prelude::*;

/// Valid specs of every kind of layer, as differences from the base of the examples.
const VALID: [&str; 16] = [
    "",
    "# no q_lora_rank\n# no linear_q_down_proj\n# no q_layernorm\n# no linear_q_up_proj\n\
     submodules:\n  linear_q_proj: ColumnParallelLinear\n",
    "params:\n  rope: { type: yarn, theta: 10000, layout: half, factor: 40, original_max_position_embeddings: 4096, \
     beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0, truncate: false }\n",
    "# no linear_q_down_proj\n# no linear_kv_down_proj\nsubmodules:\n  linear_qkv_down_proj: { module: Linear, params: { bias: true } }\n\
     \x20 kv_layernorm: IdentityOp\n\
     \x20 linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: LayerNorm, eps: 1.0e-5 } }\n",
    "build:\n  phases: [forward, prefill, decode]\n  dtype: bf16\n  cache: { format: latent_bf16, page_size: 64, rope_layout: half }\n\
     \x20 form: auto\n  expect: { prefill_tokens: 512, prefill_context: 0, decode_tokens: 2, decode_context: 4096 }\n\
     \x20 context_chunk: 256\n  targets: [cpu]\n",
    "# no rope\nparams:\n  qk_rope_head_dim: 0\n  attn_mask_type: padding\nbuild:\n  phases: [forward]\n",
    // masks and logits
    "params:\n  attn_mask_type: padding_causal\n  window_size: [511, 0]\n  bidirectional_blocks: true\n  softmax_scale: 0.1\n\
     \x20 softmax_type: learnable\n  attn_logits_soft_cap: 50.0\n  core_attention_bias: post_scale_bias\n  attention_dropout: 0.1\n\
     \x20 query_scaling: { type: llama4, beta: 0.1, original_max_position_embeddings: 8192, position_offset: 1 }\n\
     build:\n  phases: [forward]\n",
    // scales, gates and norms
    "# no linear_q_up_proj\nparams:\n  q_lora_scale: { factor: hidden_over_rank, at: latent }\n  kv_lora_scale: { factor: 2.0 }\n\
     \x20 attention_output_gate: fused_with_query\n  query_scaling: { type: log_position }\n  attention_chunk_size: 8192\n\
     submodules:\n  input_layernorm: { module: LayerNorm, params: { eps: 1.0e-6 } }\n\
     \x20 kv_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }\n\
     \x20 k_rope_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n  linear_q_gate_proj: ColumnParallelLinear\n\
     build:\n  dtype: bf16\n  cache: { format: mxfp8 }\n",
    // another layer's latents, and a gate of its own
    "# no linear_kv_down_proj\n# no kv_layernorm\nparams:\n  kv_source: shared\n  attention_output_gate: per_head\n  qk_rope_head_dim: 4\n\
     \x20 rope: { type: longrope, theta: 10000, layout: half, short_factor: [1, 1.5], long_factor: [4, 8], \
     original_max_position_embeddings: 4096, attention_factor: 1.19, select: long }\n\
     submodules:\n  linear_gate_proj: { module: ColumnParallelLinear, params: { dtype: f32, bias: true } }\n",
    // sparse attention
    "params:\n  share_kv: true\n  rope: { type: llama3, theta: 500000, layout: half, factor: 8, low_freq_factor: 1, high_freq_factor: 4, \
     original_max_position_embeddings: 8192 }\nsubmodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n\
     \x20     indexer:\n        module: LightningIndexer\n\
     \x20       params: { num_heads: 32, head_dim: 128, topk: 2048, rope_layout: half, split_order: rope_first, query_input: hidden, \
     relu: true, hadamard: true, forced: { initial: 16, local: 64 }, query_scaling: { type: log_position }, share_topk: true }\n\
     \x20       submodules: { linear_wq_b: Linear, linear_wk: Linear, \
     linear_weights_proj: { module: Linear, params: { dtype: f32 } }, k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }, \
     q_input_norm: { module: LayerNorm, params: { eps: 1.0e-6 } } }\n\
     build:\n  dtype: bf16\n  cache: { format: fp8_ds_mla, scale_format: ue8m0, index_format: fp8_ue8m0, page_size: 64 }\n",
    "params:\n  qk_rope_head_dim: 0\n  rope: { type: none }\nsubmodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n\
     \x20     indexer:\n        module: LightningIndexer\n\
     \x20       params: { num_heads: 8, head_dim: 64, topk: 512, query_input: q_latent, relu: false, \
     pool: { size: 16, always_select_tail: true } }\n\
     \x20       submodules: { linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, \
     k_norm: { module: RMSNorm, params: { eps: 1.0e-6 } } }\n",
    "submodules:\n  core_attention: { module: SparseAttention, submodules: { indexer: { module: SharedIndexer, \
     params: { topk: 512, pool: { size: 16, always_select_tail: false } } } } }\nbuild:\n  form: mqa\n",
    "module: SelfAttention\nparams:\n  rotary_dim: 64\n  attention_output_gate: per_element\n  qk_l2_norm: true\n  qk_l2_norm_eps: 1e-6\n",
    "# no linear_qkv\nmodule: SelfAttention\nparams:\n  attention_output_gate: per_head\nsubmodules:\n  linear_q: ColumnParallelLinear\n\
     \x20 linear_kv: ColumnParallelLinear\n  linear_gate_proj: ColumnParallelLinear\n\
     \x20 q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n",
    "module: SelfAttention\nbuild:\n  flash_decode: true\n  cache: { format: naive_bf16, page_size: 16 }\n  dtype: bf16\n",
    "module: CrossAttention\nparams:\n  attn_mask_type: padding\n",
];

fn document(excerpt: &str) -> Document {
    let spec = mla_spec::explain::whole(excerpt);
    mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &spec).expect("a valid spec reads")
}

/// One random change, at the n-th entry or node of the tree.
#[derive(Debug, Clone)]
enum Change {
    Drop(usize),
    Duplicate(usize),
    Rename(usize, String),
    Replace(usize, Node),
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "hidden_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
            "v_head_dim", "attn_mask_type", "rope", "type", "theta", "layout", "factor", "mscale", "mscale_all_dim",
            "attention_factor", "beta_fast", "truncate", "module", "params", "submodules", "eps", "bias", "normalization",
            "linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_qkv_down_proj", "q_layernorm", "core_attention",
            "linear_proj", "indexer", "num_query_groups", "kv_channels", "rotary_dim", "qk_l2_norm", "linear_qkv", "linear_q",
            "k_layernorm", "softmax_scale", "rope_theta", "window_size", "attention_chunk_size", "bidirectional_blocks",
            "softmax_type", "attn_logits_soft_cap", "core_attention_bias", "attention_dropout", "query_scaling", "q_lora_scale",
            "kv_lora_scale", "attention_output_gate", "kv_source", "share_kv", "at", "rank", "dtype", "linear_gate_proj",
            "linear_q_gate_proj", "k_rope_layernorm", "input_layernorm", "num_heads", "head_dim", "topk", "rope_layout", "split_order",
            "query_input", "relu", "hadamard", "forced", "pool", "share_topk", "initial", "size", "always_select_tail",
            "short_factor", "select", "low_freq_factor", "index_format", "scale_format", "flash_decode", "phases", "cache", "format", "page_size", "form", "expect",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        Just(Scalar::Null),
        any::<bool>().prop_map(Scalar::Bool),
        prop::sample::select(vec![
            i64::MIN,
            -1,
            0,
            1,
            2,
            63,
            64,
            1 << 20,
            (1 << 20) + 1,
            i64::from(u32::MAX),
            i64::MAX
        ])
        .prop_map(Scalar::Int),
        prop::sample::select(vec![
            0.0,
            -0.0,
            1e-6,
            1.0,
            0.5,
            1e300,
            f64::MIN_POSITIVE,
            f64::NAN,
            f64::INFINITY,
            -1e9
        ])
        .prop_map(Scalar::Float),
        prop::sample::select(vec![
            "none",
            "plain",
            "linear",
            "yarn",
            "longrope",
            "half",
            "interleaved",
            "causal",
            "no_mask",
            "padding_causal",
            "IdentityOp",
            "RMSNorm",
            "LayerNorm",
            "Linear",
            "ColumnParallelLinear",
            "LayerNormColumnParallelLinear",
            "RowParallelLinear",
            "DotProductAttention",
            "SparseAttention",
            "MLASelfAttention",
            "naive_f32",
            "latent_f64",
            "mqa",
            "mha",
            "f64",
            "decode",
            "train",
            "arbitrary",
            "learnable",
            "post_scale_bias",
            "llama4",
            "log_position",
            "hidden_over_rank",
            "query",
            "per_head",
            "fused_with_query",
            "shared",
            "q_latent",
            "hidden",
            "nope_first",
            "dynamic",
            "LightningIndexer",
            "SharedIndexer",
            "GatedRMSNorm",
            "fp8_ds_mla",
            "fp8_model1",
            "mxfp4",
            "",
        ])
        .prop_map(|word| Scalar::Str(word.to_owned())),
        any::<String>().prop_map(Scalar::Str),
    ]
}

fn value() -> impl Strategy<Value = Node> {
    let leaf = scalar().prop_map(|scalar| Node::scalar(scalar, Span::NONE));
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|nodes| node(NodeKind::Seq(nodes))),
            prop::collection::vec((key(), inner), 0..3).prop_map(|entries| {
                node(NodeKind::Map(
                    entries
                        .into_iter()
                        .map(|(key, value)| entry(key, value))
                        .collect(),
                ))
            }),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..80_usize).prop_map(Change::Drop),
        (0..80_usize).prop_map(Change::Duplicate),
        (0..80_usize, key()).prop_map(|(at, key)| Change::Rename(at, key)),
        (0..80_usize, value()).prop_map(|(at, value)| Change::Replace(at, value)),
    ]
}

fn node(kind: NodeKind) -> Node {
    Node {
        kind,
        span: Span::NONE,
    }
}

fn entry(key: String, value: Node) -> Entry {
    Entry {
        key: Spanned::unplaced(key),
        value,
    }
}

/// Applies a change to the n-th entry in preorder; false where the tree has fewer.
fn apply(entries: &mut Vec<Entry>, change: &Change, left: &mut usize) -> bool {
    let mut index = 0;
    while index < entries.len() {
        if *left == 0 {
            match change {
                Change::Drop(_) => drop(entries.remove(index)),
                Change::Duplicate(_) => entries.push(entries[index].clone()),
                Change::Rename(_, key) => entries[index].key.value.clone_from(key),
                Change::Replace(_, value) => entries[index].value = value.clone(),
            }
            return true;
        }
        *left -= 1;
        if let NodeKind::Map(inner) = &mut entries[index].value.kind
            && apply(inner, change, left)
        {
            return true;
        }
        index += 1;
    }
    false
}

/// The same document as one tree: module, params, submodules, build.
fn to_tree(spec: &ModuleSpec) -> Vec<Entry> {
    let params = spec
        .params
        .iter()
        .map(|param| Entry {
            key: param.key.clone(),
            value: param.value.clone(),
        })
        .collect();
    let submodules = spec
        .submodules
        .iter()
        .map(|submodule| Entry {
            key: submodule.slot.clone(),
            value: node(NodeKind::Map(to_tree(&submodule.spec))),
        })
        .collect();
    vec![
        entry(
            "module".to_owned(),
            Node::scalar(Scalar::Str(spec.module.value.clone()), Span::NONE),
        ),
        entry("params".to_owned(), node(NodeKind::Map(params))),
        entry("submodules".to_owned(), node(NodeKind::Map(submodules))),
    ]
}

/// Back again; what does not fit is left out, as the reader would refuse it.
fn from_tree(entries: &[Entry]) -> ModuleSpec {
    let mut spec = ModuleSpec {
        module: Spanned::unplaced(String::new()),
        params: Vec::new(),
        submodules: Vec::new(),
        span: Span::NONE,
    };
    for Entry { key, value } in entries {
        match (key.value.as_str(), &value.kind) {
            ("module", NodeKind::Scalar(Scalar::Str(name))) => spec.module.value.clone_from(name),
            ("params", NodeKind::Map(params)) => {
                spec.params.extend(params.iter().map(|entry| Param {
                    key: entry.key.clone(),
                    value: entry.value.clone(),
                }));
            }
            ("submodules", NodeKind::Map(slots)) => {
                spec.submodules.extend(slots.iter().filter_map(|entry| {
                    let filled = match &entry.value.kind {
                        NodeKind::Map(inner) => from_tree(inner),
                        NodeKind::Scalar(Scalar::Str(name)) => ModuleSpec {
                            module: Spanned::unplaced(name.clone()),
                            ..from_tree(&[])
                        },
                        _ => return None,
                    };
                    Some(Submodule {
                        slot: entry.key.clone(),
                        spec: filled,
                    })
                }));
            }
            _ => {}
        }
    }
    spec
}

fn changed(document: &Document, changes: &[Change]) -> Document {
    let Body::Layer(spec) = &document.body else {
        return document.clone();
    };
    let mut tree = to_tree(spec);
    if let Some(build) = &document.build {
        tree.push(entry("build".to_owned(), build.clone()));
    }
    for change in changes {
        let (Change::Drop(at)
        | Change::Duplicate(at)
        | Change::Rename(at, _)
        | Change::Replace(at, _)) = change;
        apply(&mut tree, change, &mut at.clone());
    }
    let build = tree
        .iter()
        .find(|entry| entry.key.value == "build")
        .map(|entry| entry.value.clone());
    Document {
        body: Body::Layer(from_tree(&tree)),
        build,
        ..document.clone()
    }
}

#[test]
fn the_specs_are_valid_and_survive_the_round_trip() {
    for excerpt in VALID {
        let document = document(excerpt);
        let (checked, diagnostics) = mla_spec::check(&document);
        assert!(
            checked.is_some() && diagnostics.is_empty(),
            "{diagnostics:?}"
        );
        assert_eq!(changed(&document, &[]), document);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_comes_out_exactly_if_nothing_is_an_error(
        which in 0..VALID.len(),
        name in prop_oneof![3 => Just("Layer".to_owned()), 1 => any::<String>()],
        changes in prop::collection::vec(change(), 0..4),
    ) {
        let mut document = changed(&document(VALID[which]), &changes);
        document.name.value = name;
        let (checked, diagnostics) = mla_spec::check(&document);
        prop_assert_eq!(checked.is_some(), !diagnostics.has_errors());
        if let Some(checked) = checked {
            let layer = checked.layer;
            prop_assert!(layer.softmax_scale().is_finite() && layer.softmax_scale() > 0.0);
            if let Rope::Rotary(rotary) = &layer.rope {
                let frequencies = rotary.inv_freq(layer.rotated_dim());
                prop_assert!(frequencies.iter().all(|frequency| frequency.is_finite() && *frequency > 0.0));
                prop_assert!(rotary.cos_sin_factor() > 0.0);
            }
            prop_assert!(!checked.build.phases.is_empty() && !checked.build.targets.is_empty());
        }
    }
}
