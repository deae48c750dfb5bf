//! What is read off the arguments, and what is handed out through them.

use super::super::{training, visible};
use super::{Body, words};
use crate::emit::rust::layout::Call;
use crate::plan::{Argument, Aspect, Family, Handed, Op, Ty, ValueId};

impl Body<'_> {
    /// What stands between logits and probabilities, where that is more than a scale.
    pub(super) fn softmax_binding(&mut self) {
        let idle = !self.function.is_forward() && !training::has_softmax(self.plan);
        if !self.has_softmax() || idle {
            return;
        }
        let softmax = self.program.softmax;
        let cap = softmax.soft_cap.map(|_| ".soft_cap(SOFT_CAP)");
        let bias = softmax.bias.then_some(".bias(bias)");
        let dropout = self
            .plan
            .arguments
            .contains(&Argument::Dropout)
            .then_some(".dropout(dropout)");
        let links: Vec<&str> = [cap, bias, dropout].into_iter().flatten().collect();
        self.lines
            .chain("let softmax = ", "Softmax::scaled(SOFTMAX_SCALE)", &links);
    }

    fn has_softmax(&self) -> bool {
        let softmax = self.program.softmax;
        let dropout = self.plan.arguments.contains(&Argument::Dropout);
        softmax.soft_cap.is_some() || softmax.bias || dropout
    }

    /// The softmax as an argument.
    pub(super) fn softmax(&self) -> &'static str {
        if self.has_softmax() {
            "softmax"
        } else {
            "SOFTMAX_SCALE"
        }
    }

    /// What queries see, as an argument.
    pub(super) fn visibility(&self) -> &'static str {
        visible::argument(self.program.mask)
    }

    pub(super) fn input(&mut self, op: &Op) {
        match op {
            Op::CheckBatch => self.check(),
            Op::MaskSegments { context, out } => self.mask_segments(*context, *out),
            Op::BatchSegments { out } => {
                let call = Call::fallible("batch.segments", &[self.visibility()]);
                self.bind(*out, &call);
            }
            Op::Angles { out } => {
                let call = Call::fallible("self.rotary.angles", &[self.positions()]);
                self.bind(*out, &call);
            }
            Op::TakeKv { from, out } => self.take_kv(*from, *out),
            Op::GiveKv { latent, k_rope } => {
                let read = [self.read(*latent), self.read(*k_rope)];
                let call = Call::fallible("shared_kv.set", &words(&read));
                self.lines.call("", &call, ";");
            }
            Op::TakeSelection { out } => self.take_selection(*out),
            Op::GiveSelection { x, out } => {
                let call = Call::infallible("topk.set", &[self.name(*x)]);
                self.lines.call("", &call, ";");
                self.take_selection(*out);
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let (cache, check) = match (self.program.family, &self.program.cache) {
            (Family::Cross, _) => ("cache", "check_context"),
            (_, Some(_)) => ("cache", "check"),
            (_, None) => ("source", "check"),
        };
        let call = Call::fallible(format!("{cache}.{check}"), &["batch", "hidden.rows()"]);
        self.lines.call("", &call, ";");
    }

    fn mask_segments(&mut self, context: Option<ValueId>, out: ValueId) {
        let padding = if self.program.mask.allows_padding() {
            "Padding::Allowed"
        } else {
            "Padding::Refused"
        };
        let visibility = self.visibility();
        let call = match context {
            None => Call::fallible("mask.segments", &["hidden.rows()", visibility, padding]),
            Some(context) => {
                let rows = format!("{}.rows()", self.name(context));
                let arguments = ["hidden.rows()", "context_mask", &rows, visibility, padding];
                Call::fallible("mask.across", &arguments)
            }
        };
        self.bind(out, &call);
    }

    fn take_selection(&mut self, out: ValueId) {
        self.bind(out, &Call::fallible("topk.get", &["hidden.rows()"]));
    }

    /// Both parts of another layer's latents, those that are read by name.
    fn take_kv(&mut self, from: Handed, out: ValueId) {
        let latent = self.ops().find_map(|op| match op {
            Op::TakenLatent { x, out: latent } if *x == out => Some(self.name(*latent)),
            _ => None,
        });
        let key = self.ops().find_map(|op| match op {
            Op::TakenKey { x, out: key } if *x == out => Some(self.name(*key)),
            _ => None,
        });
        let call = match from {
            Handed::Over => Call::fallible("shared_kv.get", &["hidden.rows()"]),
            Handed::Cached => Call::fallible("source.latents", &["batch"]),
        };
        let pair = format!("({}, {})", latent.unwrap_or("_"), key.unwrap_or("_"));
        self.lines.call(&format!("let {pair} = "), &call, ";");
    }

    /// Whether shared latents come as references, from the layer that made them, rather than out of a cache.
    pub(super) fn is_handed_over(&self, taken: ValueId) -> bool {
        self.ops()
            .any(|op| matches!(op, Op::TakeKv { from: Handed::Over, out } if *out == taken))
    }

    pub(super) fn probe(&mut self, name: &str, value: ValueId, aspect: Aspect) {
        let aspect = match (aspect, self.ty(value)) {
            (Aspect::Lse, _) => format!("{}.lse()", self.name(value)),
            (Aspect::MaxLogit, _) => format!("{}.max_logit()", self.name(value)),
            (Aspect::Value, Ty::Columns(_) | Ty::HeadPart(..)) => format!("&{}", self.name(value)),
            (Aspect::Value, _) => self.read(value),
            (Aspect::Scores, _) => {
                self.scores_probe(name, value);
                return;
            }
        };
        let call = Call::fallible("probe::record", &["probe", &format!("\"{name}\""), &aspect]);
        self.lines.call("", &call, ";");
    }
}
