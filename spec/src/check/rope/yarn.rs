//! Keys of `type: yarn`.

use super::{LONGEST_CONTEXT, bounded, factor};
use crate::check::codes;
use crate::check::value::{Field, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Yarn, YarnMagnitude};

pub(super) fn yarn(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<Yarn> {
    let factor = factor(table, out);
    let original = table
        .require("original_max_position_embeddings")
        .and_then(|field| field.integer(1, LONGEST_CONTEXT, out))
        .map(|original| original.value);
    let (beta_fast, beta_slow) = betas(table, out);
    let truncate = match table.take("truncate") {
        Some(field) => field.boolean(out),
        None => Some(true),
    };
    let mscale_all_dim = mscale_all_dim(table, out);
    let magnitude = magnitude(table, out);
    Some(Yarn {
        factor: factor?,
        original_max_position_embeddings: original?,
        beta_fast: beta_fast?,
        beta_slow: beta_slow?,
        truncate: truncate?,
        magnitude: magnitude?,
        mscale_all_dim: mscale_all_dim?,
    })
}

fn betas(table: &mut Table<'_>, out: &mut Diagnostics) -> (Option<f64>, Option<f64>) {
    let positive = |beta: f64| beta > 0.0 && beta <= 1e6;
    let mut beta = |key| {
        let field = table.require(key)?;
        Some((
            field,
            bounded(&field, "greater than 0 and at most 1e6", positive, out)?,
        ))
    };
    let (fast, slow) = (beta("beta_fast"), beta("beta_slow"));
    if let (Some((fast_field, fast)), Some((slow_field, slow))) = (fast, slow)
        && fast < slow
    {
        let message = format!("`beta_fast` must be at least `beta_slow`, found {fast} and {slow}");
        let swapped = Diagnostic::error(
            codes::BETAS_SWAPPED,
            message,
            fast_field.value.span,
            "less than `beta_slow`",
        );
        out.push(
            swapped
                .and(slow_field.value.span, "`beta_slow`")
                .help("swap them: frequencies of more than `beta_fast` rotations are kept"),
        );
        return (None, None);
    }
    (fast.map(|(_, value)| value), slow.map(|(_, value)| value))
}

fn mscale_all_dim(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<f64> {
    let Some(field) = table.take("mscale_all_dim") else {
        if !table.is_misspelt("mscale_all_dim") {
            let message = "`rope` of type `yarn` lacks `mscale_all_dim`";
            let label = "how is the softmax scale corrected?";
            let missing = Diagnostic::error(
                codes::MISSING_MSCALE_ALL_DIM,
                message,
                table.anchor(),
                label,
            );
            out.push(
                missing
                    .note("systems without this field use `mscale` or nothing in its place, with other numbers")
                    .help("add the checkpoint's `mscale_all_dim`, or `mscale_all_dim: 0` to leave the softmax scale alone"),
            );
        }
        return None;
    };
    mscale(&field, out)
}

fn magnitude(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<YarnMagnitude> {
    match (table.take("mscale"), table.take("attention_factor")) {
        (Some(field), None) => mscale(&field, out).map(|mscale| YarnMagnitude::Ratio { mscale }),
        (None, Some(field)) => bounded(
            &field,
            "greater than 0 and at most 1e3",
            |value| value > 0.0 && value <= 1e3,
            out,
        )
        .map(YarnMagnitude::Constant),
        (Some(mscale), Some(constant)) => {
            let message =
                "`mscale` and `attention_factor` both say what cos and sin are multiplied by";
            let both = Diagnostic::error(
                codes::ONE_MAGNITUDE,
                message,
                constant.key.span,
                "a constant",
            );
            out.push(
                both.and(mscale.key.span, "the numerator of a ratio")
                    .help("keep the one that the checkpoint has"),
            );
            None
        }
        (None, None) => {
            if !table.is_misspelt("mscale") && !table.is_misspelt("attention_factor") {
                let message = "`rope` of type `yarn` has neither `mscale` nor `attention_factor`";
                let label = "what are cos and sin multiplied by?";
                let neither =
                    Diagnostic::error(codes::ONE_MAGNITUDE, message, table.anchor(), label);
                out.push(
                    neither.help(
                        "add the checkpoint's `mscale`, or `attention_factor: 1.0` for nothing",
                    ),
                );
            }
            None
        }
    }
}

/// An `mscale`. None is negative, so that its magnitude `g(f, m)`, a divisor and a factor, is at least 1.
fn mscale(field: &Field<'_>, out: &mut Diagnostics) -> Option<f64> {
    bounded(
        field,
        "from 0 to 1e3",
        |mscale| (0.0..=1e3).contains(&mscale),
        out,
    )
}
