//! Lengths: those that forms are chosen at, and the chunk in which a cache is expanded.

use super::LONGEST;
use super::phases::{CACHED, Phases};
use crate::build::{Build, CacheKind, Expect, Form, FormChoice, Phase};
use crate::check::About;
use crate::check::cache::Cache;
use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::Core;
use crate::span::Spanned;

/// The lengths that forms are chosen at; each is read by some phases, and none where the form is forced.
pub(super) fn expect(
    table: &mut Table<'_>,
    phases: &Phases,
    form: Option<Spanned<FormChoice>>,
    out: &mut Diagnostics,
) -> Option<Expect> {
    let mut expect = Expect::default();
    let Some(field) = table.take("expect") else {
        return Some(expect);
    };
    if let Some(form) = form.filter(|form| form.value != FormChoice::Auto) {
        let message = "`expect` serves to choose a form, and the form is forced";
        let unused = Diagnostic::error(
            codes::UNUSED_BUILD_KEY,
            message,
            field.key.span,
            "nothing reads this",
        );
        out.push(
            unused
                .and(form.span, "forced here")
                .help("remove `expect`, or write `form: auto`"),
        );
    }
    let mut lengths = Table::map(
        "expect",
        None,
        field.value,
        field.key.span,
        Place::Build,
        out,
    )?;
    let readers: [(&'static str, &[Phase], u32, &mut u32); 4] = [
        (
            "prefill_tokens",
            &[Phase::Forward, Phase::Prefill, Phase::Train],
            1,
            &mut expect.prefill_tokens,
        ),
        (
            "prefill_context",
            &[Phase::Prefill],
            0,
            &mut expect.prefill_context,
        ),
        (
            "decode_tokens",
            &[Phase::Decode],
            1,
            &mut expect.decode_tokens,
        ),
        (
            "decode_context",
            &[Phase::Decode],
            0,
            &mut expect.decode_context,
        ),
    ];
    for (key, read_by, min, length) in readers {
        let Some(field) = lengths.take(key) else {
            continue;
        };
        phases.refuse_unless(read_by, &field, out);
        if let Some(value) = field.integer(min, LONGEST, out) {
            *length = value.value;
        }
    }
    lengths.finish(out);
    Some(expect)
}

/// The chunk in which a latent cache is expanded: read only where some phase may expand one.
pub(super) fn context_chunk(
    table: &mut Table<'_>,
    phases: &Phases,
    form: Option<Spanned<FormChoice>>,
    cache: Option<&Cache>,
    about: &About,
    out: &mut Diagnostics,
) -> Option<u32> {
    let Some(field) = table.take("context_chunk") else {
        return Some(Build::default().context_chunk);
    };
    if !phases.refuse_unless(&CACHED, &field, out) {
        let naive = cache
            .filter(|cache| cache.spec.kind == CacheKind::Naive)
            .and_then(|cache| cache.kind);
        let absorbed = form
            .filter(|form| form.value == FormChoice::Forced(Form::Mqa))
            .map(|form| form.span);
        let sparse = match &about.core {
            Some((Core::Sparse(_), core)) => Some(*core),
            _ => None,
        };
        let because = naive
            .map(|span| (span, "already expanded"))
            .or(sparse.map(|span| (span, "reads picked latents as they are")))
            .or(absorbed.map(|span| (span, "never expands")));
        if let Some((span, label)) = because {
            let message = "`context_chunk` serves to expand a latent cache, and none is expanded";
            let unused = Diagnostic::error(
                codes::UNUSED_BUILD_KEY,
                message,
                field.key.span,
                "nothing reads this",
            );
            out.push(unused.and(span, label).help("remove `context_chunk`"));
        }
    }
    field.integer(1, LONGEST, out).map(|chunk| chunk.value)
}
