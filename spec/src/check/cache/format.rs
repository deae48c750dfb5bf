//! `format` and `scale_format`: how latents are stored, and what each format asks of them (features 1.J).

use super::super::About;
use super::super::build::DTYPES;
use super::super::codes;
use super::super::value::{Stated, Table};
use super::super::words::{Others, Words};
use crate::build::{CacheDType, CacheKind, DType, Fp8, ScaleFormat, Store};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::span::{Span, Spanned};

/// What is kept, and how.
pub(super) type Format = (CacheKind, Store);

#[rustfmt::skip] // a table: one format a line
const FORMATS: Words<'static, Format> = Words {
    choices: &[
        ("latent_f32", (CacheKind::Latent, Store::Plain(CacheDType::F32))),
        ("latent_bf16", (CacheKind::Latent, Store::Plain(CacheDType::Bf16))),
        ("latent_f16", (CacheKind::Latent, Store::Plain(CacheDType::F16))),
        ("latent_f64", (CacheKind::Latent, Store::Plain(CacheDType::F64))),
        ("latent_fp8_e4m3", (CacheKind::Latent, Store::Fp8(Fp8::E4m3))),
        ("latent_fp8_e5m2", (CacheKind::Latent, Store::Fp8(Fp8::E5m2))),
        ("fp8_ds_mla", (CacheKind::Latent, Store::Fp8DsMla(ScaleFormat::F32))),
        ("fp8_model1", (CacheKind::Latent, Store::Model1)),
        ("mxfp8", (CacheKind::Latent, Store::Mxfp8)),
        ("naive_f32", (CacheKind::Naive, Store::Plain(CacheDType::F32))),
        ("naive_bf16", (CacheKind::Naive, Store::Plain(CacheDType::Bf16))),
        ("naive_f16", (CacheKind::Naive, Store::Plain(CacheDType::F16))),
        ("naive_f64", (CacheKind::Naive, Store::Plain(CacheDType::F64))),
    ],
    aliases: &[
        ("bf16", "latent_bf16"),
        ("f16", "latent_f16"),
        ("f32", "latent_f32"),
        ("f64", "latent_f64"),
        ("latent", "latent_f32"),
        ("naive", "naive_f32"),
        ("expanded", "naive_f32"),
        ("fp8_e4m3", "latent_fp8_e4m3"),
        ("fp8_e5m2", "latent_fp8_e5m2"),
        ("latent_fp8", "latent_fp8_e4m3"),
        ("model1", "fp8_model1"),
        ("latent_mxfp8", "mxfp8"),
    ],
    others: Some(&Others {
        code: codes::CACHE_FORMAT_LATER,
        verdict: "is no cache format of this release",
        label: "known elsewhere, not here",
        words: &[
            ("fp8", "write `latent_fp8_e4m3` for one scale per cache, or `fp8_ds_mla` for one per 128 latents; `fp8` means either"),
            ("auto", "write the format itself, such as `latent_bf16` for a model in bf16: nothing chooses it"),
            ("nvfp4_ds_mla", "use `fp8_ds_mla`, or wait: 4-bit caches are not in this release"),
            ("int8", "use `latent_fp8_e4m3`, or wait: integer caches are not in this release"),
            ("int4", "use `latent_fp8_e4m3`, or wait: integer caches are not in this release"),
            ("naive_fp8_e4m3", "use `naive_bf16` or `latent_fp8_e4m3`: expanded caches are not quantised"),
        ],
    }),
};

/// How scales are rounded, of latents and of an indexer's keys.
pub(super) const SCALES: Words<'static, ScaleFormat> = Words {
    choices: &[
        ("f32", ScaleFormat::F32),
        ("ue8m0", ScaleFormat::PowerOfTwo),
    ],
    aliases: &[
        ("float32", "f32"),
        ("fp32", "f32"),
        ("power_of_two", "ue8m0"),
        ("e8m0", "ue8m0"),
    ],
    others: None,
};

/// Reads `format` and `scale_format`, which belong together. A layer without latents is asked for no scales of them.
pub(super) fn read(
    table: &mut Table<'_>,
    about: &About,
    out: &mut Diagnostics,
) -> Stated<Spanned<Format>> {
    let format = table.stated("format", |field| field.word(&FORMATS, out));
    let scales = table.stated("scale_format", |field| field.word(&SCALES, out));
    match format.given() {
        Some((
            Spanned {
                value: (_, Store::Fp8DsMla(_)),
                span,
            },
            _,
        )) if scales.is_absent() => {
            if !about.lacks_latents() {
                refuse_no_scales(*span, out);
            }
            format
        }
        Some((
            Spanned {
                value: (_, Store::Fp8DsMla(_)),
                ..
            },
            _,
        )) => format.and_then(|format| {
            let scales = scales.optional()??.value;
            Some(Spanned::new(
                (CacheKind::Latent, Store::Fp8DsMla(scales)),
                format.span,
            ))
        }),
        other => {
            if let (Some((_, key)), false) = (scales.given(), matches!(format, Stated::Refused)) {
                refuse_scales(key, other.map(|(format, _)| format.span), out);
            }
            format
        }
    }
}

fn refuse_no_scales(format: Span, out: &mut Diagnostics) {
    let message = "`fp8_ds_mla` lacks `scale_format`";
    let missing = Diagnostic::error(
        codes::MISSING_SCALE_FORMAT,
        message,
        format,
        "how are its scales rounded?",
    );
    out.push(
        missing
            .note("writers disagree: some round scales up to powers of two, some keep every f32")
            .help("add `scale_format: ue8m0` for powers of two, or `scale_format: f32`"),
    );
}

fn refuse_scales(key: Span, format: Option<Span>, out: &mut Diagnostics) {
    let message = "`scale_format` is read by `fp8_ds_mla` alone";
    let unread = Diagnostic::error(
        codes::SCALE_FORMAT_UNREAD,
        message,
        key,
        "nothing reads this",
    );
    let unread = match format {
        Some(format) => unread.and(format, "has no scales, or only one kind of them"),
        None => unread.note("without `format` a cache holds latents in the type of arithmetic"),
    };
    out.push(unread.help(
        "remove `scale_format`, or write `format: fp8_ds_mla`; the scales of an indexer's keys are `index_format: fp8` or `fp8_ue8m0`",
    ));
}

/// Refuses formats that don't fit the latents, the pages or the type of arithmetic.
pub(super) fn agree(
    format: &Stated<Spanned<Format>>,
    pages: &Stated<Spanned<u32>>,
    dtype: Option<Spanned<DType>>,
    about: &About,
    out: &mut Diagnostics,
) {
    let Some((format, _)) = format.given() else {
        return;
    };
    let (_, store) = format.value;
    let name = FORMATS.name_of(without_scales(format.value));
    if !matches!(store, Store::Plain(_)) {
        refuse_proofs("format", name, format.span, dtype, out);
    }
    refuse_groups(store, name, format.span, about, out);
    if store == Store::Model1 && pages.is_absent() {
        refuse_no_pages("format", name, format.span, out);
    }
}

/// The format as its word stands for it.
fn without_scales((kind, store): Format) -> Format {
    match store {
        Store::Fp8DsMla(_) => (kind, Store::Fp8DsMla(ScaleFormat::F32)),
        _ => (kind, store),
    }
}

/// Elements that share a scale must be there in full, and must not belong to latent and rope key at once (4.5, 17).
fn refuse_groups(store: Store, name: &str, format: Span, about: &About, out: &mut Diagnostics) {
    let Some(latent) = &about.latent else {
        return;
    };
    let (group, both) = match store {
        Store::Plain(_) | Store::Fp8(_) => return,
        Store::Fp8DsMla(_) => (128, false),
        Store::Model1 => (64, false),
        Store::Mxfp8 => (32, true),
    };
    let parts = [
        ("kv_lora_rank", latent.kv_lora_rank),
        ("qk_rope_head_dim", latent.qk_rope_head_dim.filter(|_| both)),
    ];
    for (key, size) in parts {
        let Some(size) = size.filter(|size| size.value % group != 0) else {
            continue;
        };
        let message = format!(
            "`{name}` has a scale for every {group} elements, and `{key}` is {}",
            size.value
        );
        let groups = Diagnostic::error(
            codes::FORMAT_GROUPS,
            message,
            format,
            "groups would be left incomplete",
        );
        out.push(
            groups
                .and(size.span, format!("not a multiple of {group}"))
                .help("choose another format, such as `latent_bf16` or `latent_fp8_e4m3`"),
        );
    }
}

/// Formats with all scales behind a block's data need blocks.
pub(super) fn refuse_no_pages(key: &str, name: &str, format: Span, out: &mut Diagnostics) {
    let message = format!("`{key}: {name}` keeps the scales of a page behind its data");
    let no_pages = Diagnostic::error(
        codes::FORMAT_NEEDS_PAGES,
        message,
        format,
        "a contiguous cache has no pages",
    );
    out.push(no_pages.help("add `page_size`, such as `page_size: 64`"));
}

/// f64 is for proofs, which 8 bits would spoil.
pub(super) fn refuse_proofs(
    key: &str,
    name: &str,
    format: Span,
    dtype: Option<Spanned<DType>>,
    out: &mut Diagnostics,
) {
    let Some(dtype) = dtype.filter(|dtype| dtype.value == DType::F64) else {
        return;
    };
    let exact = match key {
        "format" => "latent_f64",
        _ => "index_format: f64",
    };
    let message = format!(
        "`{key}: {name}` rounds what `dtype: {}` computes for proofs",
        DTYPES.name_of(dtype.value)
    );
    let proof = Diagnostic::error(
        codes::QUANTISED_PROOF,
        message,
        format,
        "keeps few of 53 bits",
    );
    out.push(
        proof
            .and(dtype.span, "for proofs")
            .help(format!("write `{exact}`, or `dtype: f32` or `bf16`")),
    );
}
