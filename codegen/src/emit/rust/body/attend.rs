//! Attention, and what surrounds it.

use super::{Body, linear, up_projection, words};
use crate::emit::rust::layout::Call;
use crate::plan::{Op, Ty, ValueId};

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
                self.bind_typed(*out, &call);
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
                self.bind(*out, &call);
            }
            Op::AttendGroups {
                q,
                k,
                v,
                segments,
                out,
            } => {
                let call = self.over_rows("attention::grouped", &[*q, *k, *v, *segments], None);
                self.bind(*out, &call);
            }
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection,
                out,
            } => {
                let call = self.over_cache(&[*q_latent, *q_rope], *selection);
                self.bind(*out, &call);
            }
            Op::AttendNaiveCache { q, selection, out } => {
                let call = self.over_cache(&[*q], *selection);
                self.bind(*out, &call);
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
        self.bind(out, &call);
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
        self.bind(out, &call);
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
            Op::MergeContext { .. } => self.merge_context(op),
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
                let up = up_projection(slot, *part);
                if self.is_given(*out) {
                    return self.given_values(*z, &up);
                }
                let z = self.name(*z);
                self.bind_typed(*out, &Call::fallible("absorb::values", &[&up, z]));
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
            Op::AttendExpanded { kv, out, .. } if out == into => Some(self.ty(*kv)),
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
            q.as_str(),
            "&kv",
            "&context.k_rope",
            "&context.segments",
            self.softmax(),
        ];
        let attend = Call::fallible("attention::expanded", &attend);
        let open = format!(
            "for context in {}.context({}, {}, {}) {{",
            self.kv_cache(),
            self.attended_batch(),
            chunk.name,
            self.visibility()
        );
        self.lines.block(&open, "}", |lines| {
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
        });
    }
}

/// The ending of functions that attend to a selection.
fn selected(selection: Option<ValueId>) -> &'static str {
    match selection {
        Some(_) => "_selected",
        None => "",
    }
}
