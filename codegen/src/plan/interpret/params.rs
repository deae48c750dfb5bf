//! The modules with their weights.

use std::collections::BTreeMap;

use mla_spec::NormKind;

use super::array::{Array, dot};
use super::{Error, Weights};
use crate::plan::{LinearParams, ModuleKind, NormParams, Program};

/// Every module's weights, by slot.
#[derive(Debug)]
pub(super) struct Params(BTreeMap<&'static str, (Option<Norm>, Option<Linear>)>);

/// `y = W x + b`.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[out, in]`.
    weight: Array,
    bias: Option<Vec<f64>>,
}

#[derive(Debug)]
pub(super) struct Norm {
    kind: NormKind,
    eps: f64,
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
}

impl Params {
    pub(super) fn load(program: &Program, weights: &Weights) -> Result<Self, Error> {
        let tensors = program.tensors();
        for tensor in &tensors {
            let found = weights
                .get(&tensor.name)
                .ok_or_else(|| Error::MissingTensor(tensor.name.clone()))?
                .len();
            let wanted = tensor.shape.iter().map(|dim| dim.size as usize).product();
            if found != wanted {
                return Err(Error::WrongLength {
                    what: tensor.name.clone(),
                    found,
                    wanted,
                });
            }
        }
        if let Some(extra) = weights
            .keys()
            .find(|name| tensors.iter().all(|tensor| tensor.name != **name))
        {
            return Err(Error::ExtraTensor(extra.clone()));
        }
        let modules = program.modules.iter().map(|module| {
            let parts = match &module.kind {
                ModuleKind::Linear(params) => (None, Some(linear(params, weights))),
                ModuleKind::Norm(params) => (Some(norm(params, weights)), None),
                ModuleKind::NormLinear(inner, params) => {
                    (Some(norm(inner, weights)), Some(linear(params, weights)))
                }
                _ => (None, None),
            };
            (module.slot, parts)
        });
        Ok(Self(modules.collect()))
    }

    /// The linear in a slot, or inside the norm-linear there.
    pub(super) fn linear(&self, slot: &str) -> Result<&Linear, Error> {
        self.0
            .get(slot)
            .and_then(|(_, linear)| linear.as_ref())
            .ok_or(Error::BadPlan("no linear in this slot"))
    }

    /// The norm in a slot, or inside the norm-linear there.
    pub(super) fn norm(&self, slot: &str) -> Result<&Norm, Error> {
        self.0
            .get(slot)
            .and_then(|(norm, _)| norm.as_ref())
            .ok_or(Error::BadPlan("no norm in this slot"))
    }

    /// Whether the slot holds a norm-linear.
    pub(super) fn is_norm_linear(&self, slot: &str) -> bool {
        matches!(self.0.get(slot), Some((Some(_), Some(_))))
    }
}

/// The values of a tensor that [`Params::load`] found to be there.
fn values(weights: &Weights, source: &str, part: &str) -> Vec<f64> {
    weights
        .get(&format!("{source}.{part}"))
        .cloned()
        .unwrap_or_default()
}

fn linear(params: &LinearParams, weights: &Weights) -> Linear {
    let stacked = |part| {
        params
            .sources()
            .into_iter()
            .flat_map(|(source, _)| values(weights, source, part))
            .collect()
    };
    let (rows, dim) = (params.output.size as usize, params.input.size as usize);
    Linear {
        weight: Array {
            rows,
            heads: 1,
            dim,
            data: stacked("weight"),
        },
        bias: params.bias.then(|| stacked("bias")),
    }
}

fn norm(params: &NormParams, weights: &Weights) -> Norm {
    Norm {
        kind: params.kind,
        eps: params.eps,
        weight: values(weights, params.source, "weight"),
        bias: (params.kind == NormKind::LayerNorm).then(|| values(weights, params.source, "bias")),
    }
}

impl Linear {
    pub(super) fn apply(&self, x: &Array) -> Array {
        Array::build((x.rows, 1, self.weight.rows), |row, _| {
            let product = |out| {
                dot(self.weight.at(out, 0), x.row(row))
                    + self.bias.as_ref().map_or(0.0, |bias| bias[out])
            };
            (0..self.weight.rows).map(product).collect()
        })
    }

    /// Row `row` of the weight.
    pub(super) fn row(&self, row: usize) -> &[f64] {
        self.weight.at(row, 0)
    }
}

impl Norm {
    /// RMSNorm `γ x / sqrt(mean(x²) + ε)`, LayerNorm `γ (x - mean(x)) / sqrt(var(x) + ε) + β`.
    pub(super) fn apply(&self, x: &Array) -> Array {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        Array::build((x.rows, 1, x.dim), |row, _| {
            let shift = match self.kind {
                NormKind::RmsNorm | NormKind::GatedRmsNorm { .. } => 0.0,
                NormKind::LayerNorm => mean(x.row(row)),
            };
            let centred: Vec<f64> = x.row(row).iter().map(|x| x - shift).collect();
            let squares: Vec<f64> = centred.iter().map(|x| x * x).collect();
            let root = (mean(&squares) + self.eps).sqrt();
            let normed = |(i, x): (usize, &f64)| {
                self.weight[i] * x / root + self.bias.as_ref().map_or(0.0, |bias| bias[i])
            };
            centred.iter().enumerate().map(normed).collect()
        })
    }
}
