//! Executing one plan.

use std::collections::BTreeMap;

use super::array::Array;
use super::attend::Attended;
use super::call::{Call, SharedKv};
use super::params::Params;
use super::{Error, Given, Run};
use crate::plan::{Aspect, Numeral, Op, Plan, Program, ValueId};

#[derive(Debug, Clone)]
pub(super) enum Value {
    Array(Array),
    /// cos and sin, `[tokens, 1, d_r / 2]` each.
    Angles(Array, Array),
    /// Who sees whom follows from the call.
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
    call.check()?;
    let mut machine = Machine {
        program,
        params,
        plan,
        call,
        values: BTreeMap::new(),
        probes: BTreeMap::new(),
        scores: Vec::new(),
        given: Given::default(),
    };
    for op in plan.ops() {
        if let (Some(value), [out]) = (machine.step(op)?, op.defines().as_slice()) {
            machine.values.insert(*out, value);
        }
    }
    let output = match plan.outputs.first() {
        Some(output) => machine.array(*output)?.data.clone(),
        None => Vec::new(),
    };
    Ok(Run {
        output,
        probes: machine.probes,
        scores: machine.scores,
        given: machine.given,
    })
}

/// A plan being run. What each group of ops does stands in `pointwise`, `attention` and `indexing`.
pub(super) struct Machine<'a> {
    pub(super) program: &'a Program,
    pub(super) params: &'a Params,
    pub(super) plan: &'a Plan,
    pub(super) call: Call<'a>,
    values: BTreeMap<ValueId, Value>,
    probes: BTreeMap<&'static str, Vec<f64>>,
    pub(super) scores: Vec<Vec<f64>>,
    given: Given,
}

impl Machine<'_> {
    /// The value that `op` defines, if it defines one.
    fn step(&mut self, op: &Op) -> Result<Option<Value>, Error> {
        let value = match op {
            Op::CheckBatch => return Ok(None),
            Op::MaskSegments { .. } | Op::BatchSegments { .. } => Value::Segments,
            Op::WriteLatent {
                latent: a,
                k_rope: b,
            }
            | Op::WriteNaive { kv: a, k_rope: b }
            | Op::WriteGroups { k: a, v: b } => {
                self.write(*a, *b)?;
                return Ok(None);
            }
            Op::WriteIndex { k, gates } => {
                let keys = self.index_entries(*k, *gates)?;
                self.call.cache.write_index(self.call.pieces, &keys);
                return Ok(None);
            }
            Op::GiveKv { latent, k_rope } => {
                self.given.shared_kv = Some(SharedKv {
                    latent: self.array(*latent)?.data.clone(),
                    k_rope: self.array(*k_rope)?.data.clone(),
                });
                return Ok(None);
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
                return Ok(None);
            }
            Op::Select { .. } | Op::SelectCached { .. } | Op::TakeSelection { .. } => {
                self.indexing(op)?
            }
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::MergeContext { .. }
            | Op::AttendLatentCache { .. }
            | Op::AttendNaiveCache { .. }
            | Op::AttendGroupCache { .. }
            | Op::FlashDecode { .. }
            | Op::Sink { .. } => Value::Attended(self.attention(op)?),
            _ => self.pointwise(op)?,
        };
        Ok(Some(value))
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
