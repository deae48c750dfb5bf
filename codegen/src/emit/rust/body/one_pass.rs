//! Steps that a device does in one pass: each op is said, and the last statement does them all.

use super::{Body, norm, words};
use crate::emit::rust::layout::Call;
use crate::plan::{Op, Prologue, Step, Turn, Turned, ValueId};

impl Body<'_> {
    pub(super) fn in_one_pass(&mut self, step: &Step) {
        for op in &step.ops {
            self.said(op);
        }
        if let Some(prologue) = Prologue::of(step) {
            self.prologue(step, prologue);
        }
    }

    /// The statement that does the step in front of attention over a latent cache.
    fn prologue(&mut self, step: &Step, prologue: Prologue) {
        let Prologue {
            queries,
            latent,
            k_rope,
            key,
        } = prologue;
        let is_kept = self.leaves(step, latent) || self.leaves(step, k_rope);
        let cache = match (key, self.kv_cache()) {
            (None, "cache.kv") => {
                self.lines.line("let kv_cache = &mut cache.kv;");
                "kv_cache"
            }
            _ => "cache",
        };
        let method = if is_kept { "prologue_kept" } else { "prologue" };
        let mut arguments = vec!["batch".to_owned()];
        arguments.push(queries.map_or("()".to_owned(), |q| self.name(q).to_owned()));
        let rows = [latent, k_rope].into_iter().chain(key);
        arguments.extend(rows.map(|value| self.name(value).to_owned()));
        let call = Call::fallible(format!("{cache}.{method}"), &words(&arguments));
        let bound = match (queries, is_kept) {
            (None, false) => String::new(),
            (Some(q), false) => format!("let {} = ", self.name(q)),
            (q, true) => format!(
                "let ({}, {}, {}) = ",
                q.map_or("()", |q| self.name(q)),
                self.name(latent),
                self.name(k_rope)
            ),
        };
        self.lines.call(&bound, &call, ";");
    }

    /// An op of the pass, before anything is computed.
    fn said(&mut self, op: &Op) {
        match op {
            Op::Norm { x, slot, part, out } => {
                let callee = format!("{}.of", norm(slot, *part));
                let call = Call::infallible(callee, &[&self.read(*x)]);
                self.bind(*out, &call);
            }
            Op::RotateKey { x, angles, out } => {
                let arguments = [self.read(*x), self.read(*angles)];
                let call = Call::infallible("self.rotary.key_of", &words(&arguments));
                self.bind(*out, &call);
            }
            Op::RotateRows {
                x,
                angles,
                turn,
                out,
            } => {
                let method = match turn.part {
                    Turned::First => "first_of",
                    Turned::Last => "last_of",
                };
                let x = self.name(*x).to_owned();
                self.said_turn((*turn, method), x, *angles, *out);
            }
            Op::RotateHeads {
                x,
                angles,
                turn,
                out,
            } => {
                let method = match turn.part {
                    Turned::First => "heads_first_of",
                    Turned::Last => "heads_of",
                };
                self.said_turn((*turn, method), self.read(*x), *angles, *out);
            }
            Op::SelectCached { q, weights, out } => {
                self.select_cached(self.name(*q), *weights, *out);
            }
            Op::Hadamard { x, out } => {
                let callee = format!("{}.transformed", self.name(*x));
                self.bind(*out, &Call::infallible(callee, &[]));
            }
            Op::WriteLatent { .. } | Op::WriteIndex { .. } => {}
            _ => self.op(op, None),
        }
    }

    /// A rotation of the pass, by a method of its table.
    fn said_turn(
        &mut self,
        (turn, method): (Turn, &str),
        x: String,
        angles: ValueId,
        out: ValueId,
    ) {
        let arguments = [x, self.read(angles)];
        let callee = format!("self.{}.{method}", super::rows::rotary(turn));
        self.bind(out, &Call::infallible(callee, &words(&arguments)));
    }

    /// Whether anybody outside a step reads a value.
    fn leaves(&self, step: &Step, value: ValueId) -> bool {
        let others = self.plan.steps.iter().filter(|other| *other != step);
        let mut ops = others.flat_map(|other| &other.ops);
        ops.any(|op| op.reads().contains(&value))
    }
}
