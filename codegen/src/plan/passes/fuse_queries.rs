//! `fuse-queries`: an indexer's queries that are rounded as its cache rounds keys are turned on the way, in one pass with the rounding.
//!
//! Each op stays what it is, and computes what it computed. Queries that someone else reads as well, a probe of scores for one, are turned before.

use mla_spec::Checked;

use crate::plan::{Aspect, Op, Plan, Program, ValueId};

pub(super) fn run(checked: &Checked, program: &mut Program) {
    if !checked.build.cache.rounds_index_queries {
        return;
    }
    for plan in &mut program.plans {
        if let Some(turns) = turns(plan) {
            fuse(plan, &turns);
            super::compact(plan);
        }
    }
}

/// The ops that turn a plan's queries, in order, where nobody but the selection reads what they make.
fn turns(plan: &Plan) -> Option<Vec<Op>> {
    let select = |op: &Op| match op {
        Op::SelectCached { q, .. } => Some(*q),
        _ => None,
    };
    let whole = plan.steps.iter().filter(|step| step.part.is_none());
    let q = whole.flat_map(|step| &step.ops).find_map(select)?;
    let shows_scores = |op: &Op| {
        matches!(
            op,
            Op::Probe {
                aspect: Aspect::Scores,
                ..
            }
        )
    };
    if plan.ops().any(shows_scores) {
        return None;
    }
    let turn = read_once(plan, q)?;
    match turn {
        Op::RotateHeads { .. } => Some(vec![turn.clone()]),
        Op::Hadamard { x, .. } => match read_once(plan, *x)? {
            rotation @ Op::RotateHeads { .. } => Some(vec![rotation.clone(), turn.clone()]),
            _ => None,
        },
        _ => None,
    }
}

/// The op that makes a value of which there is one reader.
fn read_once(plan: &Plan, value: ValueId) -> Option<&Op> {
    plan.definition(value).filter(|_| plan.uses(value) == 1)
}

/// Moves them in front of the selection, into its step.
fn fuse(plan: &mut Plan, turns: &[Op]) {
    for step in &mut plan.steps {
        step.ops.retain(|op| !turns.contains(op));
        let selects = |op: &Op| matches!(op, Op::SelectCached { .. });
        if let Some(at) = step.ops.iter().position(selects) {
            step.ops.splice(at..at, turns.iter().cloned());
            step.fused = true;
            step.formula
                .push_str(";  Q is turned and rounded in one pass");
        }
    }
}
