//! The `cache` mapping of `build`: format, pages, and the order of cached rope keys.

use super::build::{About, DTYPES, read};
use super::codes;
use super::foreign::Place;
use super::rope::LAYOUTS;
use super::value::{Field, Later, Table, Words};
use crate::build::{CacheDType, CacheKind, CacheSpec, DType, Form, FormChoice, IndexStore, Store};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::Rope;
use crate::span::{Span, Spanned};

/// Largest page, in tokens.
const LARGEST_PAGE: u32 = 1 << 20;

type Format = (CacheKind, CacheDType);

const FORMATS: Words<'static, Format> = Words {
    choices: &[
        ("latent_f32", (CacheKind::Latent, CacheDType::F32)),
        ("latent_bf16", (CacheKind::Latent, CacheDType::Bf16)),
        ("latent_f16", (CacheKind::Latent, CacheDType::F16)),
        ("latent_f64", (CacheKind::Latent, CacheDType::F64)),
        ("naive_f32", (CacheKind::Naive, CacheDType::F32)),
        ("naive_bf16", (CacheKind::Naive, CacheDType::Bf16)),
        ("naive_f16", (CacheKind::Naive, CacheDType::F16)),
        ("naive_f64", (CacheKind::Naive, CacheDType::F64)),
    ],
    aliases: &[
        ("bf16", "latent_bf16"),
        ("f16", "latent_f16"),
        ("f32", "latent_f32"),
        ("f64", "latent_f64"),
        ("latent", "latent_f32"),
        ("naive", "naive_f32"),
        ("expanded", "naive_f32"),
        ("auto", "latent_f32"),
    ],
    later: Some(&Later {
        code: codes::CACHE_FORMAT_LATER,
        what: "a cache format",
        words: &[
            (
                "fp8",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "fp8_e4m3",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "fp8_e5m2",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "latent_fp8",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "latent_fp8_e4m3",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "fp8_ds_mla",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "nvfp4_ds_mla",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "mxfp8",
                "use `latent_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "int8",
                "use `naive_bf16`, or wait: quantised caches are not in this release",
            ),
            (
                "int4",
                "use `naive_bf16`, or wait: quantised caches are not in this release",
            ),
        ],
    }),
};

/// The cache, and where its kind was chosen.
pub(super) struct Cache {
    /// Where `format` was written, if it was.
    pub(super) kind: Option<Span>,
    pub(super) spec: CacheSpec,
}

impl Cache {
    /// The cache where none is described: latent, contiguous, of the arithmetic's type.
    pub(super) fn default_for(dtype: Option<Spanned<DType>>) -> CacheSpec {
        let dtype = match dtype.map(|dtype| dtype.value) {
            Some(DType::Bf16) => CacheDType::Bf16,
            Some(DType::F64) => CacheDType::F64,
            Some(DType::F32) | None => CacheDType::F32,
        };
        CacheSpec {
            store: Store::Plain(dtype),
            index: IndexStore::Plain(dtype),
            ..CacheSpec::default()
        }
    }

    pub(super) fn read(
        field: &Field<'_>,
        dtype: Option<Spanned<DType>>,
        about: &About<'_>,
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
        let format = read(
            &mut table,
            "format",
            |field, out| field.word(&FORMATS, out),
            out,
        );
        let page_size = read(
            &mut table,
            "page_size",
            |field, out| field.integer(1, LARGEST_PAGE, out),
            out,
        );
        let layout = table.take("rope_layout");
        let rope_layout = layout.map(|field| field.word(&LAYOUTS, out));
        if let Some(layout) = layout {
            layout_needs_rope(&layout, about, out);
        }
        table.finish(out);
        let defaults = Self::default_for(dtype);
        let format = match format {
            Some(format) => Some(format?),
            None => None,
        };
        if let (Some(format), Some(dtype)) = (format, dtype) {
            warn_of_width(format, dtype, out);
        }
        let (kind, store, index) = match format {
            Some(format) => {
                let (kind, dtype) = format.value;
                (kind, Store::Plain(dtype), IndexStore::Plain(dtype))
            }
            None => (defaults.kind, defaults.store, defaults.index),
        };
        let page_size = match page_size {
            Some(page_size) => Some(page_size?.value),
            None => None,
        };
        let rope_layout = match rope_layout {
            Some(layout) => Some(layout?.value),
            None => None,
        };
        let spec = CacheSpec {
            kind,
            store,
            index,
            page_size,
            rope_layout,
        };
        Some(Self {
            kind: format.map(|format| format.span),
            spec,
        })
    }

    pub(super) fn agrees_with(&self, form: Spanned<FormChoice>, out: &mut Diagnostics) {
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

fn layout_needs_rope(field: &Field<'_>, about: &About<'_>, out: &mut Diagnostics) {
    if let Some((Rope::None, because)) = about.rope {
        let message = "`rope_layout` orders rotated keys, and this layer rotates none";
        let label = "nothing to order";
        let without = Diagnostic::error(
            codes::CACHE_LAYOUT_WITHOUT_ROPE,
            message,
            field.key.span,
            label,
        );
        out.push(
            without
                .and(because, "nothing is rotated")
                .help("remove `rope_layout`"),
        );
    }
}

/// Warns of a cache that stores more digits than are ever computed.
fn warn_of_width(format: Spanned<Format>, dtype: Spanned<DType>, out: &mut Diagnostics) {
    let (.., stored) = format.value;
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
