//! Which tensors of a checkpoint a program's modules are made of.

use mla_spec::NormKind;

use super::{Dim, LinearParams, ModuleKind, NormParams, Program};

/// A tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointTensor {
    /// Its name below the layer's prefix, such as `q_a_proj.weight`.
    pub name: String,
    /// Its shape; linear weights are `[out, in]`.
    pub shape: Vec<Dim>,
}

impl Program {
    /// The tensors that the layer is loaded from, in the order of its modules.
    pub fn tensors(&self) -> Vec<CheckpointTensor> {
        let of = |kind: &ModuleKind| match kind {
            ModuleKind::Linear(params) => linear(params),
            ModuleKind::Norm(params) => norm(params),
            ModuleKind::NormLinear(inner, params) => [norm(inner), linear(params)].concat(),
        };
        self.modules
            .iter()
            .flat_map(|module| of(&module.kind))
            .collect()
    }
}

fn linear(params: &LinearParams) -> Vec<CheckpointTensor> {
    let of = |&(source, rows): &(&str, Dim)| {
        let weight = tensor(source, "weight", vec![rows, params.input]);
        let bias = params.bias.then(|| tensor(source, "bias", vec![rows]));
        [weight].into_iter().chain(bias)
    };
    params.sources.iter().flat_map(of).collect()
}

fn norm(params: &NormParams) -> Vec<CheckpointTensor> {
    let parts: &[&str] = match params.kind {
        NormKind::RmsNorm => &["weight"],
        NormKind::LayerNorm => &["weight", "bias"],
        NormKind::GatedRmsNorm { .. } => unreachable!("check makes none yet"),
    };
    parts
        .iter()
        .map(|part| tensor(params.source, part, vec![params.width]))
        .collect()
}

fn tensor(source: &str, part: &str, shape: Vec<Dim>) -> CheckpointTensor {
    CheckpointTensor {
        name: format!("{source}.{part}"),
        shape,
    }
}
