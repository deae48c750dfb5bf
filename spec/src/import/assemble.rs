//! Builds the document: nodes, parameters and slots of our language from what was read.

use crate::build::{Build, CacheDType, CacheKind, DType, FormChoice, Fp8, Phase, Store};
use crate::document::{Body, Document, ModuleSpec, Param, Submodule};
use crate::layer::RopeLayout;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::write;

/// Comments being collected, by value path.
#[derive(Default)]
pub(super) struct Comments(pub(super) write::Comments);

impl Comments {
    /// Says `text` behind the value at `path`.
    pub(super) fn add(&mut self, path: &str, text: &str) {
        self.0.0.insert(path.to_owned(), text.to_owned());
    }
}

/// Everything that a layer's spec is built from.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) hidden_size: Spanned<u32>,
    pub(super) num_attention_heads: Spanned<u32>,
    /// `None` for plain queries.
    pub(super) q_lora_rank: Option<Spanned<u32>>,
    pub(super) kv_lora_rank: Spanned<u32>,
    pub(super) qk_nope_head_dim: Spanned<u32>,
    pub(super) qk_rope_head_dim: Spanned<u32>,
    pub(super) v_head_dim: Spanned<u32>,
    pub(super) rope: Node,
    pub(super) latent_eps: f64,
    /// Bias of the down projections and of the output projection, where there is one.
    pub(super) bias: Option<Spanned<bool>>,
}

/// The whole document, its `build` section written out.
pub(super) fn document(parts: Parts) -> Document {
    Document {
        mla: Spanned::unplaced(1),
        name: Spanned::unplaced(parts.name.clone()),
        body: Body::Layer(layer(parts)),
        build: Some(build(&Build::default())),
    }
}

fn layer(parts: Parts) -> ModuleSpec {
    let mut params = vec![
        size("hidden_size", parts.hidden_size),
        size("num_attention_heads", parts.num_attention_heads),
    ];
    params.extend(parts.q_lora_rank.map(|rank| size("q_lora_rank", rank)));
    params.extend([
        size("kv_lora_rank", parts.kv_lora_rank),
        size("qk_nope_head_dim", parts.qk_nope_head_dim),
        size("qk_rope_head_dim", parts.qk_rope_head_dim),
        size("v_head_dim", parts.v_head_dim),
        word("attn_mask_type", "causal", Span::NONE),
        entry("rope", parts.rope),
    ]);
    let norm = || {
        module(
            "RMSNorm",
            vec![real("eps", Spanned::unplaced(parts.latent_eps))],
        )
    };
    let biased = |name: &str| {
        module(
            name,
            parts
                .bias
                .map(|bias| flag("bias", bias))
                .into_iter()
                .collect(),
        )
    };
    let mut submodules = match parts.q_lora_rank {
        None => vec![slot(
            "linear_q_proj",
            module("ColumnParallelLinear", Vec::new()),
        )],
        Some(_) => vec![
            slot("linear_q_down_proj", biased("Linear")),
            slot("q_layernorm", norm()),
            slot(
                "linear_q_up_proj",
                module("ColumnParallelLinear", Vec::new()),
            ),
        ],
    };
    submodules.extend([
        slot("linear_kv_down_proj", biased("Linear")),
        slot("kv_layernorm", norm()),
        slot(
            "linear_kv_up_proj",
            module("ColumnParallelLinear", Vec::new()),
        ),
        slot("core_attention", module("DotProductAttention", Vec::new())),
        slot("linear_proj", biased("RowParallelLinear")),
    ]);
    ModuleSpec {
        submodules,
        ..module("MLASelfAttention", params)
    }
}

fn module(name: &str, params: Vec<Entry>) -> ModuleSpec {
    let params = params
        .into_iter()
        .map(|Entry { key, value }| Param { key, value })
        .collect();
    ModuleSpec {
        module: Spanned::unplaced(name.to_owned()),
        params,
        submodules: Vec::new(),
        span: Span::NONE,
    }
}

fn slot(name: &str, spec: ModuleSpec) -> Submodule {
    Submodule {
        slot: Spanned::unplaced(name.to_owned()),
        spec,
    }
}

/// A `build:` section that says every choice.
fn build(build: &Build) -> Node {
    let mut cache = vec![word(
        "format",
        &cache_format(build.cache.kind, build.cache.store),
        Span::NONE,
    )];
    cache.extend(
        build
            .cache
            .page_size
            .map(|page| size("page_size", Spanned::unplaced(page))),
    );
    cache.extend(build.cache.rope_layout.map(|layout| {
        let name = match layout {
            RopeLayout::Interleaved => "interleaved",
            RopeLayout::Half => "half",
        };
        word("rope_layout", name, Span::NONE)
    }));
    let phases = build.phases.iter().map(|phase| match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    });
    let dtype = match build.dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F64 => "f64",
    };
    let form = match build.form {
        FormChoice::Auto => "auto",
        FormChoice::Forced(crate::build::Form::Mha) => "mha",
        FormChoice::Forced(crate::build::Form::Mqa) => "mqa",
    };
    let expect = [
        ("prefill_tokens", build.expect.prefill_tokens),
        ("prefill_context", build.expect.prefill_context),
        ("decode_tokens", build.expect.decode_tokens),
        ("decode_context", build.expect.decode_context),
    ];
    map(vec![
        entry("phases", words(phases)),
        word("dtype", dtype, Span::NONE),
        entry("cache", map(cache)),
        word("form", form, Span::NONE),
        entry(
            "expect",
            map(expect
                .into_iter()
                .map(|(key, tokens)| size(key, Spanned::unplaced(tokens)))
                .collect()),
        ),
        size("context_chunk", Spanned::unplaced(build.context_chunk)),
        entry("targets", words(build.targets.iter().map(|_| "cpu"))),
    ])
}

fn cache_format(kind: CacheKind, store: Store) -> String {
    let kind = match kind {
        CacheKind::Latent => "latent",
        CacheKind::Naive => "naive",
    };
    let dtype = match store {
        Store::Plain(CacheDType::F32) => "f32",
        Store::Plain(CacheDType::Bf16) => "bf16",
        Store::Plain(CacheDType::F16) => "f16",
        Store::Plain(CacheDType::F64) => "f64",
        Store::Fp8(Fp8::E4m3) => "fp8_e4m3",
        Store::Fp8(Fp8::E5m2) => "fp8_e5m2",
        Store::Fp8DsMla(_) => return "fp8_ds_mla".to_owned(),
        Store::Model1 => return "fp8_model1".to_owned(),
        Store::Mxfp8 => return "mxfp8".to_owned(),
    };
    format!("{kind}_{dtype}")
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> Node {
    let items = words
        .map(|word| Node::scalar(Scalar::Str(word.to_owned()), Span::NONE))
        .collect();
    Node {
        kind: NodeKind::Seq(items),
        span: Span::NONE,
    }
}

fn map(entries: Vec<Entry>) -> Node {
    Node {
        kind: NodeKind::Map(entries),
        span: Span::NONE,
    }
}

fn entry(key: &str, value: Node) -> Entry {
    Entry {
        key: Spanned::unplaced(key.to_owned()),
        value,
    }
}

/// `rope: { type: none }`.
pub(super) fn rope_none() -> Node {
    map(vec![word("type", "none", Span::NONE)])
}

/// `key: value`, an integer.
pub(super) fn size(key: &str, value: Spanned<u32>) -> Entry {
    entry(
        key,
        Node::scalar(Scalar::Int(i64::from(value.value)), value.span),
    )
}

/// `key: value`, a real number: a config's `40` becomes `40.0`.
pub(super) fn real(key: &str, value: Spanned<f64>) -> Entry {
    entry(key, Node::scalar(Scalar::Float(value.value), value.span))
}

/// `key: value`, a word.
pub(super) fn word(key: &str, value: &str, span: Span) -> Entry {
    entry(key, Node::scalar(Scalar::Str(value.to_owned()), span))
}

/// `key: value`, a boolean.
pub(super) fn flag(key: &str, value: Spanned<bool>) -> Entry {
    entry(key, Node::scalar(Scalar::Bool(value.value), value.span))
}
