//! What `SelfAttention` and `CrossAttention` can say, and the layer that each saying becomes.

use mla_spec::explain::whole;
use mla_spec::{
    CacheDType, CacheKind, Checked, Core, Cross, Gate, GateGranularity, GateSource, Grouped,
    HeadNorms, Layer, MaskKind, NormKind, NormParams, Projections, QkvProjection, QueryScaling,
    Rope, RopeScaling, Sink, Sources, Store, Window,
};

/// The layer of an excerpt (see [`whole`]), which must be accepted without a word.
fn accepted(module: &str, excerpt: &str) -> Checked {
    let (absent, rest): (Vec<_>, Vec<_>) = excerpt.lines().partition(|line| line.starts_with('#'));
    let text = whole(&format!(
        "{}\nmodule: {module}\n{}\n",
        absent.join("\n"),
        rest.join("\n")
    ));
    let document = mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (checked, found) = mla_spec::check(&document);
    assert!(found.is_empty(), "{found}\n{text}");
    checked.expect("a spec without errors is a layer")
}

fn layer(excerpt: &str) -> Layer {
    accepted("SelfAttention", excerpt).layer
}

fn grouped(excerpt: &str) -> Grouped {
    match layer(excerpt).projections {
        Projections::Grouped(grouped) => grouped,
        other => panic!("{other:?}"),
    }
}

fn cross(excerpt: &str) -> (Layer, Cross) {
    let layer = accepted("CrossAttention", excerpt).layer;
    match &layer.projections {
        Projections::Cross(cross) => (layer.clone(), cross.clone()),
        other => panic!("{other:?}"),
    }
}

const SEPARATE: &str = "# no linear_qkv\nsubmodules:\n  linear_q: ColumnParallelLinear\n  linear_kv: ColumnParallelLinear\n";

#[test]
fn the_base_is_grouped_query_attention() {
    let found = grouped("");
    let wanted = Grouped {
        hidden_size: 4096,
        num_attention_heads: 32,
        num_query_groups: 8,
        kv_channels: 128,
        rotary_dim: 128,
        qkv: QkvProjection::Fused { bias: false },
        norms: HeadNorms::Learned { q: None, k: None },
    };
    assert_eq!(found, wanted);
    let layer = layer("");
    assert_eq!(
        (&layer.core, layer.gate, layer.output_bias),
        (&Core::Dense, None, false)
    );
    assert_eq!(layer.softmax_scale(), 128f64.powf(-0.5));
}

#[test]
fn a_part_of_a_head_may_be_rotated() {
    assert_eq!(grouped("params:\n  rotary_dim: 32\n").rotary_dim, 32);
    let bare = layer("params:\n  rope: { type: none }\n  kv_channels: 5\n");
    assert_eq!((bare.rope.clone(), bare.rotated_dim()), (Rope::None, 0));
    let llama = layer(
        "params:\n  rope: { type: llama3, theta: 5e5, layout: half, factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, \
         original_max_position_embeddings: 8192 }\n",
    );
    assert!(
        matches!(&llama.rope, Rope::Rotary(rotary) if matches!(rotary.scaling, RopeScaling::Llama3(_)))
    );
    let pairs = ["1.0"; 16].join(", ");
    let long = format!(
        "params:\n  rotary_dim: 32\n  rope: {{ type: longrope, theta: 1e4, layout: half, short_factor: [{pairs}], long_factor: [{pairs}], \
         original_max_position_embeddings: 4096, attention_factor: 1.1, select: short }}\n"
    );
    assert_eq!(grouped(&long).rotary_dim, 32);
}

#[test]
fn heads_are_normed_by_slots_or_without_weights() {
    let slots = "submodules:\n  q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n  k_layernorm: { module: LayerNorm, params: { eps: 1.0e-5 } }\n";
    let norm = |kind, eps| Some(NormParams { kind, eps });
    let wanted = HeadNorms::Learned {
        q: norm(NormKind::RmsNorm, 1e-6),
        k: norm(NormKind::LayerNorm, 1e-5),
    };
    assert_eq!(grouped(slots).norms, wanted);
    let l2 = grouped("params:\n  qk_l2_norm: true\n  qk_l2_norm_eps: 1.0e-6\n");
    assert_eq!(l2.norms, HeadNorms::L2 { eps: 1e-6 });
    let none = grouped("params:\n  qk_l2_norm: false\nsubmodules:\n  q_layernorm: IdentityOp\n");
    assert_eq!(none.norms, HeadNorms::Learned { q: None, k: None });
}

#[test]
fn projections_may_be_joint_or_apart_and_have_biases() {
    let joint = grouped(
        "submodules:\n  linear_qkv: { module: ColumnParallelLinear, params: { bias: true } }\n",
    );
    assert_eq!(joint.qkv, QkvProjection::Fused { bias: true });
    let apart = grouped(&SEPARATE.replace(
        "linear_q: ColumnParallelLinear",
        "linear_q: { module: ColumnParallelLinear, params: { bias: true } }",
    ));
    let wanted = QkvProjection::Separate {
        q_bias: true,
        kv_bias: false,
    };
    assert_eq!(apart.qkv, wanted);
}

#[test]
fn gates_stand_where_the_projections_put_them() {
    let in_qkv = layer("params:\n  attention_output_gate: per_element\n").gate;
    let wanted = Gate {
        granularity: GateGranularity::PerElement,
        source: GateSource::Qkv,
    };
    assert_eq!(in_qkv, Some(wanted));
    let own = format!(
        "{SEPARATE}  linear_gate_proj: {{ module: ColumnParallelLinear, params: {{ bias: true, dtype: f32 }} }}\nparams:\n  attention_output_gate: per_head\n"
    );
    let wanted = Gate {
        granularity: GateGranularity::PerHead,
        source: GateSource::Linear {
            bias: true,
            full_precision: true,
        },
    };
    assert_eq!(layer(&own).gate, Some(wanted));
}

#[test]
fn masks_logits_and_scales_are_those_of_every_module() {
    let layer = layer(
        "params:\n  window_size: [127, 0]\n  softmax_type: learnable\n  attn_logits_soft_cap: 50.0\n  softmax_scale: 0.25\n  \
         query_scaling: { type: log_position }\nsubmodules:\n  input_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n",
    );
    let window = Window {
        left: Some(127),
        right: Some(0),
    };
    assert_eq!(layer.mask.window, Some(window));
    assert_eq!(
        (layer.logits.sink, layer.logits.soft_cap),
        (Sink::Learned, Some(50.0))
    );
    assert_eq!(layer.softmax_scale(), 0.25);
    assert_eq!(layer.query_scaling, QueryScaling::LogPosition);
    assert!(layer.input_norm.is_some());
}

#[test]
fn caches_hold_heads_whatever_is_said_of_them() {
    for (build, dtype) in [
        ("", CacheDType::F32),
        ("build:\n  dtype: bf16\n", CacheDType::Bf16),
        ("build:\n  cache: { page_size: 16 }\n", CacheDType::F32),
        (
            "build:\n  cache: { format: naive_f16 }\n  flash_decode: true\n",
            CacheDType::F16,
        ),
    ] {
        let cache = accepted("SelfAttention", build).build.cache;
        assert_eq!(
            (cache.kind, cache.store),
            (CacheKind::Naive, Store::Plain(dtype)),
            "{build}"
        );
    }
    assert_eq!(
        accepted("CrossAttention", "").build.cache.kind,
        CacheKind::Naive
    );
}

#[test]
fn cross_attention_is_between_two_widths() {
    let (layer, found) = cross("");
    let wanted = Cross {
        hidden_size: 1024,
        context_hidden_size: 768,
        num_attention_heads: 16,
        kv_channels: 64,
        q_bias: false,
        kv_bias: false,
    };
    assert_eq!(found, wanted);
    assert_eq!(
        (layer.mask.kind, layer.rope.clone()),
        (MaskKind::Full, Rope::None)
    );
    let (aligned, _) =
        cross("params:\n  attn_mask_type: causal_bottom_right\nbuild:\n  phases: [forward]\n");
    assert_eq!(aligned.mask.kind, MaskKind::CausalBottomRight);
    let (given, _) = cross(
        "params:\n  attn_mask_type: arbitrary\n  core_attention_bias: post_scale_bias\nbuild:\n  phases: [forward]\n",
    );
    assert!(given.mask.kind == MaskKind::Arbitrary && given.logits.bias);
}
