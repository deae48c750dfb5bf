//! The output gate: what `attention_output_gate` says, and the projection that makes it.

use super::codes;
use super::foreign::Place;
use super::modules::{self, Module};
use super::slots::Slots;
use super::value::{Stated, Table};
use super::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::{Gate, GateGranularity, GateSource};
use crate::span::Span;

/// What `attention_output_gate` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    PerHead,
    PerElement,
    /// Out of the query's up projection.
    FusedWithQuery,
}

/// The gates of latent attention.
pub(super) const OF_LATENT_ATTENTION: Words<'static, Wanted> = Words {
    choices: &[
        ("per_head", Wanted::PerHead),
        ("per_element", Wanted::PerElement),
        ("fused_with_query", Wanted::FusedWithQuery),
    ],
    aliases: &[
        ("headwise", "per_head"),
        ("elementwise", "per_element"),
        ("fused", "fused_with_query"),
    ],
    others: None,
};

/// Reads `attention_output_gate`.
pub(super) fn read(
    table: &mut Table<'_>,
    words: &Words<'_, Wanted>,
    out: &mut Diagnostics,
) -> Stated<Wanted> {
    table
        .stated("attention_output_gate", |field| field.word(words, out))
        .and_then(|wanted| Some(wanted.value))
}

/// The gate, if its slots agree with what is wanted. `None`: refused.
pub(super) fn check(
    wanted: Stated<Wanted>,
    slots: &mut Slots<'_>,
    out: &mut Diagnostics,
) -> Option<Option<Gate>> {
    let own = slots.get("linear_gate_proj");
    let fused = slots.get("linear_q_gate_proj");
    let source = own.and_then(|slot| linear(slot, out));
    let granularity = match wanted {
        Stated::Refused => return None,
        Stated::Absent => {
            for slot in own.iter().chain(&fused) {
                refuse_slot_alone(slot, slots, out);
            }
            return (own.is_none() && fused.is_none()).then_some(None);
        }
        Stated::Given {
            value: Wanted::FusedWithQuery,
            key,
        } => {
            if let Some(own) = own {
                refuse_other_slot(own, key, "linear_q_gate_proj", out);
                return None;
            }
            if fused.is_none() {
                refuse_no_slot("linear_q_gate_proj", key, slots, out);
                return None;
            }
            return Some(Some(Gate {
                granularity: GateGranularity::PerElement,
                source: GateSource::Query,
            }));
        }
        Stated::Given { value, key } => {
            if let Some(fused) = fused {
                refuse_other_slot(fused, key, "linear_gate_proj", out);
                return None;
            }
            if own.is_none() {
                refuse_no_slot("linear_gate_proj", key, slots, out);
                return None;
            }
            match value {
                Wanted::PerHead => GateGranularity::PerHead,
                _ => GateGranularity::PerElement,
            }
        }
    };
    Some(Some(Gate {
        granularity,
        source: source?,
    }))
}

/// `linear_gate_proj`.
pub(super) fn linear(slot: &Submodule, out: &mut Diagnostics) -> Option<GateSource> {
    modules::in_slot(slot, &[Module::ColumnParallelLinear], |_| None, out)?;
    let mut table = Table::params(&slot.spec, Place::Leaf);
    let bias = modules::bias_in(&mut table, out);
    let full_precision = modules::full_precision(&mut table, out);
    table.finish(out);
    Some(GateSource::Linear {
        bias: bias?,
        full_precision: full_precision?,
    })
}

fn refuse_slot_alone(slot: &Submodule, slots: &Slots<'_>, out: &mut Diagnostics) {
    let name = slot.slot.value.as_str();
    let message = format!("`{name}` makes an output gate, and the layer has none");
    let alone = Diagnostic::error(
        codes::GATE_SLOT_WITHOUT_GATE,
        message,
        slot.slot.span,
        "no gate is asked for",
    );
    let help = match name {
        "linear_q_gate_proj" => {
            "add `attention_output_gate: fused_with_query` to `params`, or fill `linear_q_up_proj` instead"
        }
        _ => {
            "add `attention_output_gate: per_head` or `attention_output_gate: per_element` to `params`, or remove the slot"
        }
    };
    out.push(
        alone
            .and(slots.anchor(), "has no `attention_output_gate`")
            .help(help),
    );
}

fn refuse_no_slot(name: &'static str, key: Span, slots: &mut Slots<'_>, out: &mut Diagnostics) {
    if slots.is_expected(name) {
        return;
    }
    let message = format!("this output gate needs the slot `{name}`");
    let without = Diagnostic::error(
        codes::GATE_WITHOUT_SLOT,
        message,
        key,
        "nothing makes this gate",
    );
    out.push(
        without
            .and(slots.anchor(), format!("has no `{name}`"))
            .help(format!(
                "add `{name}: ColumnParallelLinear` to `submodules`"
            )),
    );
}

fn refuse_other_slot(slot: &Submodule, key: Span, wanted: &str, out: &mut Diagnostics) {
    let name = slot.slot.value.as_str();
    let message = format!("this output gate is made by `{wanted}`, not by `{name}`");
    let other = Diagnostic::error(
        codes::GATE_WITHOUT_SLOT,
        message,
        slot.slot.span,
        "makes another gate",
    );
    let help = match name {
        "linear_gate_proj" => {
            format!("remove `{name}`, or write `attention_output_gate: per_head` or `per_element`")
        }
        _ => format!("fill `{wanted}` instead, or write `attention_output_gate: fused_with_query`"),
    };
    out.push(other.and(key, "the gate").help(help));
}
