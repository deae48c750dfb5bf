//! `drop-unused`: ops whose result nobody reads go, and so do steps without ops; values are numbered densely again.

use std::collections::BTreeMap;

use mla_spec::Checked;

use crate::plan::Role;
use crate::plan::{Op, Plan, Program, ValueId};

pub(super) fn run(_: &Checked, program: &mut Program) {
    for plan in &mut program.plans {
        drop_unused(plan);
        compact(plan);
    }
}

/// Removes ops whose result nobody reads.
pub(in crate::plan) fn drop_unused(plan: &mut Plan) {
    while let Some(unused) = unused(plan) {
        for step in &mut plan.steps {
            step.ops.retain(|op| !op.makes(unused));
        }
    }
}

fn unused(plan: &Plan) -> Option<ValueId> {
    plan.ops()
        .filter(|op| !op.has_effect())
        .map(Op::defines)
        .find(|defined| !defined.is_empty() && defined.iter().all(|&value| plan.uses(value) == 0))?
        .first()
        .copied()
}

/// Removes empty steps and values that no op defines.
pub(in crate::plan) fn compact(plan: &mut Plan) {
    plan.steps.retain(|step| !step.ops.is_empty());
    let order: Vec<ValueId> = plan.ops().flat_map(Op::defines).collect();
    let renamed: BTreeMap<ValueId, ValueId> = order
        .iter()
        .enumerate()
        .map(|(new, &old)| (old, ValueId(new)))
        .collect();
    let rename = |value: &mut ValueId| {
        if let Some(&new) = renamed.get(value) {
            *value = new;
        }
    };
    plan.values = order.iter().map(|old| plan.values[old.0].clone()).collect();
    for op in plan.steps.iter_mut().flat_map(|step| &mut step.ops) {
        op.visit_values(|_: Role, value| rename(value));
    }
    plan.outputs.iter_mut().for_each(rename);
}
