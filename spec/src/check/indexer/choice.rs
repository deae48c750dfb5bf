//! What is picked besides the best: forced tokens, pools.

use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::latent::sizes::LARGEST;
use crate::check::sparse::Surroundings;
use crate::check::value::{Field, Stated, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Forced, Pool, Rope};
use crate::span::{Span, Spanned};

/// `forced: { initial, local }`, which must leave something to pick.
pub(super) fn forced(
    field: &Field<'_>,
    topk: Option<Spanned<u32>>,
    out: &mut Diagnostics,
) -> Option<Forced> {
    let mut table = Table::map(
        field.name(),
        None,
        field.value,
        field.key.span,
        Place::Indexer,
        out,
    )?;
    let mut count = |key| table.require(key)?.integer(0, LARGEST, out);
    let (initial, local) = (count("initial"), count("local"));
    table.finish(out);
    let (initial, local) = (initial?, local?);
    let sum = initial.value + local.value;
    let complaint = match topk {
        _ if sum == 0 => Some((
            "`forced` forces nothing".to_owned(),
            "remove `forced`".to_owned(),
        )),
        Some(topk) if sum >= topk.value => Some((
            format!(
                "`forced` takes {sum} of `topk`'s {} places and leaves none to pick",
                topk.value
            ),
            "force fewer tokens, or raise `topk`: forced tokens count towards it".to_owned(),
        )),
        _ => None,
    };
    if let Some((message, help)) = complaint {
        let fills = Diagnostic::error(
            codes::FORCED_FILLS_TOPK,
            message,
            local.span,
            "`initial` and `local` together",
        );
        let fills = match topk.filter(|_| sum > 0) {
            Some(topk) => fills.and(topk.span, "all places"),
            None => fills,
        };
        out.push(fills.help(help));
    }
    Some(Forced {
        initial: initial.value,
        local: local.value,
    })
}

/// `pool: { size, always_select_tail }`.
pub(super) fn pool(field: &Field<'_>, out: &mut Diagnostics) -> Option<Pool> {
    let mut table = Table::map(
        field.name(),
        Some("size"),
        field.value,
        field.key.span,
        Place::Indexer,
        out,
    )?;
    let size = table
        .require("size")
        .and_then(|field| field.integer(2, LARGEST, out));
    let tail = table
        .require("always_select_tail")
        .and_then(|field| field.boolean(out));
    table.finish(out);
    Some(Pool {
        size: size?.value,
        always_select_tail: tail?,
    })
}

pub(super) fn refuse_pool_size(pool: Pool, key: Span, topk: Spanned<u32>, out: &mut Diagnostics) {
    if topk.value.is_multiple_of(pool.size) {
        return;
    }
    let message = format!(
        "`topk` of {} is no whole number of pools of {}",
        topk.value, pool.size
    );
    let size = Diagnostic::error(codes::POOL_SIZE, message, key, "whole pools are picked");
    out.push(size.and(topk.span, "how many tokens").help(format!(
        "give a `topk` that {} divides, such as {}",
        pool.size,
        (topk.value / pool.size).max(1) * pool.size
    )));
}

/// What nobody has defined for pooled keys (S-17).
pub(super) fn refuse_undefined_pool(
    pool: &Stated<Pool>,
    forced: &Stated<Forced>,
    hadamard: &Stated<bool>,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) {
    let Some((_, pool)) = pool.given() else {
        return;
    };
    let rotated = match around.rope {
        Some((Rope::Rotary(_), span)) => Some(span),
        _ => None,
    };
    let hadamard = hadamard
        .given()
        .filter(|(hadamard, _)| **hadamard)
        .map(|(_, span)| span);
    let reasons = [
        (
            rotated,
            "a pooled key is an average over positions, so it can't be rotated to one",
            "the layer's rope",
            "remove `pool`, or write `rope: { type: none }`",
        ),
        (
            forced.given().map(|(_, span)| span),
            "forced tokens are picked one by one, and pools as a whole",
            "forces tokens",
            "keep `pool` or `forced`",
        ),
        (
            hadamard,
            "keys are pooled element by element, which is another sum after a Hadamard matrix",
            "mixes the elements",
            "remove `hadamard`: exact scores are the same without it",
        ),
    ];
    for (span, message, label, help) in reasons {
        if let Some(span) = span {
            let undefined =
                Diagnostic::error(codes::POOL_UNDEFINED, message, pool, "pools its keys");
            out.push(undefined.and(span, label).help(help));
        }
    }
}
