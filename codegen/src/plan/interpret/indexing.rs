//! Ops of the indexer.

use super::Error;
use super::array::Array;
use super::call::{Keys, picked};
use super::run::{Machine, Value};
use super::select::{Candidates, Picked};
use crate::plan::{Op, ValueId};

impl Machine<'_> {
    /// The selection that an op makes or takes.
    pub(super) fn indexing(&mut self, op: &Op) -> Result<Value, Error> {
        let width = self
            .program
            .selected
            .ok_or(Error::BadPlan("a selection in a dense layer"))?
            .size as usize;
        let found = match op {
            Op::TakeSelection { .. } => {
                let selection = self.call.extras.selection;
                let selection = selection.ok_or(Error::MissingExtra("selection"))?;
                return Ok(Value::Selection(selection.to_vec(), width));
            }
            Op::Select {
                q,
                k,
                gates,
                weights,
                ..
            } => {
                let (rows, keys) = self.call.own_keys();
                let k = picked(&self.index_entries(*k, *gates)?, &rows);
                self.pick(*q, *weights, &k, &keys)?
            }
            Op::SelectCached { q, weights, .. } => {
                let (k, keys) = self.call.cache.gather_index(self.call.pieces);
                let keys = self.call.recognised(keys);
                self.pick(*q, *weights, &k, &keys)?
            }
            _ => return Err(Error::BadPlan("an op that selects was wanted")),
        };
        self.scores = found.scores;
        Ok(Value::Selection(found.selection, width))
    }

    /// Keys, and their gates behind them where they are pooled.
    pub(super) fn index_entries(&self, k: ValueId, gates: Option<ValueId>) -> Result<Array, Error> {
        let keys = self.array(k)?;
        match gates {
            None => Ok(keys.clone()),
            Some(gates) => {
                let gates = self.array(gates)?;
                let shape = (keys.rows, 1, keys.dim + gates.dim);
                Ok(Array::build(shape, |row, _| {
                    [keys.row(row), gates.row(row)].concat()
                }))
            }
        }
    }

    fn pick(&self, q: ValueId, weights: ValueId, k: &Array, keys: &Keys) -> Result<Picked, Error> {
        let plan = self.program.indexer.as_ref();
        let plan = plan.ok_or(Error::BadPlan("a selection without an indexer"))?;
        let embedding = plan.pool.map(|pool| self.params.table(pool.slot));
        let candidates = Candidates {
            plan,
            sight: self.sight(),
            queries: &self.call.queries,
            keys,
            k,
            embedding: embedding.transpose()?,
        };
        Ok(candidates.pick(self.array(q)?, self.array(weights)?))
    }
}
