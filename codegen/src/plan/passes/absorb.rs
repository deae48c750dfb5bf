//! `absorb`: where a phase's form is MQA, queries meet latents instead of keys, and the result is expanded instead of every value.
//!
//! `q_n · (W_UK ĉ) = (W_UKᵀ q_n) · ĉ` and `Σ p (W_UV ĉ) = W_UV (Σ p ĉ)`, so the up projection leaves the keys' side.

use mla_spec::{Checked, Form, Latent};

use super::expansion::Expansion;
use crate::plan::lower::Sizes;
use crate::plan::{LinearPart, Offset, Op, Plan, Program, Ty, ValueId, formulas};

pub(super) fn run(checked: &Checked, program: &mut Program) {
    let Some(latent) = checked.layer.latent() else {
        return;
    };
    for plan in program
        .plans
        .iter_mut()
        .filter(|plan| plan.form == Some(Form::Mqa))
    {
        absorb(checked, latent, plan);
    }
}

/// The expanded attention of a plan and the up projection behind its keys.
struct Expanded {
    q: ValueId,
    latent: ValueId,
    slot: &'static str,
    part: LinearPart,
    k_rope: ValueId,
    segments: ValueId,
    selection: Option<ValueId>,
    attended: ValueId,
}

fn find(plan: &Plan) -> Option<Expanded> {
    plan.ops().find_map(|op| {
        let Op::AttendExpanded {
            q,
            kv,
            k_rope,
            segments,
            selection,
            out,
        } = *op
        else {
            return None;
        };
        let Expansion {
            latent, slot, part, ..
        } = Expansion::of(plan, kv)?;
        Some(Expanded {
            q,
            latent,
            slot,
            part,
            k_rope,
            segments,
            selection,
            attended: out,
        })
    })
}

fn absorb(checked: &Checked, latents: &Latent, plan: &mut Plan) {
    let Some(Expanded {
        q,
        latent,
        slot,
        part,
        k_rope,
        segments,
        selection,
        attended,
    }) = find(plan)
    else {
        return;
    };
    let sizes = Sizes::of(&checked.layer, latents);
    let q_nope = plan.define("q_nope", Ty::HeadPart(sizes.heads, sizes.nope));
    let q_latent = plan.define("q_latent", Ty::Heads(sizes.heads, sizes.kv_rank));
    let q_rope = plan.define("q_rope", Ty::HeadPart(sizes.heads, sizes.rope));
    let z = plan.define("z", Ty::Heads(sizes.heads, sizes.kv_rank));
    plan.values[attended.0].ty = Ty::Attended(sizes.heads, sizes.kv_rank);
    // What was attended, before and behind a sink
    let mut zs = vec![attended];
    for step in &mut plan.steps {
        if step.ops.iter().any(|op| op.makes(attended)) {
            step.formula = formulas::absorbed(&checked.layer, latents);
            step.ops = vec![
                Op::HeadPart {
                    x: q,
                    offset: Offset(vec![]),
                    width: sizes.nope,
                    out: q_nope,
                },
                Op::AbsorbQueries {
                    q_nope,
                    slot,
                    part,
                    out: q_latent,
                },
                Op::HeadPart {
                    x: q,
                    offset: Offset(vec![sizes.nope]),
                    width: sizes.rope,
                    out: q_rope,
                },
                Op::AttendAbsorbed {
                    q_latent,
                    q_rope,
                    latent,
                    k_rope,
                    segments,
                    selection,
                    out: attended,
                },
            ];
        }
        let mut end = None;
        for (at, op) in step.ops.iter_mut().enumerate() {
            match *op {
                Op::Sink { x, out, .. } if zs.contains(&x) => {
                    plan.values[out.0].ty = Ty::Attended(sizes.heads, sizes.kv_rank);
                    zs.push(out);
                }
                Op::AttendedOut { x, out } if zs.contains(&x) => {
                    *op = Op::AttendedOut { x, out: z };
                    end = Some((at + 1, Op::AbsorbValues { z, slot, part, out }));
                }
                _ => {}
            }
        }
        if let Some((at, values)) = end {
            step.ops.insert(at, values);
            step.formula = formulas::absorbed_output(&checked.layer);
        }
    }
}
