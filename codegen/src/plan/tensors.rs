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
        self.modules
            .iter()
            .flat_map(|module| tensors_of(&module.kind))
            .collect()
    }
}

/// The tensors that a module is loaded from.
pub fn tensors_of(kind: &ModuleKind) -> Vec<CheckpointTensor> {
    match kind {
        ModuleKind::Linear(params)
        | ModuleKind::Fp8Linear(params)
        | ModuleKind::AccumLinear(params) => linear(params),
        ModuleKind::Norm(params) => norm(params),
        ModuleKind::NormLinear(inner, params) => [norm(inner), linear(params)].concat(),
        ModuleKind::Sinks { heads, source } => vec![whole(source, vec![*heads])],
        ModuleKind::LogPositionScale { heads, source } => ["scale", "bias"]
            .map(|part| tensor(source, part, vec![*heads]))
            .into(),
        ModuleKind::KeyPools {
            input,
            pool,
            width,
            source,
        } => vec![
            whole(&format!("{source}_gate"), vec![*width, *input]),
            whole(&format!("{source}_ape"), vec![*pool, *width]),
        ],
    }
}

fn linear(params: &LinearParams) -> Vec<CheckpointTensor> {
    let of = |(source, rows): (&'static str, Dim)| {
        let weight = tensor(source, "weight", vec![rows, params.input]);
        let bias = params.bias.then(|| tensor(source, "bias", vec![rows]));
        [weight].into_iter().chain(bias)
    };
    params.sources().into_iter().flat_map(of).collect()
}

fn norm(params: &NormParams) -> Vec<CheckpointTensor> {
    let of = |part| tensor(params.source, part, vec![params.width]);
    match (params.kind, params.rank) {
        (NormKind::LayerNorm, _) => vec![of("weight"), of("bias")],
        (NormKind::GatedRmsNorm { .. }, Some(rank)) => vec![
            of("norm.weight"),
            tensor(params.source, "mlp.fc1.weight", vec![rank, params.width]),
            tensor(params.source, "mlp.fc2.weight", vec![params.width, rank]),
        ],
        _ => vec![of("weight")],
    }
}

fn tensor(source: &str, part: &str, shape: Vec<Dim>) -> CheckpointTensor {
    CheckpointTensor {
        name: format!("{source}.{part}"),
        shape,
    }
}

fn whole(source: &str, shape: Vec<Dim>) -> CheckpointTensor {
    CheckpointTensor {
        name: source.to_owned(),
        shape,
    }
}
