//! `index_format` and `index_queries`: how an indexer's keys are stored (J-09), and what queries meet them (L-06).

use super::super::About;
use super::super::codes;
use super::super::value::{Field, Stated, Table};
use super::super::words::Words;
use super::format::{refuse_no_pages, refuse_proofs};
use crate::build::{CacheDType, DType, IndexStore, ScaleFormat};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Core, Indexer, LightningIndexer};
use crate::span::{Span, Spanned};

const FORMATS: Words<'static, IndexStore> = Words {
    choices: &[
        ("f32", IndexStore::Plain(CacheDType::F32)),
        ("bf16", IndexStore::Plain(CacheDType::Bf16)),
        ("f16", IndexStore::Plain(CacheDType::F16)),
        ("f64", IndexStore::Plain(CacheDType::F64)),
        ("fp8", IndexStore::Fp8(ScaleFormat::F32)),
        ("fp8_ue8m0", IndexStore::Fp8(ScaleFormat::PowerOfTwo)),
        ("mxfp4", IndexStore::Mxfp4),
    ],
    aliases: &[
        ("float32", "f32"),
        ("bfloat16", "bf16"),
        ("fp8_e4m3", "fp8"),
        ("fp4", "mxfp4"),
    ],
    others: None,
};

/// Whether queries are rounded.
const QUERIES: Words<'static, bool> = Words {
    choices: &[("numbers", false), ("as_keys", true)],
    aliases: &[],
    others: None,
};

/// Reads `index_queries`.
pub(super) fn read_queries(table: &mut Table<'_>, out: &mut Diagnostics) -> Stated<Spanned<bool>> {
    table.stated("index_queries", |field| field.word(&QUERIES, out))
}

/// Refuses queries that are rounded as keys, where no keys are.
pub(super) fn agree_on_queries(
    queries: &Stated<Spanned<bool>>,
    index: &Stated<Spanned<IndexStore>>,
    about: &About,
    out: &mut Diagnostics,
) {
    let Some((rounded, _)) = queries.given().filter(|(rounded, _)| rounded.value) else {
        return;
    };
    let Some((_, core)) = &about.core else {
        return;
    };
    let message = "`index_queries: as_keys` rounds queries as keys are rounded, and this layer rounds no keys";
    let unread = Diagnostic::error(
        codes::INDEX_QUERIES_UNREAD,
        message,
        rounded.span,
        "as which keys?",
    );
    if own(about).is_none() {
        let unread = unread.and(*core, "has no indexer of its own");
        out.push(unread.help("remove `index_queries`"));
        return;
    }
    match index.given() {
        None if index.is_absent() => out.push(unread.help("write `index_format: fp8` beside it")),
        Some((format, _)) if matches!(format.value, IndexStore::Plain(_)) => {
            out.push(unread.and(format.span, "kept as numbers").help(
                "write `index_format: fp8`, `fp8_ue8m0` or `mxfp4`, or remove `index_queries`",
            ))
        }
        _ => {}
    }
}

/// Reads `index_format`, which needs keys to store.
pub(super) fn read(
    table: &mut Table<'_>,
    about: &About,
    out: &mut Diagnostics,
) -> Stated<Spanned<IndexStore>> {
    table.stated("index_format", |field| {
        refuse_unread(&field, about, out);
        field.word(&FORMATS, out)
    })
}

/// The layer's own indexer, if it has one.
fn own(about: &About) -> Option<&LightningIndexer> {
    match &about.core {
        Some((Core::Sparse(Indexer::Lightning(indexer)), _)) => Some(indexer),
        _ => None,
    }
}

fn refuse_unread(field: &Field<'_>, about: &About, out: &mut Diagnostics) {
    let Some((core, span)) = &about.core else {
        return;
    };
    let label = match core {
        Core::Sparse(Indexer::Lightning(_)) => return,
        Core::Sparse(Indexer::Shared { .. }) => "takes what another layer's indexer picked",
        Core::Dense => "has no indexer",
    };
    let message = "`index_format` is for an indexer's keys, and this layer stores none";
    let unread = Diagnostic::error(
        codes::INDEX_FORMAT_UNREAD,
        message,
        field.key.span,
        "nothing reads this",
    );
    out.push(unread.and(*span, label).help("remove `index_format`"));
}

/// Refuses formats that don't fit the keys, the pages or the type of arithmetic.
pub(super) fn agree(
    index: &Stated<Spanned<IndexStore>>,
    pages: &Stated<Spanned<u32>>,
    dtype: Option<Spanned<DType>>,
    about: &About,
    out: &mut Diagnostics,
) {
    let Some(indexer) = own(about) else {
        return;
    };
    if let Some((pages, _)) = pages.given() {
        refuse_split_pools(*pages, indexer, out);
    }
    let Some((format, _)) = index.given() else {
        return;
    };
    if matches!(format.value, IndexStore::Plain(_)) {
        return;
    }
    let name = FORMATS.name_of(format.value);
    refuse_proofs("index_format", name, format.span, dtype, out);
    if pages.is_absent() {
        refuse_no_pages("index_format", name, format.span, out);
    }
    refuse_keys(format.value, name, format.span, indexer, out);
}

/// A page keeps the keys of its own pools, so that no pool may go on in the next page.
fn refuse_split_pools(pages: Spanned<u32>, indexer: &LightningIndexer, out: &mut Diagnostics) {
    let Some(pool) = &indexer.pool else {
        return;
    };
    let (page, size) = (pages.value, pool.size);
    if page.is_multiple_of(size) {
        return;
    }
    let message = format!("pages of {page} tokens split pools of {size}");
    let split = Diagnostic::error(
        codes::PAGE_SPLITS_POOLS,
        message,
        pages.span,
        "no whole number of pools",
    );
    let split = split.note("a pool's key is kept in the page that holds its tokens");
    let fitting = (page / size).max(1) * size;
    out.push(split.help(format!(
        "give a `page_size` that {size} divides, such as {fitting}"
    )));
}

/// A scale serves 128 elements, a whole key where it is shorter, or 32 elements.
fn refuse_keys(
    store: IndexStore,
    name: &str,
    format: Span,
    indexer: &LightningIndexer,
    out: &mut Diagnostics,
) {
    let dim = indexer.head_dim;
    let group = match store {
        IndexStore::Plain(_) => return,
        IndexStore::Fp8(_) => dim.min(128),
        IndexStore::Mxfp4 => 32,
    };
    let (message, label) = if indexer.pool.is_some() {
        (
            "pooled keys are kept with their gates, which no quantised format has a place for"
                .to_owned(),
            "the indexer pools its keys",
        )
    } else if !dim.is_multiple_of(group) {
        (
            format!(
                "`{name}` has a scale for every {group} elements of a key, and the indexer's have {dim}"
            ),
            "groups would be left incomplete",
        )
    } else {
        return;
    };
    let groups = Diagnostic::error(codes::INDEX_FORMAT_GROUPS, message, format, label);
    out.push(groups.help("write `index_format: bf16`"));
}
