//! What only training has: values that are kept, and ops of the backward pass.

use mla_spec::GateGranularity;

use super::returns::STRUCT_LIT_WIDTH;
use super::{Body, elements, linear, up_projection, words};
use crate::emit::rust::layout::Call;
use crate::plan::{
    Adjoint, GroupPart, LinearPart, NormPart, Op, Over, Piece, Teacher, Turned, Ty, ValueId,
};

impl Body<'_> {
    /// Ops of a forward pass that its backward pass needs in this form.
    pub(super) fn kept(&mut self, op: &Op) {
        match op {
            Op::AttendedParts {
                x,
                out,
                lse,
                max_logit,
            } => {
                let parts = self.pattern(&[*out, *lse, *max_logit]);
                let call = Call::fallible(format!("{}.into_parts", self.name(*x)), &[]);
                self.lines.call(&format!("let {parts} = "), &call, ";");
            }
            Op::AsRows { x, width, out } => {
                let callee = format!("{}.as_rows::<{}>", self.name(*x), width.name);
                self.bind(*out, &Call::infallible(callee, &[]));
            }
            Op::Copy { x, out } => {
                let method = match self.ty(*x) {
                    Ty::Columns(_) => "to_rows",
                    Ty::HeadPart(..) => "to_heads",
                    _ => "copied",
                };
                let callee = format!("{}.{method}", self.name(*x));
                self.bind(*out, &Call::fallible(callee, &[]));
            }
            _ => {}
        }
    }

    /// The op of a backward pass.
    pub(super) fn adjoint(&mut self, adjoint: &Adjoint) {
        match adjoint {
            Adjoint::OutputGradient { .. } => {}
            Adjoint::GivenKvGradient { latent, k_rope } => {
                let pair = self.pattern(&[*latent, *k_rope]);
                self.lines
                    .line(&format!("let {pair} = d_shared_kv.views();"));
            }
            Adjoint::Saved { out } => self.unpack("Saved", "saved", out),
            Adjoint::Deferred { out } => self.unpack("Deferred", "deferred", out),
            Adjoint::Drop { x } => {
                let call = Call::infallible("drop", &[self.name(*x)]);
                self.lines.call("", &call, ";");
            }
            Adjoint::Narrow { x, out } => {
                let callee = format!("{}.to_rows", self.name(*x));
                self.bind(*out, &Call::fallible(callee, &[]));
            }
            Adjoint::Assemble { parts, out } => self.assemble(parts, *out),
            Adjoint::Add { into, x, .. } => {
                let callee = format!("{}.add", self.name(*into));
                let call = Call::fallible(callee, &[&self.read(*x)]);
                self.lines.call("", &call, ";");
            }
            Adjoint::Gate {
                x,
                gate,
                dy,
                granularity,
                d_x,
                d_gate,
            } => {
                let function = match granularity {
                    GateGranularity::PerHead => "gate::per_head_backward",
                    GateGranularity::PerElement => "gate::per_element_backward",
                };
                let read = [self.read(*x), self.read(*gate), self.read(*dy)];
                let pair = self.pattern(&[*d_x, *d_gate]);
                let call = Call::fallible(function, &words(&read));
                self.lines.call(&format!("let {pair} = "), &call, ";");
            }
            Adjoint::Expanded { .. } | Adjoint::Absorbed { .. } | Adjoint::Groups { .. } => {
                self.attention_backward(adjoint);
            }
            Adjoint::IndexerLoss { .. } => self.indexer_loss(adjoint),
            Adjoint::RotateHeads { .. }
            | Adjoint::RotateKey { .. }
            | Adjoint::RotateRows { .. } => self.rotation_backward(adjoint),
            _ => self.module_backward(adjoint),
        }
    }

    /// Names as a pattern, `_` for what nobody reads.
    fn pattern(&self, values: &[ValueId]) -> String {
        let names: Vec<String> = values.iter().map(|&id| self.pattern_name(id)).collect();
        format!("({})", names.join(", "))
    }

    fn pattern_name(&self, id: ValueId) -> String {
        let is_statistic = self
            .ops()
            .any(|op| matches!(op, Op::AttendedParts { max_logit, .. } if *max_logit == id));
        let is_read = self.ops().any(|op| op.reads().contains(&id))
            || self.plan.outputs.contains(&id)
            || is_statistic && self.function.is_forward();
        match (is_read, self.grows(id)) {
            (false, _) => "_".to_owned(),
            (true, false) => self.name(id).to_owned(),
            (true, true) => format!("mut {}", self.name(id)),
        }
    }

    /// Takes a struct of values apart.
    fn unpack(&mut self, ty: &str, from: &str, values: &[ValueId]) {
        let mut fields: Vec<String> = values.iter().map(|&id| self.name(id).to_owned()).collect();
        if ty == "Saved" {
            fields.extend(self.kept_arguments());
        }
        self.destructure(ty, from, &fields);
        if ty == "Saved" {
            for &id in values {
                if self.is_offloaded(id) {
                    let callee = format!("{}.restore", self.name(id));
                    self.bind(id, &Call::fallible(callee, &[]));
                }
            }
            // What it drops was kept
            self.softmax_binding();
        }
    }

    /// `let ty { fields, .. } = from;`, broken as rustfmt breaks patterns.
    fn destructure(&mut self, ty: &str, from: &str, fields: &[String]) {
        let (listed, close) = (fields.join(", "), format!("}} = {from};"));
        let width = listed.chars().count();
        let inside = format!("{listed}, ..");
        if width + 4 <= STRUCT_LIT_WIDTH {
            return self.lines.line(&format!("let {ty} {{ {inside} {close}"));
        }
        self.lines.block(&format!("let {ty} {{"), &close, |lines| {
            if width <= STRUCT_LIT_WIDTH {
                return lines.line(&inside);
            }
            for field in fields {
                lines.line(&format!("{field},"));
            }
            lines.line("..");
        });
    }

    fn assemble(&mut self, parts: &[(Piece, ValueId)], out: ValueId) {
        let Some((_, first)) = parts.first() else {
            return;
        };
        let (ty, first) = (self.type_of(out), self.name(*first).to_owned());
        let (name, ty) = (self.name(out).to_owned(), ty.replacen('<', "::<", 1));
        let device = format!("{first}.device()");
        let rows = format!("{first}.rows()");
        let call = Call::fallible(format!("{ty}::zeros"), &[&device, &rows]);
        self.lines.call(&format!("let mut {name} = "), &call, ";");
        for (piece, x) in parts {
            let x = self.read(*x);
            let call = match piece {
                Piece::Columns(offset, width) => Call::fallible(
                    format!("{name}.add_columns::<{}, {}>", elements(offset), width.name),
                    &[&x],
                ),
                Piece::Head(offset, width) => Call::fallible(
                    format!("{name}.add_part::<{}, {}>", elements(offset), width.name),
                    &[&x],
                ),
                Piece::Group(part) => self.add_group(*part, &name, &x, out),
            };
            self.lines.call("", &call, ";");
        }
    }

    fn add_group(&self, part: GroupPart, name: &str, x: &str, out: ValueId) -> Call {
        let Ty::Rows(width) = self.ty(out) else {
            return Call::infallible("", &[]);
        };
        let groups = self.program.groups().name;
        let heads = "NUM_ATTENTION_HEADS";
        let (function, generics) = match part {
            GroupPart::Query => ("query", vec![heads, groups, "HEAD_DIM"]),
            GroupPart::Gate => ("gate", vec![heads, groups, "HEAD_DIM", "_"]),
            GroupPart::Key => ("key", vec![groups, "HEAD_DIM"]),
            GroupPart::Value => ("value", vec![groups, "HEAD_DIM"]),
        };
        let generics = [vec!["B", width.name], generics].concat().join(", ");
        let into = format!("&mut {name}");
        Call::fallible(format!("groups::add_{function}::<{generics}>"), &[&into, x])
    }

    fn attention_backward(&mut self, adjoint: &Adjoint) {
        let (form, mut read, over, results) = match adjoint {
            Adjoint::Expanded {
                q,
                kv,
                k_rope,
                over,
                d_q,
                d_kv,
                d_k_rope,
            } => (
                "expanded",
                vec![*q, *kv, *k_rope],
                *over,
                vec![*d_q, *d_kv, *d_k_rope],
            ),
            Adjoint::Absorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                over,
                d_q_latent,
                d_q_rope,
                d_latent,
                d_k_rope,
            } => (
                "absorbed",
                vec![*q_latent, *q_rope, *latent, *k_rope],
                *over,
                vec![*d_q_latent, *d_q_rope, *d_latent, *d_k_rope],
            ),
            Adjoint::Groups {
                q,
                k,
                v,
                over,
                d_q,
                d_k,
                d_v,
            } => ("grouped", vec![*q, *k, *v], *over, vec![*d_q, *d_k, *d_v]),
            _ => return,
        };
        let Over {
            segments,
            selection,
            attended,
            lse,
            dy,
            d_bias,
        } = over;
        read.push(segments);
        read.extend(selection);
        let mut arguments: Vec<String> = read.iter().map(|&id| self.read(id)).collect();
        arguments.push(self.softmax().to_owned());
        arguments.extend([attended, lse, dy].map(|id| self.read(id)));
        let selected = if selection.is_some() { "_selected" } else { "" };
        let mut biased = "";
        if let Some(d_bias) = d_bias {
            let d_bias = self.name(d_bias).to_owned();
            let device = format!("{}.device()", self.name(dy));
            let call = Call::fallible("bias.zeros_like", &[&device]);
            self.lines.call(&format!("let mut {d_bias} = "), &call, ";");
            arguments.push(format!("&mut {d_bias}"));
            biased = "_with_bias";
        }
        let function = format!("attention::{form}{selected}_backward{biased}");
        let pattern = self.pattern(&results);
        let call = Call::fallible(function, &words(&arguments));
        self.lines.call(&format!("let {pattern} = "), &call, ";");
    }

    fn indexer_loss(&mut self, adjoint: &Adjoint) {
        let Adjoint::IndexerLoss {
            teacher,
            segments,
            selection,
            lse,
            q,
            k,
            weights,
            loss,
            d_q,
            d_k,
            d_weights,
        } = adjoint
        else {
            return;
        };
        let function = match teacher {
            Teacher::Expanded { .. } => "indexer::loss_expanded",
            Teacher::Absorbed { .. } => "indexer::loss_absorbed",
        };
        let most = self.program.selected.map_or("0", |keys| keys.name);
        let mut read = teacher.values();
        read.extend([*lse, *segments]);
        let mut arguments: Vec<String> = read.iter().map(|&id| self.read(id)).collect();
        arguments.push(self.softmax().to_owned());
        arguments.push(match selection {
            Some(selection) => format!("Some({})", self.read(*selection)),
            None => format!("None::<&Selection<B, {most}>>"),
        });
        arguments.extend([*q, *k, *weights].map(|id| self.read(id)));
        arguments.extend(["&SELECTING", "&INDEXER_LOSS", "loss_scale"].map(str::to_owned));
        let call = Call::fallible(function, &words(&arguments));
        let fields = [
            ("loss", loss),
            ("q", d_q),
            ("k", d_k),
            ("weights", d_weights),
        ];
        let fields = fields.map(|(field, id)| format!("{field}: {},", self.pattern_name(*id)));
        self.lines.pattern("let IndexerGradients {", &fields);
        self.lines.call("} = ", &call, ";");
    }

    fn rotation_backward(&mut self, adjoint: &Adjoint) {
        let (table, method, dy, angles, out) = match adjoint {
            Adjoint::RotateHeads {
                dy,
                angles,
                turn,
                out,
            } => {
                let method = match turn.part {
                    Turned::First => "heads_first_backward",
                    Turned::Last => "heads_backward",
                };
                (super::rows::rotary(*turn), method, dy, angles, out)
            }
            Adjoint::RotateRows {
                dy,
                angles,
                turn,
                out,
            } => {
                let method = match turn.part {
                    Turned::First => "rows_first_backward",
                    Turned::Last => "rows_last_backward",
                };
                (super::rows::rotary(*turn), method, dy, angles, out)
            }
            Adjoint::RotateKey { dy, angles, out } => ("rotary", "key_backward", dy, angles, out),
            _ => return,
        };
        let arguments = [self.name(*dy).to_owned(), self.read(*angles)];
        let call = Call::fallible(format!("self.{table}.{method}"), &words(&arguments));
        self.bind(*out, &call);
    }

    fn module_backward(&mut self, adjoint: &Adjoint) {
        match adjoint {
            Adjoint::LinearInput {
                dy,
                slot,
                part,
                out,
            } => {
                let callee = format!("{}.backward_input", linear(slot, *part));
                self.bind(*out, &Call::fallible(callee, &[&self.read(*dy)]));
            }
            Adjoint::LinearWeight { x, dy, slot, part } => {
                let method = match self.ty(*dy) {
                    Ty::PerHead(_) => "accumulate_per_head",
                    _ => "accumulate",
                };
                self.accumulate((slot, *part), method, [*x, *dy]);
            }
            Adjoint::AbsorbQueriesWeight {
                q_nope,
                dy,
                slot,
                part,
            } => self.accumulate((slot, *part), "accumulate_queries", [*q_nope, *dy]),
            Adjoint::AbsorbValuesWeight { z, dy, slot, part } => {
                self.accumulate((slot, *part), "accumulate_values", [*z, *dy]);
            }
            Adjoint::AbsorbQueries {
                dy,
                slot,
                part,
                out,
            } => {
                let arguments = [up_projection(slot, *part), self.read(*dy)];
                let call = Call::fallible("absorb::queries_backward", &words(&arguments));
                self.bind_typed(*out, &call);
            }
            Adjoint::AbsorbValues {
                dy,
                slot,
                part,
                out,
            } => {
                let arguments = [up_projection(slot, *part), self.read(*dy)];
                let call = Call::fallible("absorb::values_backward", &words(&arguments));
                self.bind_typed(*out, &call);
            }
            Adjoint::Norm {
                x,
                dy,
                slot,
                part,
                out,
            } => {
                let call = self.norm_backward((slot, *part), [*x, *dy]);
                self.bind(*out, &call);
            }
            Adjoint::NormWeight { x, dy, slot, part } => {
                let call = self.norm_backward((slot, *part), [*x, *dy]);
                self.lines.call("", &call, ";");
            }
            Adjoint::HeadNorm { x, dy, slot, out } => {
                let arguments = [
                    self.read(*x),
                    self.read(*dy),
                    format!("&mut gradients.{slot}"),
                ];
                let callee = format!("self.{slot}.heads_backward");
                self.bind(*out, &Call::fallible(callee, &words(&arguments)));
            }
            Adjoint::L2Norm { x, dy, eps, out } => {
                let arguments = [self.read(*x), self.read(*dy)];
                let arguments = [words(&arguments), vec![*eps]].concat();
                self.bind(*out, &Call::fallible("l2_norm::heads_backward", &arguments));
            }
            Adjoint::LearnedScale { x, dy, slot, out } => {
                let arguments = [
                    self.read(*x),
                    self.name(*dy).to_owned(),
                    self.positions().to_owned(),
                    format!("&mut gradients.{slot}"),
                ];
                let callee = format!("self.{slot}.backward");
                self.bind(*out, &Call::fallible(callee, &words(&arguments)));
            }
            Adjoint::Sink {
                attended,
                lse,
                dy,
                slot,
            } => {
                let mut arguments = [*attended, *lse, *dy].map(|id| self.read(id)).to_vec();
                arguments.push(format!("&mut gradients.{slot}"));
                let callee = format!("self.{slot}.backward");
                self.lines
                    .call("", &Call::fallible(callee, &words(&arguments)), ";");
            }
            _ => {}
        }
    }

    fn norm_backward(&self, (slot, part): (&str, NormPart), read: [ValueId; 2]) -> Call {
        let mut arguments = read.map(|id| self.read(id)).to_vec();
        let callee = match part {
            NormPart::Whole => {
                arguments.push(format!("&mut gradients.{slot}"));
                format!("self.{slot}.backward")
            }
            NormPart::Inner => {
                arguments.push(format!("&mut gradients.{slot}.norm"));
                format!("self.{slot}.norm().backward")
            }
        };
        Call::fallible(callee, &words(&arguments))
    }

    fn accumulate(&mut self, (slot, part): (&str, LinearPart), method: &str, read: [ValueId; 2]) {
        let inner = match part {
            LinearPart::Whole => "",
            LinearPart::Inner => ".linear",
        };
        let callee = format!("gradients.{slot}{inner}.{method}");
        let arguments = read.map(|id| self.read(id));
        self.lines
            .call("", &Call::fallible(callee, &words(&arguments)), ";");
    }

    /// Whether something is added to the value in place.
    pub(super) fn grows(&self, id: ValueId) -> bool {
        self.ops().any(|op| match op {
            Op::Adjoint(Adjoint::Add { into, .. }) => *into == id,
            _ => false,
        })
    }
}
