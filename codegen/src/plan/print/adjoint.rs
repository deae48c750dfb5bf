//! Ops of backward passes as text.

use mla_spec::GateGranularity;

use super::ops::{linear_of, norm_of};
use crate::plan::{Adjoint, Piece};

/// What the op is called, with the module that it uses.
pub(super) fn words(adjoint: &Adjoint) -> String {
    let words = match adjoint {
        Adjoint::OutputGradient { .. } => "input gradient of output",
        Adjoint::GivenKvGradient { .. } => "input gradients of shared_kv",
        Adjoint::Saved { .. } => "input saved",
        Adjoint::Deferred { .. } => "input deferred",
        Adjoint::LinearInput { slot, part, .. } => {
            return format!("linear_input {}", linear_of(slot, *part));
        }
        Adjoint::LinearWeight { slot, part, .. } => {
            return format!("linear_weight {}", linear_of(slot, *part));
        }
        Adjoint::Norm { slot, part, .. } => {
            return format!("norm_backward {}", norm_of(slot, *part));
        }
        Adjoint::NormWeight { slot, part, .. } => {
            return format!("norm_weight {}", norm_of(slot, *part));
        }
        Adjoint::HeadNorm { slot, .. } => return format!("head_norm_backward {slot}"),
        Adjoint::L2Norm { .. } => "l2_norm_backward",
        Adjoint::LearnedScale { slot, .. } => return format!("learned_scale_backward {slot}"),
        Adjoint::AbsorbQueries { .. } => "absorb_queries_backward",
        Adjoint::AbsorbQueriesWeight { .. } => "absorb_queries_weight",
        Adjoint::AbsorbValues { .. } => "absorb_values_backward",
        Adjoint::AbsorbValuesWeight { .. } => "absorb_values_weight",
        Adjoint::Sink { .. } => "sink_backward",
        Adjoint::RotateHeads { .. } => "rotate_heads_back",
        Adjoint::RotateKey { .. } => "rotate_key_back",
        Adjoint::RotateRows { .. } => "rotate_rows_back",
        Adjoint::Gate {
            granularity: GateGranularity::PerHead,
            ..
        } => "gate_per_head_backward",
        Adjoint::Gate { .. } => "gate_per_element_backward",
        Adjoint::Narrow { .. } => "narrow",
        Adjoint::Assemble { parts, .. } => {
            let parts: Vec<String> = parts.iter().map(|(piece, _)| of(piece)).collect();
            return format!("assemble {} of", parts.join(" and "));
        }
        Adjoint::Add { .. } => "add",
        Adjoint::Expanded { .. } => "expanded_backward",
        Adjoint::Absorbed { .. } => "absorbed_backward",
        Adjoint::Groups { .. } => "groups_backward",
        Adjoint::IndexerLoss { .. } => "indexer_loss",
        Adjoint::Drop { .. } => "drop",
    };
    words.to_owned()
}

fn of(piece: &Piece) -> String {
    match piece {
        Piece::Columns(offset, width) | Piece::Head(offset, width) => {
            let start = offset.elements();
            format!("{start}..{}", start + width.size)
        }
        Piece::Group(part) => format!("{part:?}").to_lowercase(),
    }
}
