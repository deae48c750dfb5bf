//! A latent layer's `mixed`: what comes before attention and after it is done once for all rows, attention in two parts.
//!
//! Requests in the expanded form are attended to as `prefill` does it, with their own latents alone expanded; those in the absorbed form as
//! `decode` does it, with their own queries alone absorbed.

use mla_spec::{Checked, Form, Latent};

use super::latent::is_own;
use super::{CONTEXT_CHUNK, Site, single};
use crate::plan::lower::Sizes;
use crate::plan::{Dim, LinearPart, Offset, Op, Plan, Step, Ty, ValueId, formulas};

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

/// What lowering wrote: attention in the expanded form over the call's own tokens.
#[derive(Debug, Clone, Copy)]
struct Canonical {
    q: ValueId,
    latent: ValueId,
    k_rope: ValueId,
    slot: &'static str,
    part: LinearPart,
    attended: ValueId,
}

impl Canonical {
    fn of(plan: &Plan, op: &Op) -> Option<Self> {
        let Op::AttendExpanded {
            q,
            kv,
            k_rope,
            out: attended,
            ..
        } = *op
        else {
            return None;
        };
        let Op::IntoHeads { x: rows, .. } = *plan.definition(kv)? else {
            return None;
        };
        let Op::Linear {
            x: latent,
            slot,
            part,
            ..
        } = *plan.definition(rows)?
        else {
            return None;
        };
        Some(Self {
            q,
            latent,
            k_rope,
            slot,
            part,
            attended,
        })
    }
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
        let Canonical {
            q,
            latent,
            k_rope,
            slot,
            part,
            ..
        } = self.canonical;
        let ty = self.plan.values[k_rope.0].ty.clone();
        let own_latent = self.plan.define("kv_compressed", Ty::Rows(sizes.kv_rank));
        let own_key = self.plan.define("k_rope", ty);
        let segments = self.plan.define("segments", Ty::Segments);
        let rows = self.plan.define("kv", Ty::Rows(sizes.kv_up));
        let kv = self
            .plan
            .define("kv", Ty::Heads(sizes.heads, sizes.kv_head));
        let of_values = Ty::Attended(sizes.heads, sizes.v);
        let attended = self.plan.define("attended", of_values.clone());
        let merged = self.plan.define("attended", of_values);
        let attend = vec![
            Op::Pick {
                x: latent,
                out: own_latent,
            },
            Op::Pick {
                x: k_rope,
                out: own_key,
            },
            Op::BatchSegments { out: segments },
            Op::Linear {
                x: own_latent,
                slot,
                part,
                out: rows,
            },
            Op::IntoHeads {
                x: rows,
                heads: sizes.heads,
                dim: sizes.kv_head,
                out: kv,
            },
            Op::AttendExpanded {
                q,
                kv,
                k_rope: own_key,
                segments,
                selection: None,
                out: attended,
            },
        ];
        let chunk = Dim {
            name: CONTEXT_CHUNK,
            size: self.checked.build.context_chunk,
        };
        let merge = Op::MergeContext {
            q,
            slot,
            part,
            chunk,
            into: attended,
            out: merged,
        };
        let out = self
            .plan
            .define("expanded", Ty::Heads(sizes.heads, sizes.v));
        let (x, mut end) = self.sunk(merged);
        end.push(Op::AttendedOut { x, out });
        let layer = &self.checked.layer;
        let steps = [
            (formulas::expanded(layer, self.latent), attend),
            (formulas::context(chunk.size), vec![merge]),
            (formulas::expanded_part(layer), end),
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
        let (z, mut end) = self.sunk(attended);
        end.push(Op::AbsorbValues { z, slot, part, out });
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
        let ty = self.plan.values[attended.0].ty.clone();
        let out = self.plan.define("attended", ty);
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
