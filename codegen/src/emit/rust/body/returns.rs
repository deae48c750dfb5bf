//! What functions return, and what training hands from one of them to the next.

use super::{Body, Function};
use crate::plan::{Argument, Gradient, Op, Plan, Training, ValueId};

impl Body<'_> {
    /// The last statement.
    pub(super) fn returns(&mut self) {
        let outputs = &self.plan.outputs;
        match self.function {
            Function::Phase => {
                let names: Vec<&str> = outputs.iter().map(|&id| self.name(id)).collect();
                self.lines.line(&format!("Ok({})", names.join(", ")));
            }
            Function::ForwardTrain(training) => self.returns_kept(training),
            Function::Backward(training) => {
                let fields = self.gradients(training);
                self.structure("Ok(InputGradients {", "})", &fields);
            }
            Function::BackwardInput(training) => {
                let fields = self.gradients(training);
                let deferred: Vec<String> = outputs[training.gradients.len()..]
                    .iter()
                    .map(|&id| self.name(id).to_owned())
                    .collect();
                self.structure("let gradients = InputGradients {", "};", &fields);
                self.structure("let deferred = Deferred {", "};", &deferred);
                self.lines.line("Ok((gradients, deferred))");
            }
            Function::Weights => self.lines.line("Ok(())"),
        }
    }

    /// A struct's literal, on one line where rustfmt would leave it there.
    fn structure(&mut self, open: &str, close: &str, fields: &[String]) {
        let inside = fields.join(", ");
        if fields.is_empty() {
            return self.lines.line(&format!("{open}{close}"));
        }
        if inside.chars().count() <= STRUCT_LIT_WIDTH {
            return self.lines.line(&format!("{open} {inside} {close}"));
        }
        self.lines.block(open, close, |lines| {
            for field in fields {
                lines.line(&format!("{field},"));
            }
        });
    }

    fn gradients(&self, training: &Training) -> Vec<String> {
        let all = training.gradients.iter().zip(&self.plan.outputs);
        all.map(|(gradient, &id)| field_of(gradient_field(*gradient), self.name(id)))
            .collect()
    }

    fn returns_kept(&mut self, training: &Training) {
        let Some((&output, kept)) = self.plan.outputs.split_first() else {
            return;
        };
        let mut fields = Vec::new();
        for (kept, &id) in training.kept.iter().zip(kept) {
            let value = match kept.offloaded {
                true => format!("Offloaded::of({})?", self.name(id)),
                false => self.name(id).to_owned(),
            };
            fields.push(field_of(&kept.name, &value));
        }
        if !training.keeps_tensors() {
            fields.push("backend: std::marker::PhantomData".to_owned());
        }
        if training.keeps_positions {
            fields.push("positions: positions.to_vec()".to_owned());
        }
        if self.plan.arguments.contains(&Argument::Dropout) {
            fields.push("dropout".to_owned());
        }
        if let Some(logits) = max_logit(self.plan) {
            fields.push(format!(
                "max_logits: {}.max_over_rows()?",
                self.name(logits)
            ));
        }
        self.structure("let saved = Saved {", "};", &fields);
        let output = self.name(output).to_owned();
        self.lines.line(&format!("Ok(({output}, saved))"));
    }

    /// Arguments of the forward pass that its backward pass reads from what was kept.
    pub(super) fn kept_arguments(&self) -> Vec<String> {
        let Some(training) = &self.program.training else {
            return Vec::new();
        };
        let positions = training.keeps_positions.then(|| "positions".to_owned());
        let dropout = self.plan.arguments.contains(&Argument::Dropout);
        let dropout = dropout.then(|| "dropout".to_owned());
        positions.into_iter().chain(dropout).collect()
    }

    /// Whether a kept value waits in the host's memory.
    pub(super) fn is_offloaded(&self, id: ValueId) -> bool {
        let training = self.program.training.as_ref();
        let mut kept = training.into_iter().flat_map(|training| &training.kept);
        kept.any(|kept| kept.offloaded && kept.name == self.name(id))
    }
}

/// The largest logits of a plan's attention.
fn max_logit(plan: &Plan) -> Option<ValueId> {
    plan.ops().find_map(|op| match op {
        Op::AttendedParts { max_logit, .. } => Some(*max_logit),
        _ => None,
    })
}

/// The field of `InputGradients` that holds a gradient.
pub(in crate::emit) fn gradient_field(gradient: Gradient) -> &'static str {
    match gradient {
        Gradient::Hidden => "hidden",
        Gradient::Context => "context",
        Gradient::Latent => "latent",
        Gradient::RopeKey => "k_rope",
        Gradient::Bias => "bias",
        Gradient::IndexerLoss => "indexer_loss",
    }
}

fn field_of(field: &str, value: &str) -> String {
    if field == value {
        field.to_owned()
    } else {
        format!("{field}: {value}")
    }
}

/// Widest struct literal that stays on one line (rustfmt's `struct_lit_width`), fields and spaces.
pub(super) const STRUCT_LIT_WIDTH: usize = 18;
