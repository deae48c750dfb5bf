//! A latent layer's `mixed`: what comes before attention and after it is done once for all rows, attention in two parts.
//!
//! Requests in the expanded form are attended to as `prefill` does it, with their own latents alone expanded; those in the absorbed form as
//! `decode` does it, with their own queries alone absorbed.

use mla_spec::{Checked, Form, Latent};

use super::latent::{Canonical, is_own};
use super::{Site, single};
use crate::plan::lower::Sizes;
use crate::plan::{Offset, Op, Plan, Step, Ty, Value, ValueId, formulas};

/// Takes the expanded attention at `site` apart.
pub(super) fn run(checked: &Checked, latent: &Latent, plan: &mut Plan, site: Site, op: &Op) {
    let Some(canonical) = Canonical::of(plan, op) else {
        return;
    };
    let mut mixing = Mixing {
        checked,
        latent,
        sizes: Sizes::of(&checked.layer, latent),
        canonical,
        plan,
    };
    let forms = mixing.plan.define("forms", Ty::Forms);
    let (expanded, expanding) = mixing.expanded();
    let (absorbed, absorbing) = mixing.absorbed();
    mixing.joined((forms, expanded, absorbed));
    let mut steps = Vec::new();
    if is_own(latent) {
        let Canonical {
            latent: x, k_rope, ..
        } = mixing.canonical;
        let write = Op::WriteLatent { latent: x, k_rope };
        steps.push(single(formulas::latent_write(latent), write));
    }
    steps.push(single(formulas::forms(), Op::Forms { out: forms }));
    steps.extend(expanding.into_iter().chain(absorbing));
    plan.steps.splice(site.step..=site.step, steps);
}

struct Mixing<'a> {
    checked: &'a Checked,
    latent: &'a Latent,
    sizes: Sizes,
    canonical: Canonical,
    plan: &'a mut Plan,
}

impl Mixing<'_> {
    /// Attention as `prefill` has it, of the requests in the expanded form.
    fn expanded(&mut self) -> (ValueId, Vec<Step>) {
        let sizes = &self.sizes;
        let of_values = Ty::Attended(sizes.heads, sizes.v);
        let attended = self.plan.define("expanded", of_values);
        let (formula, attend) = self
            .canonical
            .over_context(self.checked, self.latent, attended);
        let out = self
            .plan
            .define("expanded", Ty::Heads(sizes.heads, sizes.v));
        let (x, mut end) = self.sunk(attended);
        end.push(Op::AttendedOut { x, out });
        let steps = [
            (formula, vec![attend]),
            (formulas::expanded_part(&self.checked.layer), end),
        ];
        (out, in_form(Form::Mha, steps.into()))
    }

    /// Attention as `decode` has it, of the requests in the absorbed form.
    fn absorbed(&mut self) -> (ValueId, Vec<Step>) {
        let sizes = &self.sizes;
        let Canonical { q, slot, part, .. } = self.canonical;
        let ty = self.plan.values[q.0].ty.clone();
        let own = self.plan.define("q", ty);
        let q_nope = self
            .plan
            .define("q_nope", Ty::HeadPart(sizes.heads, sizes.nope));
        let q_latent = self
            .plan
            .define("q_latent", Ty::Heads(sizes.heads, sizes.kv_rank));
        let q_rope = self
            .plan
            .define("q_rope", Ty::HeadPart(sizes.heads, sizes.rope));
        let attended = self
            .plan
            .define("attended", Ty::Attended(sizes.heads, sizes.kv_rank));
        let attend = vec![
            Op::Pick { x: q, out: own },
            Op::HeadPart {
                x: own,
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
                x: own,
                offset: Offset(vec![sizes.nope]),
                width: sizes.rope,
                out: q_rope,
            },
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection: None,
                out: attended,
            },
        ];
        let out = self
            .plan
            .define("absorbed", Ty::Heads(sizes.heads, sizes.v));
        let z = self.plan.define("z", Ty::Heads(sizes.heads, sizes.kv_rank));
        let (x, mut end) = self.sunk(attended);
        end.extend([
            Op::AttendedOut { x, out: z },
            Op::AbsorbValues { z, slot, part, out },
        ]);
        let layer = &self.checked.layer;
        let steps = [
            (formulas::absorbed(layer, self.latent), attend),
            (formulas::absorbed_part(layer), end),
        ];
        (out, in_form(Form::Mqa, steps.into()))
    }

    /// What was attended to, with the sink that lowering put behind attention.
    fn sunk(&mut self, attended: ValueId) -> (ValueId, Vec<Op>) {
        let canonical = self.canonical.attended;
        let sink = self.plan.ops().find_map(|op| match op {
            Op::Sink { x, slot, .. } if *x == canonical => Some(*slot),
            _ => None,
        });
        let Some(slot) = sink else {
            return (attended, Vec::new());
        };
        let Value { name, ty } = self.plan.values[attended.0].clone();
        let out = self.plan.define(name, ty);
        let sink = Op::Sink {
            x: attended,
            slot,
            out,
        };
        (out, vec![sink])
    }

    /// The output's step takes both parts where it took what was attended to.
    fn joined(&mut self, (forms, expanded, absorbed): (ValueId, ValueId, ValueId)) {
        let mut attended = vec![self.canonical.attended];
        for step in &mut self.plan.steps {
            step.ops.retain(|op| match op {
                Op::Sink { x, out, .. } if attended.contains(x) => {
                    attended.push(*out);
                    false
                }
                // No part has them for all rows
                Op::Probe { value, .. } => !attended.contains(value),
                _ => true,
            });
            for op in &mut step.ops {
                if let Op::AttendedOut { x, out } = *op
                    && attended.contains(&x)
                {
                    *op = Op::Join {
                        forms,
                        expanded,
                        absorbed,
                        out,
                    };
                    step.formula = formulas::joined_output(&self.checked.layer);
                }
            }
        }
    }
}

fn in_form(form: Form, steps: Vec<(String, Vec<Op>)>) -> Vec<Step> {
    let of = |(formula, ops)| Step {
        part: Some(form),
        ..Step::new(formula, ops)
    };
    steps.into_iter().map(of).collect()
}
