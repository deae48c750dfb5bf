//! The `cache` mapping of `build`: formats, pages, and the order of cached rope keys.

mod format;
mod index;

use super::About;
use super::build::DTYPES;
use super::codes;
use super::foreign::Place;
use super::rope::LAYOUTS;
use super::value::{Field, Table};
use crate::build::{CacheDType, CacheKind, CacheSpec, DType, Form, FormChoice, IndexStore, Store};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Core, Rope};
use crate::span::{Span, Spanned};
use format::Format;

/// Largest page, in tokens.
const LARGEST_PAGE: u32 = 1 << 20;

/// The cache, and where its kind was chosen.
pub(super) struct Cache {
    /// Where `format` was written, if it was.
    pub(super) kind: Option<Span>,
    pub(super) spec: CacheSpec,
}

impl Cache {
    /// The cache where none is described: contiguous, of the arithmetic's type, of latents where there are any.
    pub(super) fn default_for(dtype: Option<Spanned<DType>>, about: &About) -> CacheSpec {
        let dtype = match dtype.map(|dtype| dtype.value) {
            Some(DType::Bf16) => CacheDType::Bf16,
            Some(DType::F64) => CacheDType::F64,
            Some(DType::F32) | None => CacheDType::F32,
        };
        let kind = match about.attention {
            Some((module, _)) if module.has_no_latents() => CacheKind::Naive,
            _ => CacheKind::Latent,
        };
        CacheSpec {
            kind,
            store: Store::Plain(dtype),
            index: IndexStore::Plain(dtype),
            ..CacheSpec::default()
        }
    }

    pub(super) fn read(
        field: &Field<'_>,
        dtype: Option<Spanned<DType>>,
        about: &About,
        out: &mut Diagnostics,
    ) -> Option<Self> {
        let mut table = Table::map(
            "cache",
            Some("format"),
            field.value,
            field.key.span,
            Place::Build,
            out,
        )?;
        let format = format::read(&mut table, about, out);
        let pages = table.stated("page_size", |field| field.integer(1, LARGEST_PAGE, out));
        let layout = table.stated("rope_layout", |field| field.word(&LAYOUTS, out));
        if let Some((_, key)) = layout.given() {
            layout_needs_rope(key, about, out);
        }
        if let Some((format, _)) = format.given()
            && format.value.0 == CacheKind::Latent
        {
            latents_needed(format.span, about, out);
        }
        let index = index::read(&mut table, about, out);
        let queries = index::read_queries(&mut table, out);
        table.finish(out);
        format::agree(&format, &pages, dtype, about, out);
        index::agree(&index, &pages, dtype, about, out);
        index::agree_on_queries(&queries, &index, about, out);
        if let (Some((format, _)), Some(dtype)) = (format.given(), dtype) {
            warn_of_width(*format, dtype, out);
        }
        let defaults = Self::default_for(dtype, about);
        let (kind, store) = format
            .and_then(|format| Some(format.value))
            .or((defaults.kind, defaults.store))?;
        let index = index.and_then(|index| Some(index.value)).or(match store {
            Store::Plain(dtype) => IndexStore::Plain(dtype),
            _ => defaults.index,
        })?;
        let spec = CacheSpec {
            kind,
            store,
            index,
            rounds_index_queries: queries.optional()?.is_some_and(|queries| queries.value),
            page_size: pages.optional()?.map(|pages| pages.value),
            rope_layout: layout.optional()?.map(|layout| layout.value),
        };
        let kind = format.given().map(|(format, _)| format.span);
        Some(Self { kind, spec })
    }

    /// Refuses caches that lack what the layer reads.
    pub(super) fn agrees_with(
        &self,
        form: Spanned<FormChoice>,
        about: &About,
        out: &mut Diagnostics,
    ) {
        self.agrees_with_core(about, out);
        if let (Some(span), CacheKind::Naive, FormChoice::Forced(Form::Mqa)) =
            (self.kind, self.spec.kind, form.value)
        {
            let message = "`form: mqa` reads latents, and a naive cache holds none";
            let without = Diagnostic::error(
                codes::NAIVE_CACHE_ABSORBED,
                message,
                form.span,
                "the absorbed form",
            );
            out.push(
                without
                    .and(span, "expanded keys and values")
                    .help("write `form: mha`, or choose a `latent_*` format"),
            );
        }
    }
}

impl Cache {
    /// Selected and shared tokens are read from latents.
    fn agrees_with_core(&self, about: &About, out: &mut Diagnostics) {
        let (Some(format), CacheKind::Naive) = (self.kind, self.spec.kind) else {
            return;
        };
        if let Some((Core::Sparse(_), core)) = &about.core {
            let message = "sparse attention reads the latents of the tokens that were picked, and a naive cache holds none";
            let expanded = Diagnostic::error(
                codes::SPARSE_EXPANDED,
                message,
                format,
                "expanded keys and values",
            );
            out.push(
                expanded
                    .and(*core, "attends to picked tokens")
                    .help("choose a `latent_*` format"),
            );
        }
        if let Some(shared) = about.latent.as_ref().and_then(|latent| latent.elsewhere) {
            let message = "layers share latents, and a naive cache holds none";
            let expanded = Diagnostic::error(
                codes::SHARED_LATENTS_EXPANDED,
                message,
                format,
                "expanded keys and values",
            );
            out.push(
                expanded
                    .and(shared, "latents are shared")
                    .help("choose a `latent_*` format"),
            );
        }
    }
}

/// Only latent attention has latents to keep.
fn latents_needed(format: Span, about: &About, out: &mut Diagnostics) {
    let Some((module, at)) = about
        .attention
        .filter(|(module, _)| module.has_no_latents())
    else {
        return;
    };
    let message = format!(
        "this cache keeps latents, and `{}` makes none",
        module.name()
    );
    let label = "nothing to keep";
    let without = Diagnostic::error(codes::LATENT_CACHE_WITHOUT_LATENT, message, format, label);
    out.push(
        without
            .and(at, "makes no latents")
            .help("choose a `naive_*` format, such as `naive_bf16`: every group's keys and values"),
    );
}

fn layout_needs_rope(key: Span, about: &About, out: &mut Diagnostics) {
    if let Some((Rope::None, because)) = &about.rope {
        let message = "`rope_layout` orders rotated keys, and this layer rotates none";
        let label = "nothing to order";
        let without = Diagnostic::error(codes::CACHE_LAYOUT_WITHOUT_ROPE, message, key, label);
        out.push(
            without
                .and(*because, "nothing is rotated")
                .help("remove `rope_layout`"),
        );
    }
}

/// Warns of a cache that stores more digits than are ever computed.
fn warn_of_width(format: Spanned<Format>, dtype: Spanned<DType>, out: &mut Diagnostics) {
    let (_, Store::Plain(stored)) = format.value else {
        return;
    };
    let wider = match dtype.value {
        DType::F32 => stored == CacheDType::F64,
        DType::Bf16 => matches!(stored, CacheDType::F32 | CacheDType::F64),
        DType::F64 => false,
    };
    if !wider {
        return;
    }
    let name = DTYPES.name_of(dtype.value);
    let message = format!("the cache is wider than the {name} values that it stores");
    let warning = Diagnostic::warning(
        codes::CACHE_WIDER_THAN_VALUES,
        message,
        format.span,
        "costs memory, adds no digit",
    );
    let warning = if dtype.span.is_none() {
        warning
    } else {
        warning.and(dtype.span, "values are computed so")
    };
    out.push(warning.help(format!(
        "a format that ends in `_{name}` stores them exactly"
    )));
}
