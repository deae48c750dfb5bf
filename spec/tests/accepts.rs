//! What the language can say, and the layer that each saying becomes.

use mla_spec::explain::whole;
use mla_spec::{
    AttnMask, Build, CacheDType, CacheKind, Checked, Core, DownProjection, Forced, Fp8, Gate,
    GateGranularity, GateSource, IndexStore, Indexer, IndexerQuery, IndexerRope, KvSource, Latent,
    LatentScale, Layer, Logits, LongRopeSelect, Norm, NormKind, NormParams, Phase, Pool, Query,
    QueryScaleSite, QueryScaling, QueryUp, Rope, RopeLayout, RopeScaling, ScaleFormat, Severity,
    Sink, Sources, SplitOrder, Store, Window,
};

/// The layer of an excerpt (see [`whole`]), which must be accepted without a word.
fn accepted(excerpt: &str) -> Checked {
    let (checked, said) = checked(excerpt);
    assert_eq!(said, [""; 0], "{excerpt}");
    checked.expect("a spec without errors is a layer")
}

fn checked(excerpt: &str) -> (Option<Checked>, Vec<String>) {
    let text = whole(excerpt);
    let document = mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (checked, diagnostics) = mla_spec::check(&document);
    let said = diagnostics
        .iter()
        .map(|diagnostic| format!("{} {}", diagnostic.code, diagnostic.message))
        .collect();
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .count();
    assert_eq!(checked.is_some(), errors == 0);
    (checked, said)
}

fn layer(excerpt: &str) -> Layer {
    accepted(excerpt).layer
}

fn latent(excerpt: &str) -> Latent {
    layer(excerpt)
        .latent()
        .expect("the example is a latent layer")
        .clone()
}

fn build(excerpt: &str) -> Build {
    accepted(excerpt).build
}

const FORWARD: &str = "build: { phases: [forward] }\n";

fn forward_only(excerpt: &str) -> Layer {
    layer(&format!("{excerpt}{FORWARD}"))
}

/// An indexer of GLM-5's kind, with these parameters more or less.
fn indexer(params: &str, slots: &str) -> String {
    format!(
        "submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: {{ num_heads: 32, head_dim: 128, topk: 2048{params} }}
        submodules:
          linear_wk: Linear
          linear_wq_b: Linear
          k_norm: {{ module: LayerNorm, params: {{ eps: 1.0e-6 }} }}
{slots}"
    )
}

const ROTATED: &str =
    ", rope_layout: interleaved, split_order: rope_first, query_input: q_latent, relu: true";
const WEIGHTS: &str = "          linear_weights_proj: Linear\n";

fn lightning(excerpt: &str) -> mla_spec::LightningIndexer {
    match layer(excerpt).core {
        Core::Sparse(Indexer::Lightning(indexer)) => indexer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn masks() {
    let mask = |text: &str| forward_only(&format!("params:\n{text}")).mask;
    let window = |left, right| Some(Window { left, right });
    assert_eq!(
        mask("  attn_mask_type: causal\n  window_size: [511, 0]\n"),
        AttnMask {
            window: window(Some(511), Some(0)),
            ..AttnMask::CAUSAL
        }
    );
    assert_eq!(
        mask("  attn_mask_type: no_mask\n  window_size: [128, -1]\n"),
        AttnMask {
            window: window(Some(128), None),
            ..AttnMask::FULL
        }
    );
    assert_eq!(
        mask("  attn_mask_type: padding\n  window_size: [0, 128]\n"),
        AttnMask {
            window: window(Some(0), Some(128)),
            ..AttnMask::PADDING
        }
    );
    assert_eq!(
        mask(
            "  attn_mask_type: padding_causal\n  attention_chunk_size: 8192\n  bidirectional_blocks: true\n"
        ),
        AttnMask {
            chunk: Some(8192),
            bidirectional_blocks: true,
            ..AttnMask::PADDING_CAUSAL
        }
    );
    assert_eq!(
        mask("  attn_mask_type: arbitrary\n").kind,
        mla_spec::MaskKind::Arbitrary
    );
    // Bounds and blocks have cached phases too.
    assert_eq!(
        layer("params:\n  window_size: [1, 0]\n  bidirectional_blocks: false\n")
            .mask
            .window,
        window(Some(1), Some(0))
    );
}

#[test]
fn logits() {
    assert_eq!(
        forward_only(
            "params:
  softmax_scale: 0.0884
  attn_logits_soft_cap: 50
  softmax_type: learnable
  core_attention_bias: post_scale_bias
  attention_dropout: 0.1
"
        )
        .logits,
        Logits {
            scale: Some(0.0884),
            soft_cap: Some(50.0),
            sink: Sink::Learned,
            bias: true,
            dropout: 0.1,
        }
    );
    let plain = layer("params:\n  softmax_type: vanilla\n  attention_dropout: 0.0\n");
    assert_eq!(plain.logits, Logits::PLAIN);
    let sink = layer("params:\n  softmax_type: \"off-by-one\"\n")
        .logits
        .sink;
    assert_eq!(sink, Sink::OffByOne);
    let scale = layer(
        "params:
  softmax_scale: 0.5
  rope: { type: yarn, theta: 10000, layout: interleaved, factor: 40, original_max_position_embeddings: 4096,
          beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 0 }
",
    );
    assert_eq!(scale.softmax_scale(), 0.5);
}

#[test]
fn scales_of_queries_and_latents() {
    let llama4 = "params:\n  query_scaling: { type: llama4, beta: 0.1, original_max_position_embeddings: 8192, position_offset: 1 }\n";
    assert_eq!(
        layer(llama4).query_scaling,
        QueryScaling::Llama4 {
            beta: 0.1,
            original_max_position_embeddings: 8192,
            position_offset: 1,
        }
    );
    assert_eq!(
        layer("params:\n  query_scaling: { type: log_position }\n").query_scaling,
        QueryScaling::LogPosition
    );
    let both = latent(
        "params:\n  q_lora_scale: { factor: hidden_over_rank, at: query }\n  kv_lora_scale: { factor: hidden_over_rank }\n",
    );
    assert_eq!(
        both.kv_scale,
        Some(LatentScale {
            factor: 2.0,
            hidden_over_rank: true
        })
    );
    let Query::Lora { scale, .. } = both.query else {
        panic!("LoRA queries");
    };
    let (scale, site) = scale.expect("a scale");
    assert_eq!(site, QueryScaleSite::Query);
    assert!((scale.factor - (2048.0_f64 / 768.0).sqrt()).abs() < 1e-15 && scale.hidden_over_rank);
    let Query::Lora { scale, .. } =
        latent("params:\n  q_lora_scale: { factor: 3, at: latent }\n").query
    else {
        panic!("LoRA queries");
    };
    let plain = LatentScale {
        factor: 3.0,
        hidden_over_rank: false,
    };
    assert_eq!(scale, Some((plain, QueryScaleSite::Latent)));
}

#[test]
fn gates() {
    let own = |granularity: &str, slot: &str| {
        layer(&format!(
            "params:\n  attention_output_gate: {granularity}\nsubmodules:\n  linear_gate_proj: {slot}\n"
        ))
        .gate
    };
    assert_eq!(
        own(
            "per_head",
            "{ module: ColumnParallelLinear, params: { dtype: f32, bias: true } }"
        ),
        Some(Gate {
            granularity: GateGranularity::PerHead,
            source: GateSource::Linear {
                bias: true,
                full_precision: true
            },
        })
    );
    assert_eq!(
        own("per_element", "ColumnParallelLinear"),
        Some(Gate {
            granularity: GateGranularity::PerElement,
            source: GateSource::Linear {
                bias: false,
                full_precision: false
            },
        })
    );
    let fused = layer(
        "# no linear_q_up_proj\nparams:\n  attention_output_gate: fused_with_query\nsubmodules:\n  linear_q_gate_proj: ColumnParallelLinear\n",
    );
    assert_eq!(
        fused.gate,
        Some(Gate {
            granularity: GateGranularity::PerElement,
            source: GateSource::Query
        })
    );
    let Some(Query::Lora { up, .. }) = fused.latent().map(|latent| &latent.query) else {
        panic!("LoRA queries");
    };
    assert_eq!(*up, QueryUp::QueryAndGate);
}

#[test]
fn norms() {
    let gated = NormParams {
        kind: NormKind::GatedRmsNorm { rank: 16 },
        eps: 1e-6,
    };
    let with = layer(
        "submodules:
  input_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  q_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  kv_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  k_rope_layernorm: { module: RMSNorm, params: { eps: 1.0e-5 } }
",
    );
    assert_eq!(with.input_norm, Some(gated));
    let latent = with.latent().expect("latent");
    assert_eq!(latent.kv_norm, Norm::Separate(gated));
    assert_eq!(
        latent.k_rope_norm,
        Some(NormParams {
            kind: NormKind::RmsNorm,
            eps: 1e-5
        })
    );
    assert_eq!(
        layer("submodules:\n  input_layernorm: IdentityOp\n").input_norm,
        None
    );
}

#[test]
fn ropes() {
    let scaling =
        |rope: &str| match layer(&format!("params:\n  qk_rope_head_dim: 8\n  rope: {rope}\n")).rope
        {
            Rope::Rotary(rotary) => rotary.scaling,
            Rope::None => panic!("{rope} rotates"),
        };
    let RopeScaling::Llama3(llama) = scaling(
        "{ type: llama3, theta: 500000.0, layout: half, factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }",
    ) else {
        panic!("llama3");
    };
    assert_eq!(
        (llama.factor, llama.low_freq_factor, llama.high_freq_factor),
        (8.0, 1.0, 4.0)
    );
    let RopeScaling::LongRope(long) = scaling(
        "{ type: longrope, theta: 10000, layout: half, short_factor: [1, 1.5, 2, 3], long_factor: [4, 5, 6, 7.25], original_max_position_embeddings: 32768, attention_factor: 1.19, select: long }",
    ) else {
        panic!("longrope");
    };
    assert_eq!(long.short_factor, [1.0, 1.5, 2.0, 3.0]);
    assert_eq!(long.long_factor, [4.0, 5.0, 6.0, 7.25]);
    assert_eq!(long.select, LongRopeSelect::Long);
    // Frequencies that follow the length are no surprise where nothing is cached.
    let dynamic = forward_only(
        "params:\n  rope: { type: dynamic, theta: 10000, layout: half, factor: 2, max_position_embeddings: 4096 }\n",
    );
    assert!(matches!(
        dynamic.rope,
        Rope::Rotary(mla_spec::Rotary {
            scaling: RopeScaling::Dynamic {
                factor: 2.0,
                max_position_embeddings: 4096
            },
            ..
        })
    ));
}

#[test]
fn latents_of_other_layers() {
    let shared = latent(
        "# no linear_kv_down_proj\n# no kv_layernorm\nparams:\n  kv_source: shared\nsubmodules:\n  linear_q_down_proj: { module: Linear, params: { bias: true } }\n",
    );
    assert_eq!(shared.kv_source, KvSource::Other);
    assert_eq!(shared.kv_norm, Norm::Identity);
    assert_eq!(
        shared.down,
        DownProjection::Separate {
            q_bias: true,
            kv_bias: false
        }
    );
    let owner = latent("params:\n  kv_source: own\n  share_kv: true\n");
    assert_eq!(owner.kv_source, KvSource::Own { shared: true });
    assert_eq!(latent("").kv_source, KvSource::Own { shared: false });
}

#[test]
fn indexers() {
    let plain = lightning(&indexer(ROTATED, WEIGHTS));
    assert_eq!(
        (plain.num_heads, plain.head_dim, plain.topk),
        (32, 128, 2048)
    );
    assert_eq!(plain.query, IndexerQuery::Latent);
    assert_eq!(
        plain.rope,
        Some(IndexerRope {
            layout: RopeLayout::Interleaved,
            split: SplitOrder::RopeFirst
        })
    );
    assert!(plain.relu && !plain.hadamard && !plain.shared && !plain.full_precision_weights);
    let rich = lightning(&indexer(
        ", rope_layout: half, split_order: nope_first, query_input: hidden, relu: false, hadamard: true, \
         query_scaling: { type: log_position }, forced: { initial: 16, local: 1024 }, share_topk: true",
        "          linear_weights_proj: { module: Linear, params: { dtype: f32 } }
          q_input_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
",
    ));
    assert_eq!(
        rich.query,
        IndexerQuery::Hidden {
            norm: Some(NormParams {
                kind: NormKind::LayerNorm,
                eps: 1e-6
            })
        }
    );
    assert_eq!(
        rich.forced,
        Forced {
            initial: 16,
            local: 1024
        }
    );
    assert!(
        rich.hadamard && rich.log_position_scaling && rich.shared && rich.full_precision_weights
    );
    assert!(!rich.relu);
}

#[test]
fn indexers_that_pool() {
    let nope = "params:\n  qk_rope_head_dim: 0\n  rope: { type: none }\n";
    let pool = "pool: { size: 16, always_select_tail: true }";
    let pooled = lightning(&format!(
        "{nope}{}",
        indexer(
            &format!(", query_input: q_latent, relu: true, {pool}"),
            WEIGHTS
        )
    ));
    assert_eq!(
        pooled.pool,
        Some(Pool {
            size: 16,
            always_select_tail: true
        })
    );
    assert_eq!(pooled.tail(), 15);
    let consumer = |more: &str| {
        layer(&format!(
            "submodules:\n  core_attention: {{ module: SparseAttention, submodules: {{ indexer: {{ module: SharedIndexer, params: {{ topk: 2048{more} }} }} }} }}\n"
        ))
        .core
    };
    assert_eq!(
        consumer(&format!(", {pool}")),
        Core::Sparse(Indexer::Shared {
            topk: 2048,
            tail: 15
        })
    );
    assert_eq!(
        consumer(""),
        Core::Sparse(Indexer::Shared {
            topk: 2048,
            tail: 0
        })
    );
}

#[test]
fn stored_formats() {
    let cache = |cache: &str| {
        build(&format!(
            "{}build:\n  dtype: bf16\n  cache: {{ {cache} }}\n",
            indexer(ROTATED, WEIGHTS)
        ))
        .cache
    };
    let flat = cache("format: latent_fp8_e5m2");
    assert_eq!(flat.store, Store::Fp8(Fp8::E5m2));
    assert_eq!(flat.index, IndexStore::Plain(CacheDType::Bf16));
    let flash =
        cache("format: fp8_ds_mla, scale_format: ue8m0, page_size: 64, index_format: fp8_ue8m0");
    assert_eq!(flash.store, Store::Fp8DsMla(ScaleFormat::PowerOfTwo));
    assert_eq!(flash.index, IndexStore::Fp8(ScaleFormat::PowerOfTwo));
    assert_eq!(flash.page_size, Some(64));
    assert!(!flash.rounds_index_queries);
    let rounded =
        cache("format: latent_bf16, page_size: 64, index_format: fp8, index_queries: as_keys");
    assert!(rounded.rounds_index_queries);
    assert!(!cache("format: latent_bf16, index_queries: numbers").rounds_index_queries);
    let model1 = cache("format: fp8_model1, page_size: 64, index_format: mxfp4");
    assert_eq!(
        (model1.store, model1.index),
        (Store::Model1, IndexStore::Mxfp4)
    );
    let mx = cache("format: mxfp8");
    assert_eq!((mx.kind, mx.store), (CacheKind::Latent, Store::Mxfp8));
    let typed = cache("format: latent_bf16, index_format: f16");
    assert_eq!(typed.index, IndexStore::Plain(CacheDType::F16));
    let plain = cache("format: latent_f16");
    assert_eq!(plain.index, IndexStore::Plain(CacheDType::F16));
}

#[test]
fn every_phase_of_a_sparse_layer() {
    let all = build(&indexer(ROTATED, WEIGHTS));
    assert_eq!(all.phases, [Phase::Forward, Phase::Prefill, Phase::Decode]);
    build(&format!(
        "{}build: {{ phases: [forward], form: mha }}\n",
        indexer(ROTATED, WEIGHTS)
    ));
    build(&format!(
        "{}build: {{ form: mqa }}\n",
        indexer(ROTATED, WEIGHTS)
    ));
}
