//! The three functions of a backward pass: all at once, and the weights' gradients apart from the rest (features O-06).

use std::collections::BTreeSet;

use super::schedule::{Scheduled, is_view};
use super::{Kept, Training, WeightPart, clauses, tidy};
use crate::plan::passes::{compact, drop_unused};
use crate::plan::{Adjoint, Op, Plan, Program, Step, ValueId};

/// The parts in the order in which `backward_dw` runs them: Megatron's.
const PARTS: [&str; 5] = ["kv_proj", "q_proj", "qkv_proj", "indexer", "output_proj"];

/// The part that a module's weight belongs to.
fn part_of(slot: &str) -> &'static str {
    match slot {
        slot if slot.starts_with("indexer_") => "indexer",
        slot if slot.starts_with("linear_qkv") => "qkv_proj",
        slot if slot.starts_with("linear_q") => "q_proj",
        slot if slot.starts_with("linear_kv") => "kv_proj",
        _ => "output_proj",
    }
}

/// All functions of a layer's training.
pub(super) fn training(program: &Program, forward: Plan, scheduled: Scheduled) -> Training {
    let Scheduled {
        forward: mut kept_forward,
        kept,
        saved,
        values,
        mut steps,
        outputs,
        trained,
    } = scheduled;
    let (gradients, outputs): (Vec<_>, Vec<_>) = outputs.into_iter().unzip();
    if let Some(first) = steps.first_mut() {
        first.ops.push(Op::Adjoint(Adjoint::Saved { out: saved }));
    }
    let mut backward = Plan {
        values,
        steps,
        outputs,
        ..forward
    };
    let mut backward_input = backward.clone();
    let mut weights = defer(&mut backward_input);
    for plan in [&mut backward, &mut backward_input] {
        finish(program, plan);
    }
    tidy::names(&mut kept_forward);
    tidy::drops(&mut kept_forward, hidden_size(program));
    compact(&mut kept_forward);
    let kept = kept
        .into_iter()
        .zip(&backward_saved(&backward))
        .map(|(kept, name)| Kept {
            name: name.clone(),
            ..kept
        })
        .collect();
    weights
        .iter_mut()
        .for_each(|part| finish(program, &mut part.plan));
    let keeps_positions = reads_positions(&backward);
    Training {
        forward: kept_forward,
        kept,
        backward,
        gradients,
        backward_input,
        weights,
        trained,
        keeps_positions,
    }
}

/// The names by which a backward plan calls what was kept.
fn backward_saved(plan: &Plan) -> Vec<String> {
    let saved = plan.ops().find_map(|op| match op {
        Op::Adjoint(Adjoint::Saved { out }) => Some(out.clone()),
        _ => None,
    });
    saved
        .into_iter()
        .flatten()
        .map(|value| plan.values[value.0].name.to_string())
        .collect()
}

/// Whether a backward pass has any use for positions.
fn reads_positions(plan: &Plan) -> bool {
    plan.ops().any(|op| {
        matches!(
            op,
            Op::ScaleByPosition { .. } | Op::Adjoint(Adjoint::LearnedScale { .. })
        )
    })
}

fn finish(program: &Program, plan: &mut Plan) {
    drop_unused(plan);
    tidy::copies(plan);
    tidy::names(plan);
    clauses::write(program, plan);
    tidy::drops(plan, hidden_size(program));
    compact(plan);
}

/// Takes the weights' gradients out of a backward plan, which then returns what they read, and makes plans of them.
fn defer(plan: &mut Plan) -> Vec<WeightPart> {
    let whole = plan.clone();
    let is_weights = |op: &Op| matches!(op, Op::Adjoint(adjoint) if adjoint.weight_of().is_some());
    for step in &mut plan.steps {
        step.ops.retain(|op| !is_weights(op));
    }
    let mut deferred: BTreeSet<ValueId> = BTreeSet::new();
    let mut parts = Vec::new();
    for name in PARTS {
        let mut ops = Vec::new();
        for op in whole.ops().filter(|op| part_name(op) == Some(name)) {
            for read in op.reads() {
                fetch(&whole, read, &mut ops, &mut deferred);
            }
            ops.push(op.clone());
        }
        if !ops.is_empty() {
            parts.push((name, ops));
        }
    }
    plan.outputs.extend(deferred.iter().copied());
    let part = |(name, mut ops): (&'static str, Vec<Op>)| {
        let read: BTreeSet<ValueId> = ops.iter().flat_map(Op::reads).collect();
        let out = deferred.intersection(&read).copied().collect();
        ops.insert(0, Op::Adjoint(Adjoint::Deferred { out }));
        let formula = String::new();
        WeightPart {
            name,
            plan: Plan {
                steps: vec![Step::new(formula, ops)],
                outputs: Vec::new(),
                ..whole.clone()
            },
        }
    };
    parts.into_iter().map(part).collect()
}

/// The part of the layer whose weight's gradient an op adds to.
fn part_name(op: &Op) -> Option<&'static str> {
    match op {
        Op::Adjoint(adjoint) => adjoint.weight_of().map(part_of),
        _ => None,
    }
}

/// Makes `value` readable where the weights' gradients are: views are taken again, arguments are given again, everything else is deferred.
fn fetch(whole: &Plan, value: ValueId, ops: &mut Vec<Op>, deferred: &mut BTreeSet<ValueId>) {
    let Some(op) = whole.definition(value) else {
        return;
    };
    let is_given = matches!(
        op,
        Op::Hidden { .. }
            | Op::Context { .. }
            | Op::TakeKv { .. }
            | Op::TakenLatent { .. }
            | Op::TakenKey { .. }
            | Op::Adjoint(Adjoint::OutputGradient { .. })
    );
    if !is_given && !is_view(op) {
        deferred.insert(value);
    } else if !ops.contains(op) {
        for read in op.reads() {
            fetch(whole, read, ops, deferred);
        }
        ops.push(op.clone());
    }
}

/// Width of the layer's input.
fn hidden_size(program: &Program) -> u32 {
    let mut constants = program.constants.iter();
    constants
        .find(|constant| constant.name == "HIDDEN_SIZE")
        .map_or(0, |constant| constant.value)
}
