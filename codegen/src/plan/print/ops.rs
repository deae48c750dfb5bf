//! Ops as text.

use std::fmt;

use mla_spec::GateGranularity;

use super::id;
use crate::plan::{
    Aspect, GroupPart, Handed, LinearPart, NormPart, Offset, Op, PositionScale, Turn, Turned,
};

/// An op without what it defines.
pub(super) struct DisplayOp<'a>(pub(super) &'a Op);

impl fmt::Display for DisplayOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reads: Vec<String> = self.0.reads().into_iter().map(id).collect();
        let words = words(self.0);
        match (reads.is_empty(), detail(self.0)) {
            (true, None) => write!(f, "{words}"),
            (true, Some(detail)) => write!(f, "{words} {detail}"),
            (false, None) => write!(f, "{words} {}", reads.join(", ")),
            (false, Some(detail)) => write!(f, "{words} {}{detail}", reads.join(", ")),
        }
    }
}

/// What the op is called.
pub(crate) fn words(op: &Op) -> String {
    let words = match op {
        Op::Hidden { .. } => "input hidden",
        Op::Context { .. } => "input context",
        Op::MaskSegments { context: None, .. } => "segments of mask",
        Op::MaskSegments { .. } => "segments of mask and context_mask, over",
        Op::BatchSegments { .. } => "segments of batch",
        Op::CheckBatch => "check batch against cache",
        Op::Angles { .. } => "angles at positions",
        Op::TakeKv {
            from: Handed::Over, ..
        } => "take_kv handed over",
        Op::TakeKv {
            from: Handed::Cached,
            ..
        } => "take_kv of source",
        Op::TakenLatent { .. } => "taken_latent",
        Op::TakenKey { .. } => "taken_key",
        Op::GiveKv { .. } => "give_kv",
        Op::TakeSelection { .. } => "take_selection",
        Op::GiveSelection { .. } => "give_selection",
        Op::Linear { .. } => "linear",
        Op::Norm { .. } => "norm",
        Op::HeadNorm { .. } => "head_norm",
        Op::L2Norm { .. } => "l2_norm",
        Op::Scale { .. } => "scale",
        Op::ScaleByPosition { .. } => "scale_by_position",
        Op::Hadamard { .. } => "hadamard",
        Op::Concat { .. } => "concat",
        Op::Columns { .. } => "columns",
        Op::IntoHeads { .. } => "into_heads",
        Op::HeadPart { .. } => "head_part",
        Op::CutHeads { .. } => "cut_heads",
        Op::GroupPart { part, .. } => return format!("group_{}", group_part(*part)),
        Op::IntoPerHead { .. } => "into_per_head",
        Op::RotateHeads { turn, .. } => return format!("rotate_heads{}", turned(*turn)),
        Op::RotateKey { .. } => "rotate_key",
        Op::RotateRows { turn, .. } => return format!("rotate_rows{}", turned(*turn)),
        Op::UnrotatedKey { absent: false, .. } => "unrotated_key",
        Op::UnrotatedKey { absent: true, .. } => "absent_key, rows of",
        Op::Gate {
            granularity: GateGranularity::PerHead,
            ..
        } => "gate_per_head",
        Op::Gate { .. } => "gate_per_element",
        Op::PoolGates { .. } => "pool_gates",
        Op::Select { .. } => "select",
        Op::WriteIndex { .. } => "write_index",
        Op::SelectCached { .. } => "select_cached",
        Op::AttendExpanded { .. } => "attend_expanded",
        Op::AttendAbsorbed { .. } => "attend_absorbed",
        Op::AttendGroups { .. } => "attend_groups",
        Op::AttendContext { .. } => "attend_context",
        Op::WriteLatent { .. } => "write_latent",
        Op::WriteNaive { .. } => "write_naive",
        Op::WriteGroups { .. } => "write_groups",
        Op::AttendLatentCache { .. } => "attend_latent_cache",
        Op::AttendNaiveCache { .. } => "attend_naive_cache",
        Op::AttendGroupCache { .. } => "attend_group_cache",
        Op::FlashDecode { .. } => "flash_decode",
        Op::AbsorbQueries { .. } => "absorb_queries",
        Op::AbsorbValues { .. } => "absorb_values",
        Op::Sink { .. } => "sink",
        Op::AttendedOut { .. } => "attended_out",
        Op::IntoRows { .. } => "into_rows",
        Op::AttendedParts { .. } => "attended_parts",
        Op::AsRows { .. } => "as_rows",
        Op::Copy { .. } => "copy",
        Op::Forms { .. } => "forms of batch",
        Op::Pick { .. } => "pick",
        Op::Join { .. } => "join",
        Op::Learn { .. } => "learn from attention:",
        Op::Adjoint(adjoint) => return super::adjoint::words(adjoint),
        Op::Probe { name, .. } => return format!("probe {name} ="),
    };
    words.to_owned()
}

/// What stands behind the values that the op reads.
pub(super) fn detail(op: &Op) -> Option<String> {
    let detail = match op {
        Op::Linear { slot, part, .. }
        | Op::AbsorbQueries { slot, part, .. }
        | Op::AbsorbValues { slot, part, .. } => format!(", {}", linear_of(slot, *part)),
        Op::Norm { slot, part, .. } => format!(", {}", norm_of(slot, *part)),
        Op::HeadNorm { slot, .. }
        | Op::PoolGates { slot, .. }
        | Op::Sink {
            slot: Some(slot), ..
        } => format!(", {slot}"),
        Op::Sink { slot: None, .. } => ", off by one".to_owned(),
        Op::L2Norm { eps: name, .. } | Op::Scale { by: name, .. } => format!(", {name}"),
        Op::ScaleByPosition { scale, .. } => match scale {
            PositionScale::Learned { slot } => format!(", {slot}"),
            PositionScale::Llama4 { beta, .. } => format!(", {beta}"),
        },
        Op::Columns { offset, width, .. } | Op::HeadPart { offset, width, .. } => {
            format!(", {}", span(offset, width.size))
        }
        Op::AttendContext {
            slot, part, chunk, ..
        } => format!(
            ", {}, {} cached tokens at a time",
            linear_of(slot, *part),
            chunk.size
        ),
        Op::Probe { aspect, .. } => match aspect {
            Aspect::Value => return None,
            Aspect::Lse => " log-sum-exp".to_owned(),
            Aspect::MaxLogit => " largest logit".to_owned(),
            Aspect::Scores => " scores".to_owned(),
        },
        _ => return None,
    };
    Some(detail)
}

fn group_part(part: GroupPart) -> &'static str {
    match part {
        GroupPart::Query => "query",
        GroupPart::Gate => "gate",
        GroupPart::Key => "key",
        GroupPart::Value => "value",
    }
}

/// Which elements are rotated, where that is not the last ones by the layer's own table.
fn turned(turn: Turn) -> &'static str {
    match turn {
        Turn {
            part: Turned::Last,
            indexer: false,
        } => "",
        Turn {
            part: Turned::First,
            indexer: false,
        } => "_first",
        Turn {
            part: Turned::Last,
            indexer: true,
        } => "_of_indexer_last",
        Turn {
            part: Turned::First,
            indexer: true,
        } => "_of_indexer_first",
    }
}

pub(super) fn linear_of(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => slot.to_owned(),
        LinearPart::Inner => format!("{slot}.linear"),
    }
}

pub(super) fn norm_of(slot: &str, part: NormPart) -> String {
    match part {
        NormPart::Whole => slot.to_owned(),
        NormPart::Inner => format!("{slot}.norm"),
    }
}

fn span(offset: &Offset, width: u32) -> String {
    let start = offset.elements();
    format!("{start}..{}", start + width)
}
