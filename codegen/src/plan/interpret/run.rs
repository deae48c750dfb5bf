//! Executing one plan.

use std::collections::BTreeMap;

use mla_spec::Form;

use super::array::Array;
use super::attend::Attended;
use super::call::{Call, Queries, SharedKv};
use super::params::Params;
use super::train::Reverse;
use super::{Error, Given, Run};
use crate::plan::{Aspect, Numeral, Op, Plan, Program, Ty, ValueId};

#[derive(Debug, Clone)]
pub(super) enum Value {
    Array(Array),
    /// cos and sin, `[tokens, 1, d_r / 2]` each.
    Angles(Array, Array),
    /// Who sees whom, and in which form, follows from the call.
    Segments,
    Attended(Attended),
    /// Latents and rotated keys.
    SharedKv(Array, Array),
    /// For each row, indices of keys in its sequence, ascending; with how many it may hold.
    Selection(Vec<Vec<usize>>, usize),
}

/// Runs `plan` on `call`.
pub(super) fn execute(
    program: &Program,
    params: &Params,
    plan: &Plan,
    call: Call<'_>,
) -> Result<Run, Error> {
    let mut machine = Machine::new(program, params, plan, call);
    machine.run()?;
    machine.finish()
}

/// A plan being run. What each group of ops does stands in `pointwise`, `attention` and `indexing`.
pub(super) struct Machine<'a> {
    pub(super) program: &'a Program,
    pub(super) params: &'a Params,
    pub(super) plan: &'a Plan,
    pub(super) call: Call<'a>,
    /// What only a backward pass has.
    pub(super) reverse: Option<Reverse<'a>>,
    values: BTreeMap<ValueId, Value>,
    probes: BTreeMap<&'static str, Vec<f64>>,
    pub(super) scores: Vec<Vec<f64>>,
    given: Given,
}

impl<'a> Machine<'a> {
    /// A machine that has run nothing yet.
    pub(super) fn new(
        program: &'a Program,
        params: &'a Params,
        plan: &'a Plan,
        call: Call<'a>,
    ) -> Self {
        Self {
            program,
            params,
            plan,
            call,
            reverse: None,
            values: BTreeMap::new(),
            probes: BTreeMap::new(),
            scores: Vec::new(),
            given: Given::default(),
        }
    }

    /// Runs all ops.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        self.call.check()?;
        let plan = self.plan;
        for step in &plan.steps {
            let everybody = self.call.queries.clone();
            if let Some(form) = step.part {
                self.call.queries = self.in_form(form);
            }
            for op in &step.ops {
                let (found, outs) = (self.step(op)?, op.defines());
                if found.len() != outs.len() {
                    return Err(Error::BadPlan(
                        "an op that defines another number of values",
                    ));
                }
                self.values.extend(outs.into_iter().zip(found));
            }
            self.call.queries = everybody;
        }
        Ok(())
    }

    /// The form that a sequence's request is attended to in, where each has its own.
    fn form_of(&self, sequence: usize) -> Option<Form> {
        let (new, cached) = (
            self.call.sequences[sequence].len(),
            self.call.cached[sequence],
        );
        let table = self.program.mha_from.as_ref()?;
        Some(table.form(new as u64, cached as u64))
    }

    /// The queries of the requests in a form; other rows are nobody's.
    fn in_form(&self, form: Form) -> Queries {
        let all = self.call.queries.0.iter();
        let own = all.map(|query| query.filter(|query| self.form_of(query.sequence) == Some(form)));
        Queries(own.collect())
    }

    /// Each row of the part that its request is in.
    fn joined(&self, expanded: ValueId, absorbed: ValueId) -> Result<Array, Error> {
        let (expanded, absorbed) = (self.array(expanded)?, self.array(absorbed)?);
        let rows = self.call.queries.0.iter().enumerate();
        let rows: Vec<&[f64]> = rows
            .map(
                |(row, query)| match query.map(|query| self.form_of(query.sequence)) {
                    Some(Some(Form::Mqa)) => absorbed.row(row),
                    _ => expanded.row(row),
                },
            )
            .collect();
        Ok(Array::stack(&rows, expanded.heads, expanded.dim))
    }

    /// What a forward function gives.
    pub(super) fn finish(self) -> Result<Run, Error> {
        let output = match self.plan.outputs.first() {
            Some(output) => self.array(*output)?.data.clone(),
            None => Vec::new(),
        };
        Ok(Run {
            output,
            probes: self.probes,
            scores: self.scores,
            given: self.given,
        })
    }

    /// The values that `op` defines.
    fn step(&mut self, op: &Op) -> Result<Vec<Value>, Error> {
        let value = match op {
            Op::Adjoint(adjoint) => return self.adjoint(adjoint),
            Op::AttendedParts { x, .. } => {
                let Attended {
                    out,
                    lse,
                    max_logit,
                } = self.attended(*x)?.clone();
                return Ok([out, lse, max_logit].map(Value::Array).into());
            }
            Op::Copy { x, .. } => self.value(*x)?.clone(),
            Op::CheckBatch => return Ok(Vec::new()),
            Op::MaskSegments { .. } | Op::BatchSegments { .. } | Op::Forms { .. } => {
                Value::Segments
            }
            // Its rows are known by their queries
            Op::Pick { x, .. } => self.value(*x)?.clone(),
            Op::Join {
                expanded, absorbed, ..
            } => Value::Array(self.joined(*expanded, *absorbed)?),
            Op::WriteLatent {
                latent: a,
                k_rope: b,
            }
            | Op::WriteNaive { kv: a, k_rope: b }
            | Op::WriteGroups { k: a, v: b } => {
                self.write(*a, *b)?;
                return Ok(Vec::new());
            }
            Op::WriteIndex { k, gates } => {
                let keys = self.index_entries(*k, *gates)?;
                self.call.cache.write_index(self.call.pieces, &keys);
                return Ok(Vec::new());
            }
            Op::GiveKv { latent, k_rope } => {
                self.given.shared_kv = Some(SharedKv {
                    latent: self.array(*latent)?.data.clone(),
                    k_rope: self.array(*k_rope)?.data.clone(),
                });
                return Ok(Vec::new());
            }
            Op::GiveSelection { x, .. } => {
                let (lists, width) = self.selection(*x)?;
                let (lists, width) = (lists.to_vec(), width);
                self.given.selection = Some(lists.clone());
                Value::Selection(lists, width)
            }
            Op::Probe {
                name,
                value,
                aspect,
            } => {
                if let Some(recorded) = self.recorded(*value, *aspect)? {
                    self.probes.insert(name, recorded);
                }
                return Ok(Vec::new());
            }
            Op::Select { .. } | Op::SelectCached { .. } | Op::TakeSelection { .. } => {
                self.indexing(op)?
            }
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::AttendContext { .. }
            | Op::AttendLatentCache { .. }
            | Op::AttendNaiveCache { .. }
            | Op::AttendGroupCache { .. }
            | Op::FlashDecode { .. }
            | Op::Sink { .. } => {
                let attended = self.attention(op)?;
                match self.is_rounded(op) {
                    true => Value::Array(attended.out),
                    false => Value::Attended(attended),
                }
            }
            _ => self.pointwise(op)?,
        };
        Ok(vec![value])
    }

    /// Whether an attention gives its output alone.
    fn is_rounded(&self, op: &Op) -> bool {
        let mut given = op.defines().into_iter();
        given.any(|out| matches!(self.plan.values[out.0].ty, Ty::Heads(..)))
    }

    /// What a probe reports; nothing where what picks has reported its scores itself. A selection is `[rows, width]`, -1 behind the last key.
    fn recorded(&self, value: ValueId, aspect: Aspect) -> Result<Option<Vec<f64>>, Error> {
        let values = match (self.values.get(&value), aspect) {
            (Some(Value::Selection(lists, width)), Aspect::Value) => {
                let padded = |list: &Vec<usize>| {
                    let indices = list.iter().map(|&index| index as f64);
                    let rest = std::iter::repeat_n(-1.0, width.saturating_sub(list.len()));
                    indices.chain(rest).collect::<Vec<_>>()
                };
                lists.iter().flat_map(padded).collect()
            }
            (_, Aspect::Value) => self.array(value)?.data.clone(),
            (_, Aspect::Lse) => self.attended(value)?.lse.data.clone(),
            (_, Aspect::MaxLogit) => self.attended(value)?.max_logit.data.clone(),
            (_, Aspect::Scores) => return Ok(None),
        };
        Ok(Some(values))
    }

    /// Any value.
    pub(super) fn value(&self, id: ValueId) -> Result<&Value, Error> {
        let missing = Error::BadPlan("a value that was not made or is gone");
        self.values.get(&id).ok_or(missing)
    }

    /// Forgets a value.
    pub(super) fn forget(&mut self, id: ValueId) -> Result<(), Error> {
        let gone = self.values.remove(&id);
        let missing = Error::BadPlan("a value is dropped that is not there");
        gone.map(drop).ok_or(missing)
    }

    pub(super) fn array(&self, id: ValueId) -> Result<&Array, Error> {
        match self.values.get(&id) {
            Some(Value::Array(array)) => Ok(array),
            _ => Err(Error::BadPlan("an array was wanted")),
        }
    }

    pub(super) fn angles(&self, id: ValueId) -> Result<(&Array, &Array), Error> {
        match self.values.get(&id) {
            Some(Value::Angles(cos, sin)) => Ok((cos, sin)),
            _ => Err(Error::BadPlan("angles were wanted")),
        }
    }

    pub(super) fn attended(&self, id: ValueId) -> Result<&Attended, Error> {
        match self.values.get(&id) {
            Some(Value::Attended(attended)) => Ok(attended),
            _ => Err(Error::BadPlan("the result of an attention was wanted")),
        }
    }

    pub(super) fn shared_kv(&self, id: ValueId) -> Result<(&Array, &Array), Error> {
        match self.values.get(&id) {
            Some(Value::SharedKv(latent, k_rope)) => Ok((latent, k_rope)),
            _ => Err(Error::BadPlan("another layer's latents were wanted")),
        }
    }

    pub(super) fn selection(&self, id: ValueId) -> Result<(&[Vec<usize>], usize), Error> {
        match self.values.get(&id) {
            Some(Value::Selection(lists, width)) => Ok((lists, *width)),
            _ => Err(Error::BadPlan("a selection was wanted")),
        }
    }

    pub(super) fn size(&self, name: &str) -> Result<usize, Error> {
        let constant = self
            .program
            .constants
            .iter()
            .find(|constant| constant.name == name);
        constant
            .map(|constant| constant.value as usize)
            .ok_or(Error::BadPlan("a size without a constant"))
    }

    pub(super) fn number(&self, name: &str) -> Result<f64, Error> {
        let number = self
            .program
            .numbers
            .iter()
            .find(|number| number.name == name);
        number
            .map(|number| match number.value {
                Numeral::Real(value) => value,
                Numeral::Position(value) => f64::from(value),
            })
            .ok_or(Error::BadPlan("a number without a constant"))
    }

    /// Appends the call's tokens, or a context's, to the cache.
    fn write(&mut self, first: ValueId, second: ValueId) -> Result<(), Error> {
        let (first, second) = (self.array(first)?.clone(), self.array(second)?.clone());
        let pieces = match self.call.extras.context {
            Some(_) => self.context_pieces()?,
            None => self.call.pieces.to_vec(),
        };
        self.call.cache.write(&pieces, &first, &second);
        Ok(())
    }
}
