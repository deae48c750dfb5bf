//! A batch in two forms.

use mla_spec::Form;

use super::Body;
use crate::emit::rust::layout::Call;
use crate::plan::{Op, Step, ValueId};

impl Body<'_> {
    /// Attention of the requests in a form: a closure that runs where there are some. The formula of its first step stands above it.
    pub(super) fn part(&mut self, form: Form, steps: &[Step]) {
        let Some((first, out)) = steps.first().zip(last_made(steps)) else {
            return;
        };
        if self.style.formulas {
            self.lines.line("");
            self.formula(first);
        }
        let method = match form {
            Form::Mha => "expanded",
            Form::Mqa => "absorbed",
        };
        let open = format!("let {} = forms.{method}(|requests| {{", self.name(out));
        self.part = Some(form);
        self.lines.opened(&open);
        self.step(first, None);
        self.steps(&steps[1..], None, &mut false);
        self.lines.closed("})?;");
        self.part = None;
    }

    /// Whether a value is what a part gives: the last expression of its closure.
    pub(super) fn is_given(&self, id: ValueId) -> bool {
        self.part.is_some()
            && self.ops().any(|op| {
                matches!(op, Op::Join { expanded, absorbed, .. } if [*expanded, *absorbed].contains(&id))
            })
    }

    /// What a part gives: the last expression of its closure.
    pub(super) fn given(&mut self, call: &Call) {
        let call = Call {
            tail: "",
            ..call.clone()
        };
        self.lines.call("", &call, "");
    }

    pub(super) fn mixed(&mut self, op: &Op) {
        match op {
            Op::Forms { out } => {
                self.bind(*out, &Call::fallible("batch.forms", &["&MHA_FROM"]));
            }
            Op::Pick { x, out } => self.pick(*x, *out),
            Op::Join {
                forms,
                expanded,
                absorbed,
                out,
            } => {
                let callee = format!("{}.join", self.name(*forms));
                let parts = [self.name(*expanded), self.name(*absorbed)];
                // Both parts are what this is
                self.bind_typed(*out, &Call::fallible(callee, &parts));
            }
            _ => {}
        }
    }

    fn pick(&mut self, x: ValueId, out: ValueId) {
        let call = Call::fallible("requests.heads", &[self.name(x)]);
        self.bind(out, &call);
    }
}

/// What the last op of some steps defines.
fn last_made(steps: &[Step]) -> Option<ValueId> {
    let last = steps.last()?.ops.last()?;
    last.defines().first().copied()
}
