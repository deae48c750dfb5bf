//! The aliases of the caches.

use mla_spec::{CacheDType, Fp8, IndexStore, ScaleFormat, Store};

use super::parts::{Look, layout};
use crate::plan::{CacheContent, CachePlan, Program};

/// The aliases of the layer's own cache and of the one that it reads; `None` where no phase has one.
pub(crate) fn caches(program: &Program, look: Look) -> Option<String> {
    let own = program
        .cache
        .as_ref()
        .map(|plan| alias("Cache", plan, look));
    let source = program
        .source
        .as_ref()
        .map(|plan| alias("SourceCache", plan, look));
    let all: Vec<String> = [own, source].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("\n\n"))
}

fn alias(name: &str, plan: &CachePlan, look: Look) -> String {
    let mut lines = look.lines();
    look.doc(&doc(name, plan), &mut lines);
    let visibility = if look.documented { look.visibility } else { "" };
    let formats: Vec<String> = formats(plan)
        .into_iter()
        .map(|(parameter, default)| format!("{parameter} = {default}"))
        .collect();
    let head = format!("{visibility}type {name}<B, {}>", formats.join(", "));
    lines.generic_assignment(&head, &ty(plan));
    lines.into_text()
}

/// A cache's format parameters and their defaults: of keys and values, and of an indexer's keys.
pub(super) fn formats(plan: &CachePlan) -> Vec<(&'static str, &'static str)> {
    let kv = (plan.content != CacheContent::Index).then(|| ("F", store(plan.store)));
    let index = plan.index.map(|index| ("I", index_store(index.store)));
    kv.into_iter().chain(index).collect()
}

/// The cache's type as its name and its generic arguments.
fn ty(plan: &CachePlan) -> (String, Vec<String>) {
    let pages = plan
        .page_size
        .map_or_else(|| "Contiguous".to_owned(), |page| format!("Paged<{page}>"));
    let index = plan.index.map(|index| {
        let of = ["B", "I", &pages, index.width.name];
        let (name, of) = match index.pool {
            None => ("IndexCache", of.to_vec()),
            Some(pool) => ("PooledIndexCache", [of.as_slice(), &[pool.name]].concat()),
        };
        (
            name.to_owned(),
            of.into_iter().map(str::to_owned).collect::<Vec<String>>(),
        )
    });
    let kv = kv_type(plan, &pages);
    match (index, kv) {
        (Some(index), Some(kv)) => {
            let whole = |(name, of): (String, Vec<String>)| format!("{name}<{}>", of.join(", "));
            ("IndexedCache".to_owned(), vec![whole(kv), whole(index)])
        }
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => (String::new(), Vec::new()),
    }
}

fn kv_type(plan: &CachePlan, pages: &str) -> Option<(String, Vec<String>)> {
    let rope = layout(plan.rope_layout);
    let (name, sizes) = match plan.content {
        CacheContent::Latent => ("LatentCache", vec!["KV_LORA_RANK", "QK_ROPE_HEAD_DIM"]),
        CacheContent::Naive => (
            "NaiveCache",
            vec!["NUM_ATTENTION_HEADS", "QK_HEAD_DIM", "V_HEAD_DIM"],
        ),
        CacheContent::Groups => (
            "NaiveCache",
            vec!["NUM_QUERY_GROUPS", "HEAD_DIM", "HEAD_DIM"],
        ),
        CacheContent::Context => (
            "NaiveCache",
            vec!["NUM_ATTENTION_HEADS", "HEAD_DIM", "HEAD_DIM"],
        ),
        CacheContent::Index => return None,
    };
    let of = [vec!["B", "F", rope, pages], sizes].concat();
    Some((name.to_owned(), of.into_iter().map(str::to_owned).collect()))
}

fn doc(name: &str, plan: &CachePlan) -> String {
    let keys = match plan.index.and_then(|index| index.pool) {
        None => "the indexer's keys",
        Some(_) => "the indexer's keys and the gates that pool them",
    };
    let what = match plan.content {
        CacheContent::Latent if plan.rope_elements == 0 => "latents",
        CacheContent::Latent => "latents and shared keys",
        CacheContent::Naive => "every head's keys and values",
        CacheContent::Groups => "every group's keys and values",
        CacheContent::Context => "every head's keys and values of a context",
        CacheContent::Index => keys,
    };
    let layout = match plan.page_size {
        Some(page) => format!("Pages of {page} tokens"),
        None => "One run of tokens per request".to_owned(),
    };
    let whose = if name == "SourceCache" {
        "Another layer's cache, which this one attends to: "
    } else {
        ""
    };
    let layout = if whose.is_empty() {
        layout
    } else {
        layout.to_lowercase()
    };
    let index = plan.index.map(|index| {
        (
            index.elements_per_token(),
            plan.content == CacheContent::Index,
        )
    });
    let elements = plan.elements_per_token;
    match index {
        None => format!(
            "{whose}{layout}, holding {what}: {elements} values in the format `F` per token."
        ),
        Some((width, true)) => {
            format!("{layout}, holding {what}: {width} values in the format `I` per token.")
        }
        Some((width, false)) => format!(
            "{layout}, holding {what}, {elements} values in the format `F` per token, and {keys}, {width} in the \
             format `I`."
        ),
    }
}

/// Rust's name of a format.
pub(super) fn store(store: Store) -> &'static str {
    match store {
        Store::Plain(dtype) => plain(dtype),
        Store::Fp8(Fp8::E4m3) => "Fp8E4m3",
        Store::Fp8(Fp8::E5m2) => "Fp8E5m2",
        Store::Fp8DsMla(ScaleFormat::F32) => "Fp8DsMla",
        Store::Fp8DsMla(ScaleFormat::PowerOfTwo) => "Fp8DsMla<PowerOfTwo>",
        Store::Model1 => "Fp8Model1",
        Store::Mxfp8 => "Mxfp8",
    }
}

/// Rust's name of a format of an indexer's keys.
pub(super) fn index_store(store: IndexStore) -> &'static str {
    match store {
        IndexStore::Plain(dtype) => plain(dtype),
        IndexStore::Fp8(ScaleFormat::F32) => "IndexFp8",
        IndexStore::Fp8(ScaleFormat::PowerOfTwo) => "IndexFp8<PowerOfTwo>",
        IndexStore::Mxfp4 => "IndexMxfp4",
    }
}

fn plain(dtype: CacheDType) -> &'static str {
    match dtype {
        CacheDType::F32 => "f32",
        CacheDType::Bf16 => "bf16",
        CacheDType::F16 => "f16",
        CacheDType::F64 => "f64",
    }
}
