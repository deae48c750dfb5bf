//! Which values of the forward pass are kept for the backward pass, and which are computed again.
//!
//! Views, and element by element ops whose operands are there anyway, are always computed again; `build.recompute` names parts of the layer
//! whose values are not kept either. The same ops on the same operands give the same bits.

use std::collections::BTreeSet;

use mla_spec::{Activation, Checked};

use super::reverse::Reversed;
use super::{Gradient, Kept, is_argument, tidy};
use crate::plan::passes::drop_unused;
use crate::plan::{Op, Plan, Step, Ty, Value, ValueId};

/// A backward pass that has all it reads, and the forward pass that keeps it.
pub(super) struct Scheduled {
    pub(super) forward: Plan,
    pub(super) kept: Vec<Kept>,
    /// The kept values.
    pub(super) saved: Vec<ValueId>,
    /// The backward pass's values, the forward pass's first.
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<Step>,
    pub(super) outputs: Vec<(Gradient, ValueId)>,
    pub(super) trained: Vec<&'static str>,
}

/// Decides and arranges.
pub(super) fn schedule(checked: &Checked, forward: &Plan, reversed: Reversed) -> Scheduled {
    let build = &checked.build;
    let parts = parts(forward);
    let part = |value: ValueId| parts.get(value.0).copied().flatten();
    let choice = choose(forward, &reversed, |value| {
        part(value).is_some_and(|part| build.recompute.contains(&part))
    });
    let whole = forward;
    let mut forward = whole.clone();
    keep(&mut forward, &choice.saved);
    drop_unused(&mut forward);
    tidy::copies(&mut forward);
    let mut values = reversed.values;
    // The forward pass's copies are its own
    let shared = parts.len();
    for (value, named) in values.iter_mut().zip(&forward.values).take(shared) {
        value.name = named.name.clone();
    }
    let kept = choice.saved.iter().map(|&value| Kept {
        name: forward.values[value.0].name.to_string(),
        part: part(value),
        offloaded: part(value).is_some_and(|part| build.offload.contains(&part)),
    });
    let kept = kept.collect();
    let steps = arranged(whole, &choice, reversed.steps);
    Scheduled {
        kept,
        saved: choice.saved,
        values,
        steps,
        outputs: reversed.outputs,
        trained: reversed.trained,
        forward,
    }
}

/// What happens to the values that the backward pass reads.
struct Choice {
    /// Kept, in the order in which the forward pass makes them.
    saved: Vec<ValueId>,
    /// Given to the backward pass again.
    given: BTreeSet<ValueId>,
}

fn choose(forward: &Plan, reversed: &Reversed, recomputed: impl Fn(ValueId) -> bool) -> Choice {
    let count = forward.values.len();
    let mut needed: BTreeSet<ValueId> = reversed
        .steps
        .iter()
        .flat_map(|step| &step.ops)
        .flat_map(Op::reads)
        .filter(|value| value.0 < count)
        .collect();
    let (mut saved, mut given) = (Vec::new(), BTreeSet::new());
    let ops: Vec<&Op> = forward.ops().collect();
    for op in ops.into_iter().rev() {
        for value in op.defines() {
            if !needed.contains(&value) {
                continue;
            }
            let again = is_view(op)
                || recomputed(value)
                || is_cheap(op)
                    && (op.reads().iter()).all(|x| needed.contains(x) || is_argument(forward, *x));
            if is_argument(forward, value) {
                given.insert(value);
            } else if again {
                needed.extend(op.reads());
            } else {
                saved.push(value);
            }
        }
    }
    saved.reverse();
    Choice { saved, given }
}

/// Ops that compute nothing.
pub(super) fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Columns { .. } | Op::HeadPart { .. } | Op::AsRows { .. } | Op::TakeKv { .. }
    )
}

/// Ops that do next to nothing for an element.
fn is_cheap(op: &Op) -> bool {
    matches!(
        op,
        Op::Scale { .. }
            | Op::ScaleByPosition { .. }
            | Op::Gate { .. }
            | Op::Concat { .. }
            | Op::IntoPerHead { .. }
    )
}

/// The forward pass returns what is kept; what others own is copied.
fn keep(forward: &mut Plan, saved: &[ValueId]) {
    for &value in saved {
        let owner = forward.ops().find(|op| op.makes(value));
        let is_borrowed = matches!(
            owner,
            Some(Op::GiveSelection { .. } | Op::TakeSelection { .. })
        );
        let mut kept = value;
        if is_borrowed {
            let Value { name, ty } = forward.values[value.0].clone();
            kept = forward.define(format!("{name}_kept"), ty);
            if let Some(step) = forward
                .steps
                .iter_mut()
                .find(|step| step.ops.iter().any(|op| op.makes(value)))
            {
                step.ops.push(Op::Copy {
                    x: value,
                    out: kept,
                });
            }
        }
        forward.outputs.push(kept);
    }
}

/// The backward pass's steps, each op behind what has to be computed again for it.
fn arranged(forward: &Plan, choice: &Choice, steps: Vec<Step>) -> Vec<Step> {
    let mut there: BTreeSet<ValueId> = choice.saved.iter().copied().collect();
    let given = forward.ops().filter(|op| {
        matches!(op, Op::TakeKv { .. }) && forward_uses(forward, op, &choice.given)
            || op.defines().iter().any(|out| choice.given.contains(out))
            || matches!(op, Op::Hidden { .. })
    });
    let given: Vec<Op> = given.cloned().collect();
    there.extend(given.iter().flat_map(Op::defines));
    let mut arranged = vec![Step::new("", given)];
    for (i, step) in steps.into_iter().enumerate() {
        let mut ops = Vec::new();
        for op in step.ops {
            for value in op.reads() {
                recompute(forward, value, &mut there, &mut ops);
            }
            there.extend(op.defines());
            ops.push(op);
        }
        match arranged.last_mut() {
            Some(last) if step.formula.is_empty() || i == 0 => last.ops.extend(ops),
            _ => arranged.push(Step { ops, ..step }),
        }
    }
    arranged
}

/// Whether a value that `op` defines is what one of `values` is taken from.
fn forward_uses(forward: &Plan, op: &Op, values: &BTreeSet<ValueId>) -> bool {
    let outs = op.defines();
    forward.ops().any(|reader| {
        reader.reads().iter().any(|x| outs.contains(x))
            && reader.defines().iter().any(|out| values.contains(out))
    })
}

/// Adds the ops that make `value` of what is there.
fn recompute(forward: &Plan, value: ValueId, there: &mut BTreeSet<ValueId>, ops: &mut Vec<Op>) {
    if there.contains(&value) {
        return;
    }
    let Some(op) = forward.ops().find(|op| op.makes(value)) else {
        return;
    };
    for read in op.reads() {
        recompute(forward, read, there, ops);
    }
    there.extend(op.defines());
    ops.push(op.clone());
}

/// The part of the layer that makes each value.
fn parts(forward: &Plan) -> Vec<Option<Activation>> {
    let mut parts: Vec<Option<Activation>> = vec![None; forward.values.len()];
    for op in forward.ops() {
        let inherited = op.reads().first().and_then(|x| parts[x.0]);
        let part = match op {
            Op::Linear { slot, .. } => of_linear(slot),
            Op::Norm { slot, .. } if slot.starts_with("indexer_") => None,
            Op::Norm {
                slot: "input_layernorm",
                ..
            } => Some(Activation::InputLayernorm),
            Op::Norm { .. } | Op::HeadNorm { .. } | Op::L2Norm { .. } | Op::Concat { .. } => {
                Some(Activation::Layernorm)
            }
            Op::AbsorbQueries { .. } => Some(Activation::KvUp),
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::Sink { .. }
            | Op::AttendedParts { .. } => Some(Activation::CoreAttn),
            Op::AbsorbValues { .. } | Op::Gate { .. } | Op::AsRows { .. } => None,
            Op::Select { .. } | Op::Hidden { .. } | Op::Context { .. } => None,
            _ => inherited,
        };
        for out in op.defines() {
            if !matches!(forward.values[out.0].ty, Ty::Segments | Ty::Angles(_)) {
                parts[out.0] = part;
            }
        }
    }
    parts
}

fn of_linear(slot: &str) -> Option<Activation> {
    match slot {
        "linear_q_down_proj" | "linear_qkv_down_proj" => Some(Activation::QDown),
        "linear_kv_down_proj" => Some(Activation::KvDown),
        "linear_q_proj" | "linear_q_up_proj" | "linear_q_gate_proj" => Some(Activation::QUp),
        "linear_kv_up_proj" => Some(Activation::KvUp),
        "linear_qkv" | "linear_q" | "linear_kv" => Some(Activation::Qkv),
        _ => None,
    }
}
