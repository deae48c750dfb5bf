//! `differentiate`: a forward plan becomes training: what it keeps, and its backward pass, op by op.
//!
//! Reverse mode runs on the plan, not at run time. [`normal`] brings the forward plan to a form whose ops have adjoints; [`reverse`] writes
//! these down, last op first; [`schedule`] decides which of the forward pass's values are kept and which are computed again; [`split`] parts
//! the weights' gradients from the rest; [`tidy`] sees to it that names are bound right, and frees what nobody reads any more.

mod clauses;
mod normal;
mod reverse;
mod schedule;
mod split;
mod tidy;

use mla_spec::{Activation, Checked, LossStage, Phase};

use super::{Plan, Program, Ty, ValueId};

/// How a layer is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// `forward_train`: returns the layer's output, then what it keeps.
    pub forward: Plan,
    /// What each of the kept values is, in the order of [`Training::forward`]'s outputs behind the first.
    pub kept: Vec<Kept>,
    /// `backward`: returns [`Training::gradients`].
    pub backward: Plan,
    /// What backward functions return.
    pub gradients: Vec<Gradient>,
    /// `backward_input`: `backward` without the weights' gradients; returns what they need behind [`Training::gradients`].
    pub backward_input: Plan,
    /// `backward_dw`, part by part, in the order in which it runs them. Each begins with what `backward_input` left.
    pub weights: Vec<WeightPart>,
    /// Which parameters are trained, by slot.
    pub trained: Vec<&'static str>,
    /// Tokens' positions are kept.
    pub keeps_positions: bool,
}

impl Training {
    /// Whether anything that is kept lives on a backend.
    pub fn keeps_tensors(&self) -> bool {
        let mut kept = self.forward.outputs.iter().skip(1);
        kept.any(|id| self.forward.values[id.0].ty != Ty::Segments)
    }
}

/// What is kept of a forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The field that holds it.
    pub name: String,
    /// The part of the layer that made it; `None` for what is kept in any case.
    pub part: Option<Activation>,
    /// Whether it waits in the host's memory.
    pub offloaded: bool,
}

/// What a backward function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gradient {
    /// Of the layer's input.
    Hidden,
    /// Of the other sequence's rows.
    Context,
    /// Of another layer's latents.
    Latent,
    /// Of another layer's rotated keys.
    RopeKey,
    /// Of the bias of the logits.
    Bias,
    /// No gradient: the indexer's loss.
    IndexerLoss,
}

/// The weights' gradients of a part of the layer (features O-06).
#[derive(Debug, Clone, PartialEq)]
pub struct WeightPart {
    /// What Megatron calls it: `kv_proj`, `q_proj`, `output_proj`; `qkv_proj` where one matrix makes all, `indexer`.
    pub name: &'static str,
    /// Its ops.
    pub plan: Plan,
}

/// Takes the plan of [`Phase::Train`] out of the program and makes its training of it.
pub(super) fn run(checked: &Checked, program: &mut Program) {
    let Some(at) = program
        .plans
        .iter()
        .position(|plan| plan.phase == Phase::Train)
    else {
        return;
    };
    let mut forward = program.plans.remove(at);
    let learn = normal::normalise(&mut forward);
    let stage = stage(checked);
    let reversed = reverse::reverse(program, &forward, learn, stage);
    let scheduled = schedule::schedule(checked, &forward, reversed);
    program.training = Some(split::training(program, forward, scheduled));
}

/// The stage of the indexer's training, where it learns.
fn stage(checked: &Checked) -> Option<LossStage> {
    match checked.layer.indexer()? {
        mla_spec::Indexer::Lightning(own) => own.loss.map(|loss| loss.stage),
        mla_spec::Indexer::Shared { .. } => None,
    }
}

/// The names of values that a function is given, which nothing else may be called.
fn is_argument(plan: &Plan, value: ValueId) -> bool {
    plan.ops().any(|op| {
        use super::Op;
        matches!(op, Op::Hidden { out } | Op::Context { out } if *out == value)
            || matches!(op, Op::TakenLatent { out, .. } | Op::TakenKey { out, .. } if *out == value)
    })
}
