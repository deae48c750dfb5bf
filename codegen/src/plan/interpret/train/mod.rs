//! Training: `forward_train` and the backward functions, run op by op like everything else.
//!
//! Each adjoint is written from its mathematics alone, so that it agrees with what generated code calls only where both are right.

mod adjoint;
mod attention;
mod loss;
mod modules;
mod parameters;

use std::collections::BTreeMap;
use std::ops::Range;

use super::cache::Cache;
use super::call::{Call, Extras, Queries, SharedKv};
use super::params::Params;
use super::run::{Machine, Value};
use super::{Error, Oracle, Run, Weights};
use crate::plan::{Gradient, Op, Plan, Training, ValueId};
use mla_spec::Phase;

/// What both passes of a training step are lent.
#[derive(Debug, Clone, Copy)]
pub struct Lent<'a> {
    /// `[tokens, h]`.
    pub hidden: &'a [f64],
    /// One per token.
    pub positions: &'a [u32],
    /// The rows of each sequence; rows in none of them are padding.
    pub sequences: &'a [Range<usize>],
    /// What the layer takes besides.
    pub extras: Extras<'a>,
}

/// What `forward_train` gives.
#[derive(Debug)]
pub struct Forwarded {
    /// The output and what the layer hands to others.
    pub run: Run,
    /// What is kept for the backward pass.
    pub saved: Saved,
    /// The largest logit of each head; -∞ where nothing is seen.
    pub max_logits: Vec<f64>,
}

/// What one function of a training step keeps for the next, by name.
#[derive(Debug)]
pub struct Saved(BTreeMap<String, Value>);

/// What comes back to a layer.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The gradient of the layer's output, `[tokens, h]`.
    pub output: &'a [f64],
    /// The gradients of the latents and rotated keys that the layer handed out; wanted where it hands any out.
    pub shared_kv: Option<&'a SharedKv>,
    /// What the gradients of an indexer's loss are multiplied by, its own coefficient apart.
    pub loss_scale: f64,
}

/// What a backward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// Of what the layer was given, shaped like it; of [`Gradient::IndexerLoss`] the loss, its coefficient counted and
    /// [`Incoming::loss_scale`] not.
    pub inputs: BTreeMap<Gradient, Vec<f64>>,
    /// Of every parameter, by the names of the checkpoint's tensors; zeros where nothing is trained.
    pub parameters: Weights,
}

/// What a backward pass has besides a call: what comes back, what was kept, and the gradients that it adds to.
pub(super) struct Reverse<'a> {
    incoming: Incoming<'a>,
    kept: &'a BTreeMap<String, Value>,
    gradients: &'a mut Params,
}

impl Oracle<'_> {
    /// `forward_train`.
    ///
    /// # Errors
    /// The program is not trained, a length is wrong, or an extra is missing.
    pub fn forward_train(&self, lent: Lent<'_>) -> Result<Forwarded, Error> {
        let training = self.training()?;
        let plan = &training.forward;
        let mut nothing = Cache::default();
        let call = call(lent, &mut nothing)?;
        let mut machine = Machine::new(self.program, &self.params, plan, call);
        machine.run()?;
        let max_logits = max_logits(&machine, plan)?;
        let behind = plan.outputs.get(1..).unwrap_or_default();
        if behind.len() != training.kept.len() {
            return Err(Error::BadPlan("a forward plan that keeps something else"));
        }
        let names = training.kept.iter().map(|kept| kept.name.clone());
        let values = behind.iter().map(|&id| machine.value(id).cloned());
        let kept = names
            .zip(values)
            .map(|(name, value)| Ok((name, value?)))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        if kept.len() != training.kept.len() {
            return Err(Error::BadPlan("two kept values of one name"));
        }
        Ok(Forwarded {
            run: machine.finish()?,
            saved: Saved(kept),
            max_logits,
        })
    }

    /// `backward`. `lent` is what [`Oracle::forward_train`] was lent.
    ///
    /// # Errors
    /// As [`Oracle::forward_train`]; or gradients that should come back do not.
    pub fn backward(
        &self,
        saved: &Saved,
        lent: Lent<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Gradients, Error> {
        let training = self.training()?;
        let mut parameters = self.params.zeroed();
        let plan = &training.backward;
        let values = self.reversed(plan, lent, incoming, &saved.0, &mut parameters)?;
        Ok(Gradients {
            inputs: inputs(training, &values)?,
            parameters: parameters.unload(self.program),
        })
    }

    /// `backward_input`, and then each part of `backward_dw`.
    ///
    /// # Errors
    /// As [`Oracle::backward`].
    pub fn backward_split(
        &self,
        saved: &Saved,
        lent: Lent<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Gradients, Error> {
        let training = self.training()?;
        let mut parameters = self.params.zeroed();
        let plan = &training.backward_input;
        let values = self.reversed(plan, lent, incoming, &saved.0, &mut parameters)?;
        let first = training.gradients.len();
        let names = plan
            .outputs
            .iter()
            .map(|id| plan.values[id.0].name.to_string());
        let deferred: BTreeMap<String, Value> =
            names.zip(values.iter().cloned()).skip(first).collect();
        if deferred.len() + first != plan.outputs.len() {
            return Err(Error::BadPlan("two deferred values of one name"));
        }
        for part in &training.weights {
            self.reversed(&part.plan, lent, incoming, &deferred, &mut parameters)?;
        }
        Ok(Gradients {
            inputs: inputs(training, &values)?,
            parameters: parameters.unload(self.program),
        })
    }

    fn training(&self) -> Result<&Training, Error> {
        let training = self.program.training.as_ref();
        training.ok_or(Error::NoSuchPhase(Phase::Train))
    }

    /// Runs a plan of a backward pass; what it returns.
    fn reversed(
        &self,
        plan: &Plan,
        lent: Lent<'_>,
        incoming: Incoming<'_>,
        kept: &BTreeMap<String, Value>,
        gradients: &mut Params,
    ) -> Result<Vec<Value>, Error> {
        let mut nothing = Cache::default();
        let call = call(lent, &mut nothing)?;
        let mut machine = Machine::new(self.program, &self.params, plan, call);
        machine.reverse = Some(Reverse {
            incoming,
            kept,
            gradients,
        });
        machine.run()?;
        let outputs = plan.outputs.iter();
        outputs.map(|&id| machine.value(id).cloned()).collect()
    }
}

fn call<'a>(lent: Lent<'a>, cache: &'a mut Cache) -> Result<Call<'a>, Error> {
    Ok(Call {
        hidden: lent.hidden,
        positions: lent.positions.to_vec(),
        queries: Queries::of(lent.sequences, lent.positions.len())?,
        sequences: lent.sequences.to_vec(),
        pieces: &[],
        cached: Vec::new(),
        cache,
        extras: lent.extras,
    })
}

/// The largest logit of each head over all rows.
fn max_logits(machine: &Machine<'_>, plan: &Plan) -> Result<Vec<f64>, Error> {
    let id = plan.ops().find_map(|op| match op {
        Op::AttendedParts { max_logit, .. } => Some(*max_logit),
        _ => None,
    });
    let id: ValueId = id.ok_or(Error::BadPlan("a training step without attention"))?;
    let of_rows = machine.array(id)?;
    let largest = |head: usize| {
        let logits = (0..of_rows.rows).map(|row| of_rows.row(row)[head]);
        logits.fold(f64::NEG_INFINITY, f64::max)
    };
    Ok((0..of_rows.row_width()).map(largest).collect())
}

/// The gradients of a layer's inputs, the first values that a backward function returns.
fn inputs(training: &Training, values: &[Value]) -> Result<BTreeMap<Gradient, Vec<f64>>, Error> {
    let numbers = |(gradient, value): (&Gradient, &Value)| match value {
        Value::Array(array) => Ok((*gradient, array.data.clone())),
        _ => Err(Error::BadPlan("a gradient that is no array")),
    };
    training.gradients.iter().zip(values).map(numbers).collect()
}
