//! Attention, and what surrounds it.

use super::{Body, linear, up_projection, words};
use crate::emit::rust::layout::{Call, Lines};
use crate::plan::{Op, ValueId};

impl Body<'_> {
    pub(super) fn attention(&mut self, op: &Op) {
        match op {
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                selection,
                out,
            } => {
                let read = [*q, *kv, *k_rope, *segments];
                let call = self.over_rows("attention::expanded", &read, *selection);
                self.bind_or_give(*out, &call);
            }
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                selection,
                out,
            } => {
                let read = [*q_latent, *q_rope, *latent, *k_rope, *segments];
                let call = self.over_rows("attention::absorbed", &read, *selection);
                self.bind_or_give(*out, &call);
            }
            Op::AttendGroups {
                q,
                k,
                v,
                segments,
                out,
            } => {
                let call = self.over_rows("attention::grouped", &[*q, *k, *v, *segments], None);
                self.bind_or_give(*out, &call);
            }
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection,
                out,
            } => {
                let call = self.over_cache(&[*q_latent, *q_rope], *selection);
                self.bind_or_give(*out, &call);
            }
            Op::AttendNaiveCache { q, selection, out } => {
                let call = self.over_cache(&[*q], *selection);
                self.bind_or_give(*out, &call);
            }
            Op::AttendGroupCache { q, out } => self.group_cache(*q, *out),
            Op::FlashDecode { q, k, v, out } => self.flash_decode([*q, *k, *v], *out),
            _ => {}
        }
    }

    /// Attention over rows: all that are visible, or the selected ones.
    fn over_rows(&self, function: &str, read: &[ValueId], selection: Option<ValueId>) -> Call {
        let mut arguments: Vec<String> = read.iter().map(|&id| self.read(id)).collect();
        arguments.extend(selection.map(|id| self.read(id)));
        arguments.push(self.softmax().to_owned());
        let function = format!("{function}{}", selected(selection));
        Call::fallible(function, &words(&arguments))
    }

    /// Attention over a cache: all that are visible, or the selected ones.
    fn over_cache(&self, read: &[ValueId], selection: Option<ValueId>) -> Call {
        let mut arguments = vec![self.attended_batch().to_owned()];
        arguments.extend(read.iter().map(|&id| self.read(id)));
        arguments.extend(selection.map(|id| self.read(id)));
        arguments.extend([self.visibility().to_owned(), self.softmax().to_owned()]);
        let callee = format!("{}.attend{}", self.kv_cache(), selected(selection));
        Call::fallible(callee, &words(&arguments))
    }

    fn group_cache(&mut self, q: ValueId, out: ValueId) {
        let q_read = self.read(q);
        let call = if self.is_cross() {
            Call::fallible("cache.attend_context", &["batch", &q_read, self.softmax()])
        } else {
            self.over_cache(&[q], None)
        };
        self.bind_or_give(out, &call);
    }

    /// Binds a value with its type, which says what attention is to give; where it is what a part gives, there is no name to bind.
    fn bind_or_give(&mut self, out: ValueId, call: &Call) {
        if self.is_given(out) {
            self.given(call);
        } else {
            self.bind_typed(out, call);
        }
    }

    /// The batch whose requests are attended to.
    fn attended_batch(&self) -> &'static str {
        match self.part {
            None => "batch",
            Some(_) => "requests.batch()",
        }
    }

    fn is_cross(&self) -> bool {
        self.program.family == crate::plan::Family::Cross
    }

    fn flash_decode(&mut self, [q, k, v]: [ValueId; 3], out: ValueId) {
        let arguments = [
            "batch".to_owned(),
            self.name(q).to_owned(),
            self.name(k).to_owned(),
            self.read(v),
            "&self.rotary".to_owned(),
            self.visibility().to_owned(),
            self.softmax().to_owned(),
        ];
        let call = Call::fallible("cache.flash_decode", &words(&arguments));
        self.bind_or_give(out, &call);
    }

    /// What stands before and behind attention.
    pub(super) fn around_attention(&mut self, op: &Op) {
        match op {
            Op::WriteLatent { latent: x, k_rope } | Op::WriteNaive { kv: x, k_rope } => {
                let arguments = ["batch".to_owned(), self.read(*x), self.read(*k_rope)];
                let callee = format!("{}.write", self.kv_cache());
                self.lines
                    .call("", &Call::fallible(callee, &words(&arguments)), ";");
            }
            Op::WriteGroups { k, v } => {
                let method = if self.is_cross() {
                    "cache.write_context"
                } else {
                    "cache.write_heads"
                };
                let read = [self.read(*k), self.read(*v)];
                let call = Call::fallible(method, &["batch", &read[0], &read[1]]);
                self.lines.call("", &call, ";");
            }
            Op::AbsorbQueries {
                q_nope,
                slot,
                part,
                out,
            } => {
                let arguments = [up_projection(slot, *part), self.read(*q_nope)];
                self.bind(*out, &Call::fallible("absorb::queries", &words(&arguments)));
            }
            Op::AbsorbValues { z, slot, part, out } => {
                let arguments = [up_projection(slot, *part), self.read(*z)];
                self.bind_or_give(*out, &Call::fallible("absorb::values", &words(&arguments)));
            }
            Op::Sink { x, slot, out } => {
                let x = self.name(*x);
                let call = match slot {
                    Some(slot) => {
                        let sinks = format!("&self.{slot}");
                        Call::fallible(format!("{x}.with_sinks"), &[&sinks])
                    }
                    None => Call::fallible(format!("{x}.off_by_one"), &[]),
                };
                self.bind(*out, &call);
            }
            _ => {}
        }
    }

    /// Attention over chunks of tokens, which are expanded as they come.
    pub(super) fn attend_context(&mut self, op: &Op) {
        let Op::AttendContext {
            q,
            latent,
            k_rope,
            slot,
            part,
            heads,
            dim,
            chunk,
            out,
        } = op
        else {
            return;
        };
        let chunks = [
            self.attended_batch().to_owned(),
            self.read(*latent),
            self.read(*k_rope),
            chunk.name.to_owned(),
            self.visibility().to_owned(),
        ];
        let chunks = Call::infallible(format!("{}.context", self.kv_cache()), &words(&chunks));
        let attend = format!(
            "attention::over_context({}, context, {}, |latent| {{",
            self.read(*q),
            self.softmax()
        );
        let expand = Call::fallible(format!("{}.forward", linear(slot, *part)), &["latent"]);
        let into_heads = format!("Ok(kv.into_heads::<{}, {}>())", heads.name, dim.name);
        let inside = |lines: &mut Lines| {
            lines.call("let kv = ", &expand, ";");
            lines.line(&into_heads);
        };
        self.lines.call("let context = ", &chunks, ";");
        if self.is_given(*out) {
            return self.lines.block(&attend, "})", inside);
        }
        let bound = format!("let {}: {} =", self.name(*out), self.type_of(*out));
        self.lines
            .beneath(&bound, |lines| lines.block(&attend, "})?;", inside));
    }
}

/// The ending of functions that attend to a selection.
fn selected(selection: Option<ValueId>) -> &'static str {
    match selection {
        Some(_) => "_selected",
        None => "",
    }
}
