//! `fuse-round`: attention rounds its output itself where nobody reads anything else of it.
//!
//! Where there is a sink, or a probe of the log-sum-exp, the output stays in the accumulation type, and is rounded once that is done. Training
//! reads the log-sum-exp as well: `differentiate` has taken its attention apart before.

use mla_spec::Checked;

use crate::plan::{Op, Plan, Program, ValueId};

pub(super) fn run(_: &Checked, program: &mut Program) {
    for plan in &mut program.plans {
        while let Some(rounding) = find(plan) {
            fuse(plan, &rounding);
        }
        super::unused::compact(plan);
    }
}

/// What an attention gives, and the same rounded, of which nobody reads the former.
struct Rounding {
    attended: ValueId,
    out: ValueId,
}

fn find(plan: &Plan) -> Option<Rounding> {
    plan.ops().find_map(|op| {
        let Op::AttendedOut { x: attended, out } = *op else {
            return None;
        };
        let is_sunk = matches!(plan.definition(attended)?, Op::Sink { .. });
        (!is_sunk && plan.uses(attended) == 1).then_some(Rounding { attended, out })
    })
}

fn fuse(plan: &mut Plan, &Rounding { attended, out }: &Rounding) {
    plan.values[attended.0].ty = plan.values[out.0].ty.clone();
    for step in &mut plan.steps {
        step.ops.retain(|op| !op.makes(out));
        for op in &mut step.ops {
            op.visit_values(|_, value| {
                if *value == out {
                    *value = attended;
                }
            });
        }
    }
}
