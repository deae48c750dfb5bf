//! `qk_clip`: the bound on logits that scales the weights behind them (features 1.N).

use super::codes;
use super::foreign::Place;
use super::logits;
use super::text::wrong_kind;
use super::value::{Field, Stated, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::QkClip;
use crate::node::NodeKind;
use crate::span::Span;

/// What was found, and where.
pub(super) type Found = Stated<QkClip>;

/// Reads the key that every attention module has. Logits must follow the weights that are scaled.
pub(super) fn read(
    table: &mut Table<'_>,
    logits: &logits::Found,
    normed: Option<Span>,
    out: &mut Diagnostics,
) -> Found {
    let clip = table.stated("qk_clip", |field| clip(&field, out));
    if let Some((_, key)) = clip.given() {
        refuse_bent_logits(key, logits, out);
        if let Some(norm) = normed {
            refuse_normed_heads(key, norm, out);
        }
    }
    clip
}

fn clip(field: &Field<'_>, out: &mut Diagnostics) -> Option<QkClip> {
    if !matches!(field.value.kind, NodeKind::Map(_)) {
        let wrong = wrong_kind(field.name(), "a mapping", field.value);
        out.push(wrong.help("write both numbers: `qk_clip: { threshold: 100.0, alpha: 0.5 }`"));
        return None;
    }
    let place = Place::Training;
    let mut table = Table::map(field.name(), None, field.value, field.key.span, place, out)?;
    let threshold = table.require("threshold").and_then(|field| {
        field.bounded(
            "greater than 0 and at most 1e6",
            |threshold| threshold > 0.0 && threshold <= 1e6,
            out,
        )
    });
    let alpha = table.require("alpha").and_then(|field| {
        field.bounded(
            "greater than 0 and less than 1",
            |alpha| alpha > 0.0 && alpha < 1.0,
            out,
        )
    });
    table.finish(out);
    Some(QkClip {
        threshold: threshold?,
        alpha: alpha?,
    })
}

/// `η` times the weights must be `η` times the logits, and the largest of them the statistic.
fn refuse_bent_logits(clip: Span, logits: &logits::Found, out: &mut Diagnostics) {
    let reasons = [
        (
            logits.soft_cap,
            "a soft cap bends logits, so they don't follow the weights that `qk_clip` scales",
            "bounds logits already",
            "remove `qk_clip` or `attn_logits_soft_cap`",
        ),
        (
            logits.bias,
            "a bias is added to logits whatever the weights are that `qk_clip` scales",
            "not made by weights",
            "remove `qk_clip` or `core_attention_bias`",
        ),
    ];
    for (span, message, label, help) in reasons {
        if let Some(span) = span {
            let follow = "logits wouldn't follow";
            let bent = Diagnostic::error(codes::CLIP_OF_BENT_LOGITS, message, clip, follow);
            out.push(bent.and(span, label).help(help));
        }
    }
}

/// A normed head has its length from the norm.
fn refuse_normed_heads(clip: Span, norm: Span, out: &mut Diagnostics) {
    let message =
        "a normed head is as long whatever weights made it, so `qk_clip` would scale nothing";
    let label = "clips no logits";
    let normed = Diagnostic::error(codes::CLIP_OF_NORMED_HEADS, message, clip, label);
    out.push(
        normed
            .and(norm, "norms heads")
            .help("remove `qk_clip`: the norm bounds logits"),
    );
}

/// The key, where it stands and training alone reads it.
pub(super) fn of_training(clip: &Found) -> Vec<(&'static str, Span)> {
    clip.given()
        .map(|(_, key)| ("qk_clip", key))
        .into_iter()
        .collect()
}
