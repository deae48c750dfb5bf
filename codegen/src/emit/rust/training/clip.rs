//! `clip_qk`.

use super::super::layout::{Call, Lines};
use super::super::parts::Look;
use crate::plan::{ClipPlan, ClippedRows, ClippedWeight, Share};

/// The function that bounds the logits.
pub(super) fn function(plan: &ClipPlan, look: Look, lines: &mut Lines) {
    if look.documented {
        documentation(plan, lines);
    }
    let parameters = [
        "&mut self",
        "max_logits: &[f64]",
        "master: Option<&mut Parameters<B>>",
    ]
    .map(str::to_owned);
    let head = format!("{}fn clip_qk", look.of_functions());
    lines.function(&head, &parameters, "Result<Vec<f64>>", |lines| {
        lines.line("let factors = QK_CLIP.factors(max_logits)?;");
        if let Some(groups) = plan.groups {
            let call = Call::fallible("qk_clip::of_groups", &["&factors", groups.name]);
            lines.call("let factors = ", &call, ";");
        }
        for weight in &plan.weights {
            rows(weight, lines);
        }
        for weight in &plan.weights {
            let callee = format!("self.{}.scale_rows", weight.slot);
            let call = Call::fallible(callee, &[&format!("&{}", weight.name)]);
            lines.call("", &call, ";");
        }
        lines.block("if let Some(master) = master {", "}", |lines| {
            for weight in &plan.weights {
                let callee = format!("master.{}.scale_rows", weight.slot);
                let call = Call::fallible(callee, &[&format!("&{}", weight.name)]);
                lines.call("", &call, ";");
            }
        });
        lines.line("Ok(factors)");
    });
}

fn documentation(plan: &ClipPlan, lines: &mut Lines) {
    let of = if plan.groups.is_some() {
        "group"
    } else {
        "head"
    };
    lines.prose(
        "///",
        &format!(
            "QK-clip: where a head's largest logit s is above the threshold τ_c, the rows that make its queries and keys are scaled, \
             in the weights and in `master`, so that its logits become η = τ_c / s of what they were. Returns each {of}'s η, 1 where nothing changes."
        ),
    );
    lines.line("///");
    lines.prose(
        "///",
        "`max_logits` is what [`Saved::max_logits`] holds, the largest over all micro-batches of a step. It comes after the \
         optimiser and before `assign`, which makes the weights the rounded master ones again.",
    );
    lines.line("///");
    lines.line("/// # Errors");
    lines.prose(
        "///",
        "`max_logits` does not hold one number per head, or one of them is a NaN or infinite. The device refuses.",
    );
}

/// The factors of a weight's rows.
fn rows(weight: &ClippedWeight, lines: &mut Lines) {
    let parts: Vec<String> = weight
        .parts
        .iter()
        .map(|(rows, share)| format!("({}, {})", count(*rows), exponent(*share)))
        .collect();
    let name = weight.name;
    let whole = format!(
        "let {name} = qk_clip::heads(&factors, &[{}])?;",
        parts.join(", ")
    );
    if whole.chars().count() + 8 <= 100 && parts.join(", ").chars().count() + 11 <= 60 {
        return lines.line(&whole);
    }
    let inside = format!("&[{}],", parts.join(", "));
    let one_line = parts.join(", ").chars().count() <= 60 && inside.chars().count() + 12 <= 100;
    lines.block(&format!("let {name} = qk_clip::heads("), ")?;", |lines| {
        lines.line("&factors,");
        if one_line {
            return lines.line(&inside);
        }
        lines.block("&[", "],", |lines| {
            parts
                .iter()
                .for_each(|part| lines.line(&format!("{part},")));
        });
    });
}

fn count(rows: ClippedRows) -> String {
    match rows {
        ClippedRows::Of(dim) => dim.name.to_owned(),
        ClippedRows::GroupQueries => "NUM_ATTENTION_HEADS / NUM_QUERY_GROUPS * HEAD_DIM".to_owned(),
    }
}

fn exponent(share: Share) -> &'static str {
    match share {
        Share::Queries => "QK_CLIP.alpha",
        Share::Keys => "1.0 - QK_CLIP.alpha",
        Share::All => "1.0",
        Share::Nothing => "0.0",
    }
}
