//! Grouped layers: keys and values of their groups.

use mla_spec::{Checked, Phase};

use super::{find, single};
use crate::plan::{Op, Plan, ValueId, formulas};

pub(super) fn run(checked: &Checked, plan: &mut Plan) {
    let attends = |op: &Op| matches!(op, Op::AttendGroups { .. });
    let Some((site, Op::AttendGroups { q, k, v, out, .. })) = find(plan, attends) else {
        return;
    };
    if checked.build.flash_decode
        && plan.phase == Phase::Decode
        && let Some((plain_q, plain_k)) = unrotated(plan, q, k)
    {
        // Rotated queries and keys are never there to be looked at
        let rotated = [q, k];
        for step in &mut plan.steps {
            step.ops
                .retain(|op| !matches!(op, Op::Probe { value, .. } if rotated.contains(value)));
        }
        let step = &mut plan.steps[site.step];
        step.formula = formulas::flash(&checked.layer);
        step.ops[site.op] = Op::FlashDecode {
            q: plain_q,
            k: plain_k,
            v,
            out,
        };
        return;
    }
    plan.steps[site.step].ops[site.op] = Op::AttendGroupCache { q, out };
    let write = single(formulas::groups_write(), Op::WriteGroups { k, v });
    plan.steps.insert(site.step, write);
}

/// Queries and keys before their rotation, where rotating is the last thing that happens to both.
fn unrotated(plan: &Plan, q: ValueId, k: ValueId) -> Option<(ValueId, ValueId)> {
    match (plan.definition(q)?, plan.definition(k)?) {
        (&Op::RotateHeads { x, .. }, &Op::RotateHeads { x: key, .. }) => Some((x, key)),
        _ => None,
    }
}
