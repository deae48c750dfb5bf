//! How a layer is computed, and how its caches are laid out.

use super::modules::pairs;
use super::{Facts, yes_or_no};
use crate::build::{
    Activation, Build, CacheDType, CacheKind, CacheSpec, DType, Expect, Form, FormChoice, Fp8,
    IndexStore, Phase, ScaleFormat, Store, WeightStore,
};
use crate::layer::{Checked, Rope};

pub(super) fn add(facts: &mut Facts, checked: &Checked) {
    let Build {
        phases,
        dtype,
        cache,
        form,
        expect,
        context_chunk,
        flash_decode,
        recompute,
        offload,
        fold,
        weights,
        targets,
    } = &checked.build;
    facts.schedule(
        "phases",
        listed(phases.iter().map(|phase| phase_name(*phase))),
    );
    facts.schedule(
        "arithmetic",
        match dtype {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F64 => "f64",
        },
    );
    facts.schedule(
        "form",
        match form {
            FormChoice::Auto => "the cheaper one",
            FormChoice::Forced(Form::Mha) => "mha",
            FormChoice::Forced(Form::Mqa) => "mqa",
        },
    );
    let Expect {
        prefill_tokens,
        prefill_context,
        decode_tokens,
        decode_context,
    } = expect;
    facts.schedule(
        "expected lengths",
        format!("prefill {prefill_tokens} over {prefill_context}, decode {decode_tokens} over {decode_context}"),
    );
    facts.schedule("cached tokens expanded at a time", context_chunk);
    facts.schedule("flash decode", yes_or_no(*flash_decode));
    facts.schedule("computed again in training", parts(recompute));
    facts.schedule("kept by the host in training", parts(offload));
    facts.schedule(
        "combined when loaded",
        listed(fold.iter().map(|fold| fold.word())),
    );
    facts.schedule(
        "weights lie as",
        match weights {
            WeightStore::Numbers => "numbers",
            WeightStore::Fp8Blocks => "fp8 e4m3 in blocks",
        },
    );
    facts.schedule(
        "targets",
        listed(targets.iter().map(|target| target.word())),
    );
    if phases.iter().any(|phase| phase.is_cached()) {
        cached(facts, checked, cache);
    }
}

fn cached(facts: &mut Facts, checked: &Checked, cache: &CacheSpec) {
    let CacheSpec {
        kind,
        store,
        index,
        rounds_index_queries,
        page_size,
        rope_layout,
    } = *cache;
    if checked.layer.latent().is_some() {
        let kind = match kind {
            CacheKind::Latent => "latents",
            CacheKind::Naive => "every head's keys and values",
        };
        facts.layout("cached are", kind);
    }
    facts.layout("cache stores", stored(store));
    if checked.layer.indexer().is_some() {
        facts.layout("indexer's cache stores", index_stored(index));
        let queries = if rounds_index_queries {
            "rounded as keys"
        } else {
            "numbers"
        };
        facts.layout("indexer's queries over a cache are", queries);
    }
    let page = page_size.map_or("one run of tokens".to_owned(), |page| {
        format!("pages of {page}")
    });
    facts.schedule("cache is", page);
    if let Rope::Rotary(rotary) = &checked.layer.rope {
        let layout = rope_layout.unwrap_or(rotary.layout);
        facts.layout("order of cached rope keys", pairs(layout));
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
        Phase::Train => "train",
        Phase::Mixed => "mixed",
    }
}

fn parts(parts: &[Activation]) -> String {
    listed(parts.iter().map(|part| part.word()))
}

fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        words => words.join(", "),
    }
}

fn stored(store: Store) -> &'static str {
    match store {
        Store::Plain(dtype) => number(dtype),
        Store::Fp8(Fp8::E4m3) => "fp8 e4m3, one scale",
        Store::Fp8(Fp8::E5m2) => "fp8 e5m2, one scale",
        Store::Fp8DsMla(ScaleFormat::F32) => "fp8_ds_mla",
        Store::Fp8DsMla(ScaleFormat::PowerOfTwo) => "fp8_ds_mla, scales powers of two",
        Store::Model1 => "fp8_model1",
        Store::Mxfp8 => "mxfp8",
    }
}

fn index_stored(store: IndexStore) -> &'static str {
    match store {
        IndexStore::Plain(dtype) => number(dtype),
        IndexStore::Fp8(ScaleFormat::F32) => "fp8 e4m3",
        IndexStore::Fp8(ScaleFormat::PowerOfTwo) => "fp8 e4m3, scales powers of two",
        IndexStore::Mxfp4 => "mxfp4",
    }
}

fn number(dtype: CacheDType) -> &'static str {
    match dtype {
        CacheDType::F32 => "f32",
        CacheDType::Bf16 => "bf16",
        CacheDType::F16 => "f16",
        CacheDType::F64 => "f64",
    }
}
