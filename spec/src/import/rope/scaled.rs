//! Rope types `default` and `linear`, and what scaled types have in common.

use super::super::assemble;
use super::super::codes;
use super::super::config::{Config, Given};
use crate::diagnostic::Diagnostic;
use crate::node::{Entry, NodeKind, Scalar};
use crate::span::{Span, Spanned};

pub(super) fn plain(
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
) -> Vec<Entry> {
    let unread = [
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
        "truncate",
    ];
    lint_unread(rope, kind.value, &unread);
    assemble::rope::plain(kind.span, theta, layout)
}

pub(super) fn linear(
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
) -> Option<Vec<Entry>> {
    let factor = required_factor(rope, kind)?;
    refuse_correction(rope, kind.value)?;
    lint_unread(
        rope,
        kind.value,
        &[
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "mscale",
            "attention_factor",
            "truncate",
        ],
    );
    Some(assemble::rope::linear(kind.span, theta, layout, factor))
}

/// The language states the softmax correction of `mscale_all_dim` for `yarn` only.
pub(super) fn refuse_correction(rope: &Config<'_>, kind: &str) -> Option<()> {
    let Some(corrected) = softmax_correction(rope, kind) else {
        return Some(());
    };
    rope.report(
        Diagnostic::error(
            codes::ROPE_NOT_EXPRESSIBLE,
            format!("`mscale_all_dim` with rope type `{kind}` corrects the softmax scale, which the language states for `yarn` only"),
            corrected,
            "multiplies the softmax scale by g(factor, mscale_all_dim)²",
        )
        .help("remove `mscale_all_dim` if the model was not trained with it"),
    );
    None
}

/// Where the softmax scale is corrected, if it is: `g(factor, mscale_all_dim)²`, for every scaled rope type.
pub(super) fn softmax_correction(rope: &Config<'_>, kind: &str) -> Option<Span> {
    let all_dim = rope.real("mscale_all_dim").value()?;
    let factor = rope.real("factor").value()?;
    (kind != "default" && all_dim.value != 0.0 && factor.value > 1.0).then_some(all_dim.span)
}

pub(super) fn required_factor(rope: &Config<'_>, kind: Spanned<&str>) -> Option<Spanned<f64>> {
    match rope.real("factor") {
        Given::Value(factor) => Some(factor),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            let message = format!("rope type `{}` needs `factor`", kind.value);
            rope.report(
                Diagnostic::error(
                    codes::ROPE_KEY_MISSING,
                    message,
                    kind.span,
                    "`factor` is missing",
                )
                .help("state `factor`, the ratio of the stretched to the original context length"),
            );
            None
        }
    }
}

/// Warns about keys that are set although this rope type has no use for them.
pub(super) fn lint_unread(rope: &Config<'_>, kind: &str, keys: &[&str]) {
    for key in keys {
        if let Some(entry) = rope.entry(key)
            && entry.value.kind != NodeKind::Scalar(Scalar::Null)
        {
            let message = format!("`{key}` is not read with rope type `{kind}`");
            rope.report(Diagnostic::warning(
                codes::UNUSED_ROPE_KEYS,
                message,
                entry.key.span,
                "has no effect",
            ));
        }
    }
}
