//! Keys of `llama3`, `longrope` and `dynamic`: frequencies that follow the context.

use super::{LONGEST_CONTEXT, RotatedPart, bounded, factor};
use crate::check::codes;
use crate::check::text::wrong_kind;
use crate::check::value::{Field, Table};
use crate::check::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Llama3, LongRope, LongRopeSelect, RopeScaling};
use crate::node::NodeKind;

const SELECTIONS: Words<'static, LongRopeSelect> = Words {
    choices: &[
        ("by_length", LongRopeSelect::ByLength),
        ("short", LongRopeSelect::Short),
        ("long", LongRopeSelect::Long),
    ],
    aliases: &[("auto", "by_length"), ("dynamic", "by_length")],
    others: None,
};

/// The context length of the original training.
fn original(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<u32> {
    table
        .require("original_max_position_embeddings")
        .and_then(|field| field.integer(1, LONGEST_CONTEXT, out))
        .map(|original| original.value)
}

pub(super) fn llama3(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<Llama3> {
    let factor = factor(table, out);
    let original = original(table, out);
    let mut rotations = |key| {
        let field = table.require(key)?;
        let value = bounded(
            &field,
            "greater than 0 and at most 1e6",
            |value| value > 0.0 && value <= 1e6,
            out,
        )?;
        Some((field, value))
    };
    let (low, high) = (rotations("low_freq_factor"), rotations("high_freq_factor"));
    let ((low_field, low), (high_field, high)) = low.zip(high)?;
    if low >= high {
        let message = format!(
            "`low_freq_factor` must be less than `high_freq_factor`, found {low} and {high}"
        );
        let swapped = Diagnostic::error(
            codes::FREQ_FACTORS_SWAPPED,
            message,
            low_field.value.span,
            "not less than `high_freq_factor`",
        );
        out.push(
            swapped
                .and(high_field.value.span, "`high_freq_factor`")
                .help("swap them: Llama 3.1 has 1.0 and 4.0"),
        );
        return None;
    }
    Some(Llama3 {
        factor: factor?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original?,
    })
}

pub(super) fn dynamic(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<RopeScaling> {
    let factor = factor(table, out);
    let longest = table
        .require("max_position_embeddings")
        .and_then(|field| field.integer(1, LONGEST_CONTEXT, out));
    Some(RopeScaling::Dynamic {
        factor: factor?,
        max_position_embeddings: longest?.value,
    })
}

pub(super) fn longrope(
    table: &mut Table<'_>,
    part: RotatedPart,
    out: &mut Diagnostics,
) -> Option<LongRope> {
    let mut factors = |key| {
        let field = table.require(key)?;
        factor_per_pair(&field, part, out)
    };
    let (short, long) = (factors("short_factor"), factors("long_factor"));
    let original = original(table, out);
    let attention_factor = table.require("attention_factor").and_then(|field| {
        bounded(
            &field,
            "greater than 0 and at most 1e3",
            |value| value > 0.0 && value <= 1e3,
            out,
        )
    });
    let select = table
        .require("select")
        .and_then(|field| field.word(&SELECTIONS, out));
    Some(LongRope {
        short_factor: short?,
        long_factor: long?,
        original_max_position_embeddings: original?,
        attention_factor: attention_factor?,
        select: select?.value,
    })
}

/// A list with a positive divisor for each pair of the rotated part.
fn factor_per_pair(
    field: &Field<'_>,
    part: RotatedPart,
    out: &mut Diagnostics,
) -> Option<Vec<f64>> {
    let NodeKind::Seq(items) = &field.value.kind else {
        out.push(wrong_kind(field.name(), "a list of numbers", field.value));
        return None;
    };
    let wrong_length = part
        .size
        .filter(|size| size.value > 0 && items.len() as u64 != u64::from(size.value / 2));
    if let Some(size) = wrong_length {
        let message = format!(
            "`{}` needs {} entries, one for each pair of `{}`, found {}",
            field.name(),
            size.value / 2,
            part.key,
            items.len(),
        );
        let length = Diagnostic::error(
            codes::FACTOR_PER_PAIR,
            message,
            field.key.span,
            "not one factor for each pair",
        );
        out.push(
            length
                .and(size.span, "two elements make a pair")
                .help(format!("give {} factors", size.value / 2)),
        );
        return None;
    }
    let factors: Vec<Option<f64>> = items
        .iter()
        .map(|item| {
            bounded(
                &field.item(item),
                "greater than 0 and at most 1e6",
                |factor| factor > 0.0 && factor <= 1e6,
                out,
            )
        })
        .collect();
    factors.into_iter().collect()
}
