//! What is so of a layer once it is planned, for two to be laid side by side.

use mla_spec::Checked;
use mla_spec::compare::{self, Fact, Topic, Value};

use super::bytes;
use crate::plan::{CheckpointTensor, Program};

/// Everything that is so of a layer: what [`compare::facts`] knows, what a cached token takes, and the tensors that it loads.
pub fn comparable_facts(checked: &Checked) -> Vec<Fact> {
    let program = crate::plan::program(checked);
    let mut facts = compare::facts(checked);
    facts.extend(cached(&program));
    facts.extend(program.tensors().iter().map(loaded));
    facts
}

fn cached(program: &Program) -> Option<Fact> {
    let parts = bytes::stored(program.cache.as_ref()?);
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    Some(Fact {
        topic: Topic::Layout,
        name: "bytes of a cached token".to_owned(),
        value: Value::Text(bytes.to_string()),
    })
}

fn loaded(tensor: &CheckpointTensor) -> Fact {
    let sizes: Vec<_> = tensor
        .shape
        .iter()
        .map(|dim| dim.size.to_string())
        .collect();
    Fact {
        topic: Topic::Weights,
        name: tensor.name.clone(),
        value: Value::Text(format!("[{}]", sizes.join(", "))),
    }
}
