//! An indexer's choice of keys.

use super::{Body, words};
use crate::emit::rust::layout::Call;
use crate::plan::Op;

impl Body<'_> {
    pub(super) fn selection(&mut self, op: &Op) {
        let pool = self.program.indexer.as_ref().and_then(|plan| plan.pool);
        let pools = pool.map(|pool| format!("&self.{}", pool.embedding));
        match op {
            Op::Select {
                q,
                k,
                weights,
                segments,
                out,
            } => {
                let read = [*q, *k, *weights, *segments].map(|id| self.read(id));
                let arguments = [read.to_vec(), pools.into_iter().collect()].concat();
                let arguments = [words(&arguments), vec!["&SELECTING"]].concat();
                let function = match pool {
                    None => "indexer::select",
                    Some(_) => "indexer::select_pooled",
                };
                self.bind_typed(*out, &Call::fallible(function, &arguments));
            }
            Op::WriteIndex { k } => {
                let k = self.read(*k);
                let callee = format!("{}.write", self.index_cache());
                self.lines
                    .call("", &Call::fallible(callee, &["batch", &k]), ";");
            }
            Op::SelectCached { q, weights, out } => {
                let read = [self.read(*q), self.read(*weights)];
                let mut arguments = vec!["batch".to_owned()];
                arguments.extend(read);
                arguments.extend(pools);
                arguments.extend([self.visibility().to_owned(), "&SELECTING".to_owned()]);
                let method = match pool {
                    None => "select",
                    Some(_) => "select_pooled",
                };
                let callee = format!("{}.{method}", self.index_cache());
                self.bind_typed(*out, &Call::fallible(callee, &words(&arguments)));
            }
            _ => {}
        }
    }
}
