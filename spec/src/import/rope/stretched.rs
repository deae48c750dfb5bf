//! Rope types that stretch frequencies by lists, by bands or by length: `longrope`, `llama3`, `dynamic`.

use super::super::assemble::{Comments, entry, list, real, size, word};
use super::super::codes;
use super::super::config::{Config, Given, wrong_value};
use super::super::family::Family;
use super::scaled::{lint_unread, refuse_correction, required_factor};
use super::yarn;
use crate::diagnostic::Diagnostic;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::Spanned;

/// The entries of a `type: longrope` rope (arXiv:2402.13753, as the library selects and scales).
pub(super) fn longrope(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
    comments: &mut Comments,
) -> Option<Vec<Entry>> {
    refuse_correction(rope, kind.value)?;
    let short = divisors(rope, kind, "short_factor");
    let long = divisors(rope, kind, "long_factor");
    let original = yarn::original_length(config, family, rope, comments);
    let attention_factor = attention_factor(config, family, rope, original.value, comments)?;
    lint_unread(
        rope,
        kind.value,
        &["beta_fast", "beta_slow", "mscale", "truncate"],
    );
    let (short, long) = (short?, long?);
    let (select, why) = if short == long {
        ("short", "both lists are the same")
    } else {
        (
            "by_length",
            "a call whose longest position reaches the original length takes the long factors throughout",
        )
    };
    comments.add("params.rope.select", why);
    Some(vec![
        word("type", "longrope", kind.span),
        real("theta", theta),
        word("layout", layout.value, layout.span),
        entry("short_factor", short),
        entry("long_factor", long),
        size("original_max_position_embeddings", original),
        real("attention_factor", attention_factor),
        word("select", select, kind.span),
    ])
}

/// A list of divisors, one per pair.
fn divisors(rope: &Config<'_>, kind: Spanned<&str>, key: &str) -> Option<Node> {
    let items = match rope.list(key) {
        Given::Value(items) => items,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => {
            rope.report(missing(kind, key, "a list with one divisor per pair"));
            return None;
        }
    };
    let mut numbers = Vec::with_capacity(items.value.len());
    for item in items.value {
        let number = match &item.kind {
            NodeKind::Scalar(Scalar::Float(number)) => *number,
            NodeKind::Scalar(Scalar::Int(number)) => *number as f64,
            _ => {
                rope.report(wrong_value(key, item, "a list of numbers"));
                return None;
            }
        };
        numbers.push(Node::scalar(Scalar::Float(number), item.span));
    }
    Some(Node {
        span: items.span,
        ..list(numbers)
    })
}

/// `attention_factor`, else `sqrt(1 + ln f / ln L_0)` with `f` the `factor` or the ratio of the two lengths.
fn attention_factor(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    original: u32,
    comments: &mut Comments,
) -> Option<Spanned<f64>> {
    let factor = match rope.real("factor") {
        Given::Wrong => return None,
        given => given.value(),
    };
    match rope.real("attention_factor") {
        Given::Value(stated) => return Some(stated),
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => {}
    }
    let original = f64::from(original);
    let ratio = match factor {
        Some(factor) => factor.value,
        None => f64::from(yarn::max_positions(config, family)) / original,
    };
    comments.add(
        "params.rope.attention_factor",
        "sqrt(1 + ln f / ln L0), 1 where the context is not stretched",
    );
    let value = if ratio > 1.0 {
        (1.0 + ratio.ln() / original.ln()).sqrt()
    } else {
        1.0
    };
    Some(Spanned::unplaced(value))
}

/// The entries of a `type: llama3` rope.
pub(super) fn llama3(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
) -> Option<Vec<Entry>> {
    refuse_correction(rope, kind.value)?;
    let factor = required_factor(rope, kind);
    let bound = |key: &str| match rope.real(key) {
        Given::Value(bound) => Some(bound),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            rope.report(missing(kind, key, "a bound of the blend"));
            None
        }
    };
    let (low, high) = (bound("low_freq_factor"), bound("high_freq_factor"));
    let original = yarn::original_length(config, family, rope, &mut Comments::default());
    lint_unread(
        rope,
        kind.value,
        &[
            "beta_fast",
            "beta_slow",
            "mscale",
            "attention_factor",
            "truncate",
        ],
    );
    Some(vec![
        word("type", "llama3", kind.span),
        real("theta", theta),
        word("layout", layout.value, layout.span),
        real("factor", factor?),
        real("low_freq_factor", low?),
        real("high_freq_factor", high?),
        size("original_max_position_embeddings", original),
    ])
}

/// The entries of a `type: dynamic` rope.
pub(super) fn dynamic(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
    comments: &mut Comments,
) -> Option<Vec<Entry>> {
    refuse_correction(rope, kind.value)?;
    let factor = required_factor(rope, kind)?;
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
    comments.add(
        "params.rope.type",
        "the base follows each call's longest position; the library also remembers the longest one so far",
    );
    let positions = config.size("max_position_embeddings").value();
    let positions =
        positions.unwrap_or_else(|| Spanned::unplaced(yarn::max_positions(config, family)));
    Some(vec![
        word("type", "dynamic", kind.span),
        real("theta", theta),
        word("layout", layout.value, layout.span),
        real("factor", factor),
        size("max_position_embeddings", positions),
    ])
}

fn missing(kind: Spanned<&str>, key: &str, what: &str) -> Diagnostic {
    Diagnostic::error(
        codes::ROPE_KEY_MISSING,
        format!("rope type `{}` needs `{key}`", kind.value),
        kind.span,
        format!("`{key}` is missing"),
    )
    .help(format!("state `{key}`, {what}"))
}
