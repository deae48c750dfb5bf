//! The statements of a function: one per op, under the formula of their step.

use mla_spec::Phase;

use super::layout::{Call, Lines};
use crate::plan::{Aspect, LinearPart, NormPart, Offset, Op, Plan, Program, Step, Ty, ValueId};

/// How functions are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// The formula of each step above its statements.
    pub(crate) formulas: bool,
    /// Whether they take a probe.
    pub(crate) probes: bool,
}

/// Writes the body of a phase's function.
pub(crate) fn write(program: &Program, plan: &Plan, style: Style, lines: &mut Lines) {
    let mut body = Body {
        program,
        plan,
        style,
        lines,
    };
    let tail = body.tail();
    let mut first = true;
    for step in &plan.steps {
        if step.ops.iter().all(|op| matches!(op, Op::Hidden { .. })) {
            continue;
        }
        if style.formulas {
            if !first {
                body.lines.line("");
            }
            body.formula(step);
        }
        first = false;
        let mut ops = step.ops.iter().peekable();
        while let Some(op) = ops.next() {
            match (op, ops.peek()) {
                (
                    Op::AttendedOut { x, out },
                    Some(Op::IntoRows {
                        x: heads,
                        width,
                        out: rows,
                    }),
                ) if out == heads => {
                    let callee =
                        format!("{}.into_out()?.into_rows::<{}>", body.name(*x), width.name);
                    body.bind(*rows, &Call::infallible(callee, &[]));
                    ops.next();
                }
                _ => body.op(op, tail),
            }
        }
    }
    if tail.is_none() {
        let output = body.name(plan.output);
        body.lines.line(&format!("Ok({output})"));
    }
}

struct Body<'a> {
    program: &'a Program,
    plan: &'a Plan,
    style: Style,
    lines: &'a mut Lines,
}

impl Body<'_> {
    /// The value that the function's last statement is: the output, where the last op printed makes it.
    fn tail(&self) -> Option<ValueId> {
        let last = self.ops().last()?;
        matches!(last, Op::Linear { out, .. } if *out == self.plan.output)
            .then_some(self.plan.output)
    }

    fn formula(&mut self, step: &Step) {
        if !step.formula.is_empty() {
            self.lines.clauses(&step.formula);
        }
    }

    fn name(&self, id: ValueId) -> &'static str {
        self.plan.values[id.0].name
    }

    /// A value as the argument of a function that reads it.
    fn read(&self, id: ValueId) -> String {
        let value = &self.plan.values[id.0];
        let is_parameter = self
            .ops()
            .any(|op| matches!(op, Op::Hidden { out } if *out == id));
        match value.ty {
            Ty::Columns(_) | Ty::HeadPart(..) => value.name.to_owned(),
            _ if is_parameter => value.name.to_owned(),
            _ => format!("&{}", value.name),
        }
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.plan.steps.iter().flat_map(|step| &step.ops)
    }

    fn bind(&mut self, out: ValueId, call: &Call) {
        self.lines
            .call(&format!("let {} = ", self.name(out)), call, ";");
    }

    fn bind_typed(&mut self, out: ValueId, ty: &str, call: &Call) {
        let merged = self
            .ops()
            .any(|op| matches!(op, Op::MergeContext { into, .. } if *into == out));
        let mutable = if merged { "mut " } else { "" };
        self.lines.call(
            &format!("let {mutable}{}: {ty} = ", self.name(out)),
            call,
            ";",
        );
    }

    fn op(&mut self, op: &Op, tail: Option<ValueId>) {
        match op {
            Op::Hidden { .. } => {}
            Op::CheckBatch
            | Op::MaskSegments { .. }
            | Op::BatchSegments { .. }
            | Op::Angles { .. } => self.input(op),
            Op::Linear { x, slot, part, out } => {
                let call = Call::fallible(
                    format!("{}.forward", linear(slot, *part)),
                    &[&self.read(*x)],
                );
                match tail {
                    Some(output) if output == *out => {
                        self.lines.call("", &Call { tail: "", ..call }, "")
                    }
                    _ => self.bind(*out, &call),
                }
            }
            Op::Norm { x, slot, part, out } => {
                let norm = match part {
                    NormPart::Whole => format!("self.{slot}"),
                    NormPart::Inner => format!("self.{slot}.norm()"),
                };
                self.bind(
                    *out,
                    &Call::fallible(format!("{norm}.forward"), &[&self.read(*x)]),
                );
            }
            Op::RotateHeads { x, angles, out } => {
                let arguments = [self.name(*x), &self.read(*angles)];
                self.bind(*out, &Call::fallible("self.rotary.heads", &arguments));
            }
            Op::RotateKey { x, angles, out } => {
                let arguments = [self.read(*x), self.read(*angles)];
                self.bind(
                    *out,
                    &Call::fallible("self.rotary.key", &[&arguments[0], &arguments[1]]),
                );
            }
            Op::UnrotatedKey { x, absent, out } => self.unrotated_key(*x, *absent, *out),
            Op::Columns { .. }
            | Op::IntoHeads { .. }
            | Op::HeadPart { .. }
            | Op::AttendedOut { .. }
            | Op::IntoRows { .. } => {
                self.reshape(op);
            }
            Op::WriteLatent { latent: x, k_rope } | Op::WriteNaive { kv: x, k_rope } => {
                let arguments = [self.read(*x), self.read(*k_rope)];
                self.lines.call(
                    "",
                    &Call::fallible("cache.write", &["batch", &arguments[0], &arguments[1]]),
                    ";",
                );
            }
            Op::MergeContext { .. } => self.merge_context(op),
            Op::Probe {
                name,
                value,
                aspect,
            } => self.probe(name, *value, *aspect),
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendLatentCache { .. }
            | Op::AttendNaiveCache { .. }
            | Op::AbsorbQueries { .. }
            | Op::AbsorbValues { .. } => self.attention(op),
        }
    }

    /// What queries see, as an argument.
    fn visibility(&self) -> &'static str {
        if self.program.mask.is_causal() {
            "Visibility::CAUSAL"
        } else {
            "Visibility::FULL"
        }
    }

    /// What is read off the arguments.
    fn input(&mut self, op: &Op) {
        match op {
            Op::CheckBatch => {
                self.lines.call(
                    "",
                    &Call::fallible("cache.check", &["batch", "hidden.rows()"]),
                    ";",
                );
            }
            Op::MaskSegments { out } => {
                let padding = if self.program.mask.allows_padding() {
                    "Padding::Allowed"
                } else {
                    "Padding::Refused"
                };
                self.bind(
                    *out,
                    &Call::fallible(
                        "mask.segments",
                        &["hidden.rows()", self.visibility(), padding],
                    ),
                );
            }
            Op::BatchSegments { out } => {
                let call = Call::fallible("batch.segments", &[self.visibility()]);
                self.bind(*out, &call);
            }
            Op::Angles { out } => {
                let positions = match self.plan.phase {
                    Phase::Forward => "positions",
                    Phase::Prefill | Phase::Decode => "batch.positions()",
                };
                self.bind(*out, &Call::fallible("self.rotary.angles", &[positions]));
            }
            _ => {}
        }
    }

    /// Views and moves that compute nothing.
    fn reshape(&mut self, op: &Op) {
        let (x, method, arguments, out) = match op {
            Op::Columns {
                x,
                offset,
                width,
                out,
            } => (
                x,
                "columns",
                vec![elements(offset), width.name.to_owned()],
                out,
            ),
            Op::HeadPart {
                x,
                offset,
                width,
                out,
            } => (
                x,
                "part",
                vec![elements(offset), width.name.to_owned()],
                out,
            ),
            Op::IntoHeads { x, heads, dim, out } => (
                x,
                "into_heads",
                vec![heads.name.to_owned(), dim.name.to_owned()],
                out,
            ),
            Op::IntoRows { x, width, out } => (x, "into_rows", vec![width.name.to_owned()], out),
            Op::AttendedOut { x, out } => {
                let call = Call::fallible(format!("{}.into_out", self.name(*x)), &[]);
                return self.bind(*out, &call);
            }
            _ => return,
        };
        let callee = match arguments.join(", ") {
            none if none.is_empty() => format!("{}.{method}", self.name(*x)),
            generics => format!("{}.{method}::<{generics}>", self.name(*x)),
        };
        self.bind(*out, &Call::infallible(callee, &[]));
    }

    /// An absent key is the hidden state's first no columns.
    fn unrotated_key(&mut self, x: ValueId, absent: bool, out: ValueId) {
        if absent && self.style.formulas {
            self.lines
                .line("// No part of the key is shared: its width is 0");
        }
        let value = match (&self.plan.values[out.0].ty, absent) {
            (Ty::RopeKey(width, _), true) => {
                format!("{}.columns::<0, {}>()", self.name(x), width.name)
            }
            _ => self.read(x),
        };
        self.bind(out, &Call::fallible("RopeKey::unrotated", &[&value]));
    }

    fn attention(&mut self, op: &Op) {
        match op {
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                out,
            } => {
                let ty = self.attended_type(*out);
                let read = [*q, *kv, *k_rope, *segments].map(|id| self.read(id));
                let arguments = [&read[0], &read[1], &read[2], &read[3], "SOFTMAX_SCALE"];
                self.bind_typed(
                    *out,
                    &ty,
                    &Call::fallible("attention::expanded", &arguments),
                );
            }
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                out,
            } => {
                let read =
                    [*q_latent, *q_rope, *latent, *k_rope, *segments].map(|id| self.read(id));
                let arguments = [
                    &read[0],
                    &read[1],
                    &read[2],
                    &read[3],
                    &read[4],
                    "SOFTMAX_SCALE",
                ];
                self.bind(*out, &Call::fallible("attention::absorbed", &arguments));
            }
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                out,
            } => {
                let read = [self.read(*q_latent), self.read(*q_rope)];
                let arguments = [
                    "batch",
                    &read[0],
                    &read[1],
                    self.visibility(),
                    "SOFTMAX_SCALE",
                ];
                self.bind(*out, &Call::fallible("cache.attend", &arguments));
            }
            Op::AttendNaiveCache { q, out } => {
                let q = self.read(*q);
                let arguments = ["batch", &q, self.visibility(), "SOFTMAX_SCALE"];
                self.bind(*out, &Call::fallible("cache.attend", &arguments));
            }
            Op::AbsorbQueries {
                q_nope,
                slot,
                part,
                out,
            } => {
                let arguments = [up_projection(slot, *part), self.read(*q_nope)];
                self.bind(
                    *out,
                    &Call::fallible("absorb::queries", &[&arguments[0], &arguments[1]]),
                );
            }
            Op::AbsorbValues { z, slot, part, out } => {
                let (up, z) = (up_projection(slot, *part), self.name(*z));
                let ty = match &self.plan.values[out.0].ty {
                    Ty::Heads(heads, dim) => format!("Heads<B, {}, {}>", heads.name, dim.name),
                    _ => "_".to_owned(),
                };
                self.bind_typed(*out, &ty, &Call::fallible("absorb::values", &[&up, z]));
            }
            _ => {}
        }
    }

    fn attended_type(&self, id: ValueId) -> String {
        match &self.plan.values[id.0].ty {
            Ty::Attended(heads, dim) => format!("Attended<B, {}, {}>", heads.name, dim.name),
            _ => "_".to_owned(),
        }
    }

    fn merge_context(&mut self, op: &Op) {
        let Op::MergeContext {
            q,
            slot,
            part,
            chunk,
            into,
            out: _,
        } = op
        else {
            return;
        };
        // The context is expanded as the call's own tokens were
        let own = self.ops().find_map(|op| match op {
            Op::AttendExpanded { kv, out, .. } if out == into => Some(&self.plan.values[kv.0].ty),
            _ => None,
        });
        let heads = match own {
            Some(Ty::Heads(heads, dim)) => format!("kv.into_heads::<{}, {}>", heads.name, dim.name),
            _ => return,
        };
        let (q, merged, expand) = (
            self.read(*q),
            self.name(*into),
            format!("{}.forward", linear(slot, *part)),
        );
        let attend = [
            "&kv",
            "&context.k_rope",
            "&context.segments",
            "SOFTMAX_SCALE",
        ];
        let attend = Call::fallible(
            "attention::expanded",
            &[&[q.as_str()], attend.as_slice()].concat(),
        );
        self.lines.block(
            &format!(
                "for context in cache.context(batch, {}, {}) {{",
                chunk.name,
                self.visibility()
            ),
            "}",
            |lines| {
                lines.line("let context = context?;");
                lines.call(
                    "let kv = ",
                    &Call::fallible(expand, &["&context.latent"]),
                    ";",
                );
                lines.call("let kv = ", &Call::infallible(heads, &[]), ";");
                lines.call("let part = ", &attend, ";");
                lines.call(
                    "",
                    &Call::fallible(format!("{merged}.merge"), &["&part"]),
                    ";",
                );
            },
        );
    }

    fn probe(&mut self, name: &str, value: ValueId, aspect: Aspect) {
        let aspect = match (aspect, &self.plan.values[value.0].ty) {
            (Aspect::Lse, _) => format!("{}.lse()", self.name(value)),
            (Aspect::MaxLogit, _) => format!("{}.max_logit()", self.name(value)),
            (Aspect::Value, Ty::Columns(_) | Ty::HeadPart(..)) => format!("&{}", self.name(value)),
            (Aspect::Value, _) => self.read(value),
        };
        let call = Call::fallible("probe::record", &["probe", &format!("\"{name}\""), &aspect]);
        self.lines.call("", &call, ";");
    }
}

fn linear(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => format!("self.{slot}"),
        LinearPart::Inner => format!("self.{slot}.linear()"),
    }
}

/// The up projection as an argument.
fn up_projection(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => format!("&self.{slot}"),
        LinearPart::Inner => format!("self.{slot}.linear()"),
    }
}

/// An offset as a generic argument.
fn elements(offset: &Offset) -> String {
    let names: Vec<&str> = offset.0.iter().map(|dim| dim.name).collect();
    match names.as_slice() {
        [] => "0".to_owned(),
        [name] => (*name).to_owned(),
        names => format!("{{ {} }}", names.join(" + ")),
    }
}
