//! How queries are made: plain or from a latent, and whether the slots agree with the rank.

use super::down_projection;
use super::sizes::Rank;
use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::modules::{self, Module};
use crate::check::norms::{self, Said};
use crate::check::slots::Slots;
use crate::check::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::{Norm, QueryUp};
use crate::span::Span;

/// How queries are made, as far as it can be told from rank and slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Plain,
    Lora,
    /// Rank and slots contradict each other, which was said.
    Unclear,
}

/// What is known of the queries before their slots are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) rank: Rank,
    /// Whether the gate comes out of the up projection.
    pub(super) fused_gate: bool,
    /// Whether that was refused for want of a rank.
    pub(super) gate_lacks_rank: bool,
}

/// A query latent's norm and up projection.
pub(super) struct LatentQuery {
    pub(super) norm: Norm,
    pub(super) up: QueryUp,
    /// Where the module stands that holds the norm.
    pub(super) norm_span: Span,
}

impl Asked {
    /// Whether queries are plain or LoRA. Refuses slots that contradict each other or the rank.
    pub(super) fn path(self, slots: &Slots<'_>, out: &mut Diagnostics) -> Path {
        let plain = slots.get("linear_q_proj");
        let lora = slots
            .get("linear_q_down_proj")
            .or(slots.get("linear_q_up_proj"))
            .or(slots.get("linear_q_gate_proj"));
        match (self.rank, plain, lora) {
            (_, Some(plain), Some(lora)) => {
                self.refuse_both(plain, lora, out);
                Path::Unclear
            }
            (Rank::Given { key, .. }, Some(plain), None) => {
                let message = "`linear_q_proj` makes plain queries, but `q_lora_rank` is given";
                let against = Diagnostic::error(
                    codes::RANK_AGAINST_SLOTS,
                    message,
                    plain.slot.span,
                    "plain queries",
                );
                out.push(against.and(key, "low-rank queries").help(
                    "remove `q_lora_rank`, or fill `linear_q_down_proj`, `q_layernorm` and `linear_q_up_proj` instead",
                ));
                Path::Unclear
            }
            (Rank::Absent, None, Some(lora)) => {
                if !self.gate_lacks_rank {
                    refuse_without_rank(lora, slots, out);
                }
                Path::Unclear
            }
            (Rank::Given { .. }, None, _) => Path::Lora,
            (Rank::Absent, _, None) => Path::Plain,
            (Rank::Refused, Some(_), None) => Path::Plain,
            (Rank::Refused, None, Some(_)) => Path::Lora,
            (Rank::Refused, None, None) => Path::Unclear,
        }
    }

    fn refuse_both(self, plain: &Submodule, lora: &Submodule, out: &mut Diagnostics) {
        let message = format!(
            "queries are made twice, by `linear_q_proj` and by `{}`",
            lora.slot.value
        );
        let twice = Diagnostic::error(
            codes::TWO_QUERY_PATHS,
            message,
            plain.slot.span,
            "the plain projection",
        );
        let twice = twice.and(lora.slot.span, "the low-rank path");
        out.push(twice.help(match self.rank {
            Rank::Given { .. } => "remove `linear_q_proj`: `q_lora_rank` is given",
            _ => "remove `linear_q_proj` and give `q_lora_rank`, or remove the slots of the low-rank path",
        }));
    }

    /// Whether the plain query projection is right.
    pub(super) fn plain(self, path: Path, slots: &mut Slots<'_>, out: &mut Diagnostics) -> bool {
        let slot = match path {
            // Where the fused down projection or the norm is there, the missing rank was or will be the complaint.
            Path::Plain
                if slots.get("linear_qkv_down_proj").is_none()
                    && slots.get("q_layernorm").is_none() =>
            {
                slots.require("linear_q_proj")
            }
            _ => slots.get("linear_q_proj"),
        };
        slot.and_then(|slot| plain_projection(slot, out)).is_some()
    }

    /// The norm and the up projection of the query latent.
    pub(super) fn latent(
        self,
        path: Path,
        slots: &mut Slots<'_>,
        out: &mut Diagnostics,
    ) -> Option<LatentQuery> {
        let (gated, plain) = (
            slots.get("linear_q_gate_proj"),
            slots.get("linear_q_up_proj"),
        );
        if let (Some(gated), Some(plain)) = (gated, plain) {
            refuse_two_ups(gated, plain, out);
        }
        let name = if self.fused_gate || gated.is_some() {
            "linear_q_gate_proj"
        } else {
            "linear_q_up_proj"
        };
        let (slot, up) = match path {
            Path::Lora => (
                norms::require_slot(slots, "q_layernorm", name, out),
                // A missing one that makes a gate is the gate's complaint.
                match name {
                    "linear_q_up_proj" => slots.require("linear_q_up_proj"),
                    _ => gated,
                },
            ),
            _ => (slots.get("q_layernorm"), gated.or(plain)),
        };
        let slot_said = slot.map(|slot| (slot, norms::slot(slot, out)));
        let up = up.map(|up| {
            let said = if up.slot.value == "linear_q_gate_proj" {
                query_and_gate(up, out)
            } else {
                norms::up_projection(up, out)
            };
            (up, said)
        });
        if let (Some(slot), Path::Plain, Rank::Absent) = (slot, path, self.rank) {
            refuse_norm_of_nothing(slot, slots, out);
        }
        if let (Some((slot, Some(Said::Nothing))), Some((gated, Some(_))), Path::Lora) =
            (&slot_said, up.filter(|_| gated.is_some()), path)
        {
            refuse_unnormed(slot, gated, out);
        }
        let norm_span = match up {
            Some((up, Some(Said::Norm(_)))) => up.spec.module.span,
            _ => slot.map_or(slots.anchor(), |slot| slot.spec.module.span),
        };
        let norm = norms::join(slot_said, up, out)?;
        let up = match name {
            "linear_q_gate_proj" => QueryUp::QueryAndGate,
            _ => QueryUp::Query,
        };
        Some(LatentQuery {
            norm,
            up,
            norm_span,
        })
    }

    /// Bias of the query's own down projection; false where there is none.
    pub(super) fn down_bias(
        self,
        path: Path,
        slots: &mut Slots<'_>,
        out: &mut Diagnostics,
    ) -> Option<bool> {
        let slot = match path {
            Path::Lora => slots.require("linear_q_down_proj"),
            Path::Plain | Path::Unclear => slots.get("linear_q_down_proj"),
        };
        match (slot, path) {
            (Some(slot), _) => down_projection(slot, out),
            (None, Path::Plain) => Some(false),
            (None, _) => None,
        }
    }
}

fn refuse_without_rank(lora: &Submodule, slots: &Slots<'_>, out: &mut Diagnostics) {
    let message = format!("`{}` needs `q_lora_rank`", lora.slot.value);
    let against = Diagnostic::error(
        codes::RANK_AGAINST_SLOTS,
        message,
        lora.slot.span,
        "low-rank queries",
    );
    out.push(against.and(slots.anchor(), "has no `q_lora_rank`").help(
        "add `q_lora_rank` to `params`, or fill `linear_q_proj` instead of the low-rank slots",
    ));
}

fn refuse_norm_of_nothing(slot: &Submodule, slots: &Slots<'_>, out: &mut Diagnostics) {
    let message = "`q_layernorm` norms the query latent, and plain queries have none";
    let label = "nothing to norm";
    let without = Diagnostic::error(codes::NORM_WITHOUT_LATENT, message, slot.slot.span, label);
    out.push(
        without
            .and(slots.anchor(), "has no `q_lora_rank`")
            .help("remove `q_layernorm`, or give `q_lora_rank` and the low-rank slots"),
    );
}

fn refuse_two_ups(gated: &Submodule, plain: &Submodule, out: &mut Diagnostics) {
    let message = "`linear_q_gate_proj` and `linear_q_up_proj` both make the queries";
    let twice = Diagnostic::error(
        codes::TWO_QUERY_UPS,
        message,
        gated.slot.span,
        "queries with their gates",
    );
    out.push(
        twice
            .and(plain.slot.span, "queries alone")
            .help("keep `linear_q_gate_proj` where the gate comes out of the query latent, else `linear_q_up_proj`"),
    );
}

/// Without a norm the projection of the normed and the raw latent would see the same latent twice.
fn refuse_unnormed(slot: &Submodule, gated: &Submodule, out: &mut Diagnostics) {
    let message =
        "`linear_q_gate_proj` reads the normed latent beside the raw one, and there is no norm";
    let unnormed = Diagnostic::error(
        codes::FUSED_GATE_NORM,
        message,
        slot.spec.module.span,
        "the same latent twice",
    );
    out.push(
        unnormed
            .and(gated.slot.span, "reads both")
            .help("write `q_layernorm: { module: RMSNorm, params: { eps: .. } }`"),
    );
}

/// The projection of both query latents to queries and gates, which can't hold the norm of one of them.
fn query_and_gate(slot: &Submodule, out: &mut Diagnostics) -> Option<Said> {
    let norm_inside = |module| {
        (module == Module::LayerNormColumnParallelLinear).then(|| {
            let message =
                "`linear_q_gate_proj` reads the raw latent too, so it can't hold the norm";
            Diagnostic::error(
                codes::FUSED_GATE_NORM,
                message,
                slot.spec.module.span,
                "has a norm inside",
            )
            .help("write `linear_q_gate_proj: ColumnParallelLinear`, and the norm in `q_layernorm`")
        })
    };
    modules::in_slot(slot, &[Module::ColumnParallelLinear], norm_inside, out)?;
    let mut table = Table::params(&slot.spec, Place::Leaf);
    modules::refuse_bias(&mut table, &slot.slot.value, out);
    table.finish(out);
    Some(Said::Nothing)
}

/// The plain query projection.
fn plain_projection(slot: &Submodule, out: &mut Diagnostics) -> Option<()> {
    let norm_inside = |module| {
        (module == Module::LayerNormColumnParallelLinear).then(|| {
            super::norm_of_the_input(slot).help("write `linear_q_proj: ColumnParallelLinear`")
        })
    };
    modules::in_slot(slot, &[Module::ColumnParallelLinear], norm_inside, out)?;
    let mut table = Table::params(&slot.spec, Place::Leaf);
    modules::refuse_bias(&mut table, &slot.slot.value, out);
    table.finish(out);
    Some(())
}
