//! `fuse-norm`: a norm-linear is one op where only its linear reads the normed latent.
//!
//! Where the latent is cached, absorbed or probed, or its norm is part of a pass over rows, the two stay apart. Both ways compute the same numbers.

use mla_spec::Checked;

use crate::plan::{LinearPart, NormPart, Op, Plan, Program, ValueId};

pub(super) fn run(_: &Checked, program: &mut Program) {
    for plan in &mut program.plans {
        while let Some(pair) = find(plan) {
            fuse(plan, &pair);
        }
        super::unused::compact(plan);
    }
}

/// A norm and the one linear that reads it.
struct Pair {
    x: ValueId,
    normed: ValueId,
}

fn find(plan: &Plan) -> Option<Pair> {
    plan.ops().find_map(|op| {
        let Op::Linear {
            x: normed,
            slot,
            part: LinearPart::Inner,
            ..
        } = *op
        else {
            return None;
        };
        let Op::Norm {
            x,
            slot: of,
            part: NormPart::Inner,
            ..
        } = *plan.definition(normed)?
        else {
            return None;
        };
        let mut passes = plan.steps.iter().filter(|step| step.fused);
        let is_apart = passes.any(|step| step.ops.iter().any(|op| op.makes(normed)));
        (slot == of && plan.uses(normed) == 1 && !is_apart).then_some(Pair { x, normed })
    })
}

fn fuse(plan: &mut Plan, pair: &Pair) {
    for step in &mut plan.steps {
        step.ops.retain(|op| !op.makes(pair.normed));
        for op in &mut step.ops {
            if let Op::Linear { x, part, .. } = op
                && *x == pair.normed
            {
                (*x, *part) = (pair.x, LinearPart::Whole);
            }
        }
    }
}
