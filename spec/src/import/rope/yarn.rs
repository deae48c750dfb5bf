//! YaRN: frequencies stretched by a ramp, and the two mscales.

use super::super::assemble::rope::Magnitude;
use super::super::assemble::{self, Comments};
use super::super::codes;
use super::super::config::{Config, Given};
use super::super::family::Family;
use super::scaled::required_factor;
use crate::diagnostic::Diagnostic;
use crate::layer::yarn_magnitude;
use crate::node::Entry;
use crate::span::{Span, Spanned};

/// The entries of a `type: yarn` rope.
pub(super) fn read(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
    comments: &mut Comments,
) -> Option<Vec<Entry>> {
    let original = original_length(config, family, rope, comments);
    let factor = match rope.real("factor") {
        Given::Null(_) if original.value > 0 => {
            comments.add(
                "params.rope.factor",
                "null in the config: max_position_embeddings over the original length",
            );
            Spanned::unplaced(f64::from(max_positions(config, family)) / f64::from(original.value))
        }
        _ => required_factor(rope, kind)?,
    };
    let truncate = match rope.flag("truncate") {
        Given::Value(given) => given,
        Given::Wrong => return None,
        Given::Null(span) => Spanned::new(false, span),
        Given::Absent => {
            comments.add(
                "params.rope.truncate",
                "absent: the ramp's bounds are rounded outwards",
            );
            Spanned::unplaced(true)
        }
    };
    if !truncate.value {
        super::super::lints::read_otherwise(
            config,
            "`truncate`",
            truncate.span,
            "Megatron and DeepSeek's own code always round the ramp's bounds outwards",
        );
    }
    comments.add(
        "params.rope.type",
        "applies at every length, also below the original one",
    );
    let (magnitude, mscale_all_dim) = magnitudes(rope, factor.value, comments);
    Some(assemble::rope::yarn(assemble::rope::Yarn {
        kind: kind.span,
        theta,
        layout,
        factor,
        original,
        beta_fast: beta(rope, "beta_fast", 32.0, comments),
        beta_slow: beta(rope, "beta_slow", 1.0, comments),
        magnitude,
        mscale_all_dim,
        truncate,
    }))
}

/// `original_max_position_embeddings`, or what stands in for it.
pub(super) fn original_length(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    comments: &mut Comments,
) -> Spanned<u32> {
    const KEY: &str = "original_max_position_embeddings";
    let inside = rope.size(KEY).value();
    if let Some(original) = config.size(KEY).value().or(inside) {
        return original;
    }
    comments.add(
        "params.rope.original_max_position_embeddings",
        "absent: max_position_embeddings stands in",
    );
    Spanned::unplaced(max_positions(config, family))
}

/// `max_position_embeddings`, or the class default.
pub(super) fn max_positions(config: &Config<'_>, family: &Family) -> u32 {
    config
        .size("max_position_embeddings")
        .value()
        .map_or(family.defaults.max_position_embeddings, |given| given.value)
}

/// A bound of the ramp; 0 counts as absent.
fn beta(rope: &Config<'_>, key: &str, default: f64, comments: &mut Comments) -> Spanned<f64> {
    match rope.real(key).value().filter(|given| given.value != 0.0) {
        Some(given) => given,
        None => {
            comments.add(
                &format!("params.rope.{key}"),
                "absent or 0: the library's default",
            );
            Spanned::unplaced(default)
        }
    }
}

/// `mscale` or `attention_factor`, and `mscale_all_dim` (features D-06, E-01).
///
/// cos and sin: an explicit `attention_factor` wins; else the ratio where both mscales are set; else `g(f, 1)`.
/// Softmax scale: `g(f, mscale_all_dim)²` where `mscale_all_dim` is set. 0 counts as not set.
fn magnitudes(
    rope: &Config<'_>,
    factor: f64,
    comments: &mut Comments,
) -> (Magnitude, Spanned<f64>) {
    let set = |given: Given<f64>| given.value().filter(|given| given.value != 0.0);
    let (mscale, all_dim) = (set(rope.real("mscale")), set(rope.real("mscale_all_dim")));
    let explicit = rope.real("attention_factor").value();
    let stated_all_dim = match all_dim {
        Some(all_dim) => all_dim,
        None => {
            comments.add(
                "params.rope.mscale_all_dim",
                "not set: the softmax scale is not corrected",
            );
            Spanned::unplaced(0.0)
        }
    };
    let magnitude = match (explicit, mscale, all_dim) {
        (Some(explicit), _, _) => {
            if let Some(mscale) = mscale {
                lint_mscale_unread(rope, mscale.span, "`attention_factor` is there too");
            }
            Magnitude::Constant(explicit)
        }
        (None, Some(mscale), Some(all_dim)) => {
            if mscale.value != all_dim.value {
                rope.report(mscales_differ(mscale, all_dim, factor));
            }
            Magnitude::Mscale(mscale)
        }
        (None, mscale, None) => {
            comments.add(
                "params.rope.mscale",
                "the magnitude is 0.1 ln(factor) + 1 unless both mscales are set",
            );
            if let Some(mscale) = mscale.filter(|mscale| mscale.value != 1.0) {
                lint_mscale_unread(
                    rope,
                    mscale.span,
                    "it counts only together with `mscale_all_dim`",
                );
            }
            Magnitude::Mscale(Spanned::unplaced(1.0))
        }
        (None, None, Some(_)) => {
            comments.add(
                "params.rope.attention_factor",
                "0.1 ln(factor) + 1, since mscale is not set",
            );
            Magnitude::Constant(Spanned::unplaced(yarn_magnitude(factor, 1.0)))
        }
    };
    (magnitude, stated_all_dim)
}

pub(in crate::import) fn mscales_differ(
    mscale: Spanned<f64>,
    all_dim: Spanned<f64>,
    factor: f64,
) -> Diagnostic {
    let ratio = yarn_magnitude(factor, mscale.value) / yarn_magnitude(factor, all_dim.value);
    Diagnostic::warning(
        codes::MSCALES_DIFFER,
        format!("`mscale` and `mscale_all_dim` differ: cos and sin are multiplied by {ratio:.6}"),
        mscale.span,
        "the numerator",
    )
    .and(
        all_dim.span,
        "the denominator, and the softmax scale's correction",
    )
    .note("systems with one field for both compute something else from this config")
}

fn lint_mscale_unread(rope: &Config<'_>, span: Span, why: &str) {
    rope.report(Diagnostic::warning(
        codes::UNUSED_ROPE_KEYS,
        format!("`mscale` is not read: {why}"),
        span,
        "has no effect",
    ));
}
