//! A plan as a picture: which boxes there are, and what goes from one to another. Where they stand is not known here.
//!
//! A step of the plan is a card: its mathematics, and its ops as boxes inside. What a function is given, the caches, and what it returns
//! stand by themselves.

mod build;
mod op;

use mla_spec::{Form, Phase};

pub(super) use build::{Half, Source, figure};
pub(super) use op::element;

use super::super::work::{Group, Work};

/// A function of a layer, as a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// The function's name.
    pub(super) name: &'static str,
    /// What stands in the picture; what a part reads, an earlier one makes.
    pub(super) parts: Vec<Part>,
    /// The values, by what [`Box::makes`] and [`Box::reads`] call them.
    pub(super) values: Vec<Passed>,
    /// What the whole function does, and what each group of ops does; groups without work are left out.
    pub(super) total: Work,
    pub(super) groups: Vec<(Group, Work)>,
}

/// What goes along a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) name: String,
    pub(super) kind: Line,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Numbers that are computed with.
    Data,
    /// What says where and with whom: positions, segments, forms.
    Guide,
    /// To a cache, or from one.
    Store,
    /// From the forward pass. What many cards read of it is named where it enters them, and no line is drawn.
    Saved,
}

/// What stands in a picture by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) kind: Kind,
    /// What it is called, and its mathematics, clause by clause; both empty where its only box says it.
    pub(super) title: String,
    pub(super) formula: Vec<String>,
    /// The form of the requests that it is for; `None`: for all.
    pub(super) requests: Option<Form>,
    /// What it is for; `None` where it computes nothing.
    pub(super) group: Option<Group>,
    pub(super) work: Work,
    pub(super) boxes: Vec<Box>,
    /// Ops that only give memory back.
    pub(super) frees: Vec<Box>,
}

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ops under one line of mathematics.
    Step,
    /// What the function is given.
    Given,
    /// A cache.
    Store,
    /// What the function returns.
    Returned,
}

/// An op, or what stands for a cache or a result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Box {
    /// Its place among the plan's ops; `None` where it is none of them.
    pub(super) op: Option<usize>,
    /// What it is called.
    pub(super) title: String,
    /// Which module or elements it uses.
    pub(super) about: Option<String>,
    /// What it makes.
    pub(super) results: Vec<Made>,
    pub(super) chips: Vec<Chip>,
    /// Indices of [`Figure::values`].
    pub(super) makes: Vec<usize>,
    pub(super) reads: Vec<usize>,
    /// Whether it moves nothing.
    pub(super) is_view: bool,
    pub(super) work: Work,
    /// The plan's own line.
    pub(super) line: String,
    /// What the op is called where two plans are compared.
    pub(super) key: String,
}

/// A value that an op makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) name: String,
    /// Its shape, a row per token first.
    pub(super) shape: String,
    /// Its elements' type; empty where it has no elements.
    pub(super) dtype: &'static str,
}

/// Something to know about a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chip {
    pub(super) kind: ChipKind,
    pub(super) text: String,
}

/// What a chip is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChipKind {
    /// Order of a rotated part, a view, a cache's format.
    Layout,
    /// One op for what would be several.
    Fused,
    /// A pass put it there.
    Pass,
    /// Training keeps it.
    Kept,
    /// The backward pass computes it again.
    Again,
    /// The other layer has it in another way.
    Differs,
    /// The other layer has none.
    Only,
}

impl ChipKind {
    /// The class that styles it.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::Fused => "fused",
            Self::Pass => "pass",
            Self::Kept => "kept",
            Self::Again => "again",
            Self::Differs => "differs",
            Self::Only => "only",
        }
    }
}

impl Chip {
    pub(super) fn new(kind: ChipKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

impl Figure {
    /// All boxes that are ops, in the order of the plan.
    pub(super) fn ops(&self) -> Vec<&Box> {
        let boxes = self.parts.iter();
        let boxes = boxes.flat_map(|part| part.boxes.iter().chain(&part.frees));
        let mut ops: Vec<&Box> = boxes.filter(|one| one.op.is_some()).collect();
        ops.sort_by_key(|one| one.op);
        ops
    }

    /// Every box, to be changed.
    pub(super) fn boxes_mut(&mut self) -> impl Iterator<Item = &mut Box> {
        let parts = self.parts.iter_mut();
        parts.flat_map(|part| part.boxes.iter_mut().chain(&mut part.frees))
    }
}

/// What the function of a phase is called.
pub(super) fn function(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
        Phase::Mixed => "mixed",
        Phase::Train => "forward_train",
    }
}
