//! The `build:` section that importers write out.

use super::{entry, map, size, word};
use crate::build::{
    Build, CacheDType, CacheKind, DType, Form, FormChoice, Fp8, Phase, Store, WeightStore,
};
use crate::layer::RopeLayout;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// A `build:` section that says every choice there is. Sparse layers never expand what they cached, and what a naive cache holds is
/// expanded already.
pub(in crate::import) fn build(build: &Build, sparse: bool) -> Node {
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
        Phase::Train => "train",
        Phase::Mixed => "mixed",
    });
    let dtype = match build.dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F64 => "f64",
    };
    let form = match build.form {
        FormChoice::Auto => "auto",
        FormChoice::Forced(Form::Mha) => "mha",
        FormChoice::Forced(Form::Mqa) => "mqa",
    };
    let expect = [
        ("prefill_tokens", build.expect.prefill_tokens),
        ("prefill_context", build.expect.prefill_context),
        ("decode_tokens", build.expect.decode_tokens),
        ("decode_context", build.expect.decode_context),
    ];
    let mut entries = vec![
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
    ];
    if !sparse && build.cache.kind == CacheKind::Latent {
        entries.push(size(
            "context_chunk",
            Spanned::unplaced(build.context_chunk),
        ));
    }
    for (key, parts) in [("recompute", &build.recompute), ("offload", &build.offload)] {
        if !parts.is_empty() {
            entries.push(entry(key, words(parts.iter().map(|part| part.word()))));
        }
    }
    if !build.fold.is_empty() {
        entries.push(entry(
            "fold",
            words(build.fold.iter().map(|fold| fold.word())),
        ));
    }
    if build.weights != WeightStore::Numbers {
        entries.push(word("weights", build.weights.word(), Span::NONE));
    }
    entries.push(entry(
        "targets",
        words(build.targets.iter().map(|target| target.word())),
    ));
    map(entries)
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
