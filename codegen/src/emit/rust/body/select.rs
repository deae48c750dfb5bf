//! An indexer's choice of keys.

use super::{Body, words};
use crate::emit::rust::layout::Call;
use crate::plan::{Op, ValueId};

impl Body<'_> {
    pub(super) fn selection(&mut self, op: &Op) {
        match op {
            Op::PoolGates { x, slot, out } => {
                let call = Call::fallible(format!("self.{slot}.gates"), &[&self.read(*x)]);
                self.bind(*out, &call);
            }
            Op::Select {
                q,
                k,
                gates,
                weights,
                segments,
                out,
            } => self.select([*q, *k, *weights, *segments], *gates, *out),
            Op::WriteIndex { k, gates } => {
                let mut arguments = vec!["batch".to_owned(), self.read(*k)];
                arguments.extend(gates.map(|gates| self.read(gates)));
                arguments.extend(self.pools());
                let callee = format!("{}.write", self.index_cache());
                self.lines
                    .call("", &Call::fallible(callee, &words(&arguments)), ";");
            }
            Op::SelectCached { q, weights, out } => {
                self.select_cached(&self.read(*q), *weights, *out);
            }
            _ => {}
        }
    }

    /// `q`: the queries as an argument.
    pub(super) fn select_cached(&mut self, q: &str, weights: ValueId, out: ValueId) {
        let weights = self.read(weights);
        let callee = format!("{}.{}", self.index_cache(), self.selecting());
        let arguments = ["batch", q, &weights, self.visibility(), "&SELECTING"];
        self.bind_typed(out, &Call::fallible(callee, &arguments));
    }

    fn select(
        &mut self,
        [q, k, weights, segments]: [ValueId; 4],
        gates: Option<ValueId>,
        out: ValueId,
    ) {
        let mut arguments = vec![self.read(q), self.read(k)];
        arguments.extend(gates.map(|gates| self.read(gates)));
        arguments.push(self.read(weights));
        arguments.extend(self.pools());
        arguments.extend([self.read(segments), "&SELECTING".to_owned()]);
        let function = match gates {
            None => "indexer::select",
            Some(_) => "indexer::select_pools",
        };
        self.bind_typed(out, &Call::fallible(function, &words(&arguments)));
    }

    /// What a cache is asked for keys by.
    fn selecting(&self) -> &'static str {
        let cache = self.program.cache.as_ref();
        match cache.and_then(|cache| cache.index) {
            Some(index) if index.rounds_queries => "select_rounded",
            _ => "select",
        }
    }

    /// What pools keys, as an argument; `None` where they are not pooled.
    fn pools(&self) -> Option<String> {
        let pool = self.program.indexer.as_ref()?.pool?;
        Some(format!("&self.{}", pool.slot))
    }

    /// Scores are as large as a matrix of queries by keys: only a probe that wants them gets them.
    pub(super) fn scores_probe(&mut self, name: &str, picked: ValueId) {
        let Some(op) = self.ops().find(|op| op.makes(picked)).cloned() else {
            return;
        };
        let scores = match op {
            Op::Select {
                q,
                k,
                weights,
                segments,
                ..
            } => {
                let read = [q, k, weights, segments].map(|id| self.read(id));
                let arguments = [words(&read), vec!["&SELECTING"]].concat();
                Call::fallible("indexer::scores", &arguments)
            }
            Op::SelectCached { q, weights, .. } => {
                let read = [q, weights].map(|id| self.read(id));
                let visibility = self.visibility().to_owned();
                let arguments = ["batch", &read[0], &read[1], &visibility, "&SELECTING"];
                Call::fallible(format!("{}.scores", self.index_cache()), &arguments)
            }
            _ => return,
        };
        self.lines.block("if probe.is_recording() {", "}", |lines| {
            lines.call("let scores = ", &scores, ";");
            let record = ["probe", &format!("\"{name}\""), "&scores"];
            lines.call("", &Call::fallible("probe::record", &record), ";");
        });
    }
}
