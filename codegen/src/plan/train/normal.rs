//! The forward plan in a form that can be reversed: attention's output and log-sum-exp are values of their own, nothing that is read again is
//! consumed by a reshape, and every value that outlives the next has a name of its own.

use std::collections::BTreeMap;

use super::is_argument;
use crate::plan::{Op, Plan, Ty, ValueId};

/// An indexer that learns: its queries, keys and head weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Learner {
    pub(super) q: ValueId,
    pub(super) k: ValueId,
    pub(super) weights: ValueId,
}

/// Brings a forward plan to its normal form; takes the mark of what learns out of it.
pub(super) fn normalise(plan: &mut Plan) -> Option<Learner> {
    let mut learner = None;
    for step in &mut plan.steps {
        step.ops.retain(|op| match *op {
            Op::Learn { q, k, weights } => {
                learner = Some(Learner { q, k, weights });
                false
            }
            _ => true,
        });
    }
    part_attended(plan);
    borrow_rows(plan);
    name_apart(plan);
    learner
}

/// `AttendedOut` gives an attention's output alone; training needs all of its parts.
fn part_attended(plan: &mut Plan) {
    let ends: Vec<(ValueId, Ty)> = plan
        .ops()
        .filter_map(|op| match *op {
            Op::AttendedOut { x, .. } => Some((x, plan.values[x.0].ty.clone())),
            _ => None,
        })
        .collect();
    for (attended, ty) in ends {
        let Ty::Attended(heads, _) = ty else {
            continue;
        };
        let lse = plan.define("lse", Ty::PerHead(heads));
        let max_logit = plan.define("max_logit", Ty::PerHead(heads));
        for op in plan.steps.iter_mut().flat_map(|step| &mut step.ops) {
            if let Op::AttendedOut { x, out } = *op
                && x == attended
            {
                *op = Op::AttendedParts {
                    x,
                    out,
                    lse,
                    max_logit,
                };
            }
        }
    }
}

/// The last projection reads heads as rows without taking them.
fn borrow_rows(plan: &mut Plan) {
    let mut borrowed = Vec::new();
    for op in plan.steps.iter_mut().flat_map(|step| &mut step.ops) {
        if let Op::IntoRows { x, width, out } = *op
            && plan.outputs.len() == 1
        {
            *op = Op::AsRows { x, width, out };
            borrowed.push((out, width));
        }
    }
    for (out, width) in borrowed {
        plan.values[out.0].ty = Ty::Columns(width);
        plan.values[out.0].name = format!("{}_rows", plan.values[out.0].name).into();
    }
}

/// What an op takes and does not leave behind.
pub(super) fn consumed(plan: &Plan, op: &Op) -> Option<ValueId> {
    match op {
        // A view is copied before it is scaled
        Op::Scale { x, .. } if matches!(plan.values[x.0].ty, Ty::Columns(_)) => None,
        Op::Scale { x, .. }
        | Op::ScaleByPosition { x, .. }
        | Op::Hadamard { x, .. }
        | Op::IntoHeads { x, .. }
        | Op::RotateHeads { x, .. }
        | Op::RotateRows { x, .. }
        | Op::Gate { x, .. }
        | Op::Sink { x, .. }
        | Op::AttendedParts { x, .. }
        | Op::AttendedOut { x, .. }
        | Op::IntoRows { x, .. } => Some(*x),
        Op::Adjoint(adjoint) => adjoint.consumes(),
        _ => None,
    }
}

/// Where a value is made from another of the same name that stays, the older one is called `…_raw`. What a function is given keeps its name.
fn name_apart(plan: &mut Plan) {
    let mut holder: BTreeMap<String, Vec<ValueId>> = BTreeMap::new();
    let mut renamed: Vec<(ValueId, String)> = Vec::new();
    for op in plan.ops() {
        let consumed = consumed(plan, op);
        for out in op.defines() {
            let name = plan.values[out.0].name.to_string();
            let chain = holder.entry(name.clone()).or_default();
            match chain.last().copied() {
                None => chain.push(out),
                Some(last) if consumed == Some(last) => chain.push(out),
                Some(last) if is_argument(plan, last) => {
                    renamed.push((out, format!("{name}_normed")));
                }
                Some(_) => {
                    renamed.extend(chain.drain(..).map(|old| (old, format!("{name}_raw"))));
                    chain.push(out);
                }
            }
        }
    }
    for (value, name) in renamed {
        plan.values[value.0].name = name.into();
    }
}
