//! Rows and heads.

use mla_spec::GateGranularity;

use super::{Body, elements, linear, norm, words};
use crate::emit::rust::layout::Call;
use crate::plan::{GroupPart, Op, PositionScale, Turn, Turned, Ty, ValueId};

impl Body<'_> {
    /// What computes rows and heads.
    pub(super) fn rows(&mut self, op: &Op, tail: Option<ValueId>) {
        match op {
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
                let callee = format!("{}.forward", norm(slot, *part));
                self.bind(*out, &Call::fallible(callee, &[&self.read(*x)]));
            }
            Op::HeadNorm { x, slot, out } => {
                let call = Call::fallible(format!("self.{slot}.heads"), &[&self.read(*x)]);
                self.bind(*out, &call);
            }
            Op::L2Norm { x, eps, out } => {
                let call = Call::fallible("l2_norm::heads", &[&self.read(*x), eps]);
                self.bind(*out, &call);
            }
            Op::Scale { x, by, out } => self.scale(*x, by, *out),
            Op::ScaleByPosition { x, scale, out } => self.scale_by_position(*x, *scale, *out),
            Op::Hadamard { x, out } => {
                let function = match self.ty(*x) {
                    Ty::Heads(..) => "hadamard::heads",
                    _ => "hadamard::rows",
                };
                self.bind(*out, &Call::fallible(function, &[self.name(*x)]));
            }
            Op::Concat { left, right, out } => {
                let read = [self.read(*left), self.read(*right)];
                self.bind_typed(*out, &Call::fallible("concat::rows", &words(&read)));
            }
            Op::GroupPart { x, part, out } => self.group_part(*x, *part, *out),
            Op::IntoPerHead { x, out } => {
                let view = match self.ty(*x) {
                    Ty::Columns(_) => "",
                    _ => ".view()",
                };
                let callee = format!("{}{view}.to_per_head", self.name(*x));
                self.bind(*out, &Call::fallible(callee, &[]));
            }
            Op::Gate {
                x,
                gate,
                granularity,
                out,
            } => {
                let function = match granularity {
                    GateGranularity::PerHead => "gate::per_head",
                    GateGranularity::PerElement => "gate::per_element",
                };
                let arguments = [self.name(*x).to_owned(), self.read(*gate)];
                self.bind(*out, &Call::fallible(function, &words(&arguments)));
            }
            _ => self.rotation(op),
        }
    }

    fn rotation(&mut self, op: &Op) {
        match op {
            Op::RotateHeads {
                x,
                angles,
                turn,
                out,
            } => {
                let method = match turn.part {
                    Turned::First => "heads_first",
                    Turned::Last => "heads",
                };
                self.rotate((rotary(*turn), method), *x, *angles, *out);
            }
            Op::RotateRows {
                x,
                angles,
                turn,
                out,
            } => {
                let method = match turn.part {
                    Turned::First => "rows_first",
                    Turned::Last => "rows_last",
                };
                self.rotate((rotary(*turn), method), *x, *angles, *out);
            }
            Op::RotateKey { x, angles, out } => {
                let arguments = [self.read(*x), self.read(*angles)];
                self.bind(*out, &Call::fallible("self.rotary.key", &words(&arguments)));
            }
            Op::UnrotatedKey { x, absent, out } => self.unrotated_key(*x, *absent, *out),
            _ => {}
        }
    }

    fn rotate(&mut self, (table, method): (&str, &str), x: ValueId, angles: ValueId, out: ValueId) {
        let arguments = [self.name(x).to_owned(), self.read(angles)];
        let call = Call::fallible(format!("self.{table}.{method}"), &words(&arguments));
        self.bind(out, &call);
    }

    /// A borrowed value is copied before it is changed.
    fn scale(&mut self, x: ValueId, by: &str, out: ValueId) {
        let owned = match self.ty(x) {
            Ty::Columns(_) => format!("{}.to_rows()?", self.name(x)),
            _ => self.name(x).to_owned(),
        };
        self.bind(out, &Call::fallible(format!("{owned}.scaled"), &[by]));
    }

    fn scale_by_position(&mut self, x: ValueId, scale: PositionScale, out: ValueId) {
        let (q, positions) = (self.name(x), self.positions());
        let call = match scale {
            PositionScale::Learned { slot } => {
                Call::fallible(format!("self.{slot}.heads"), &[q, positions])
            }
            PositionScale::Llama4 {
                beta,
                original_max_position_embeddings: length,
                position_offset: offset,
            } => Call::fallible(
                "position_scale::llama4",
                &[q, positions, beta, length.name, offset.name],
            ),
        };
        self.bind(out, &call);
    }

    fn group_part(&mut self, x: ValueId, part: GroupPart, out: ValueId) {
        let Ty::Rows(width) = *self.ty(x) else {
            return;
        };
        let groups = self.program.groups();
        let of = |generics: &[&str]| {
            let all = [&["B", width.name], generics].concat();
            all.join(", ")
        };
        let (function, generics) = match (part, self.ty(out)) {
            (GroupPart::Query, Ty::Heads(heads, dim)) => {
                ("query", of(&[heads.name, groups.name, dim.name]))
            }
            (GroupPart::Gate, Ty::Rows(_)) => (
                "gate",
                of(&["NUM_ATTENTION_HEADS", groups.name, "HEAD_DIM", "_"]),
            ),
            (GroupPart::Key, Ty::Heads(heads, dim)) => ("key", of(&[heads.name, dim.name])),
            (GroupPart::Value, Ty::Heads(heads, dim)) => ("value", of(&[heads.name, dim.name])),
            _ => return,
        };
        let callee = format!("groups::{function}::<{generics}>");
        let call = Call::fallible(callee, &[&self.read(x)]);
        match part {
            GroupPart::Gate => self.bind_typed(out, &call),
            GroupPart::Query | GroupPart::Key | GroupPart::Value => self.bind(out, &call),
        }
    }

    /// Views and moves that compute nothing.
    pub(super) fn reshape(&mut self, op: &Op) {
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
                if self.is_given(*out) {
                    return self.given(&call);
                }
                return self.bind(*out, &call);
            }
            Op::CutHeads { x, out } => {
                let call = Call::fallible(format!("{}.to_heads", self.name(*x)), &[]);
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
        let value = match (self.ty(out), absent) {
            (Ty::RopeKey(width, _), true) => {
                format!("{}.columns::<0, {}>()", self.name(x), width.name)
            }
            _ => self.read(x),
        };
        self.bind(out, &Call::fallible("RopeKey::unrotated", &[&value]));
    }
}

/// The field that rotates.
pub(super) fn rotary(turn: Turn) -> &'static str {
    if turn.indexer {
        "indexer_rotary"
    } else {
        "rotary"
    }
}
