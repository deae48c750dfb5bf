//! The modules with their weights.

use std::collections::BTreeMap;

use mla_spec::NormKind;

use super::array::{Array, dot};
use super::pointwise::sigmoid;
use super::{Error, Weights};
use crate::plan::{LinearParams, Module, ModuleKind, NormParams, Program, Rows};

/// Every module's weights, by slot.
#[derive(Debug, Clone)]
pub(super) struct Params(pub(super) BTreeMap<&'static str, Parts>);

/// What a module is made of.
#[derive(Debug, Default, Clone)]
pub(super) struct Parts {
    pub(super) norm: Option<Norm>,
    pub(super) linear: Option<Linear>,
    pub(super) sinks: Option<Vec<f64>>,
    /// `a` and `b` of a log-position scale.
    pub(super) scale: Option<(Vec<f64>, Vec<f64>)>,
    /// Position embeddings of a pool.
    pub(super) table: Option<Array>,
}

/// `y = W x + b`.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// `[out, in]`.
    pub(super) weight: Array,
    pub(super) bias: Option<Vec<f64>>,
}

#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) eps: f64,
    pub(super) weight: Vec<f64>,
    pub(super) bias: Option<Vec<f64>>,
    /// Both matrices of a gated norm's gate.
    pub(super) gate: Option<(Linear, Linear)>,
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
        let modules = program.modules.iter();
        Ok(Self(
            modules
                .map(|module| (module.slot, parts(module, weights)))
                .collect(),
        ))
    }

    fn part<'a, T: ?Sized>(
        &'a self,
        slot: &str,
        of: impl Fn(&'a Parts) -> Option<&'a T>,
    ) -> Result<&'a T, Error> {
        self.0
            .get(slot)
            .and_then(of)
            .ok_or(Error::BadPlan("a slot that holds something else"))
    }

    /// The linear in a slot, or inside the norm-linear there.
    pub(super) fn linear(&self, slot: &str) -> Result<&Linear, Error> {
        self.part(slot, |parts| parts.linear.as_ref())
    }

    /// The norm in a slot, or inside the norm-linear there.
    pub(super) fn norm(&self, slot: &str) -> Result<&Norm, Error> {
        self.part(slot, |parts| parts.norm.as_ref())
    }

    /// A logit per head.
    pub(super) fn sinks(&self, slot: &str) -> Result<&[f64], Error> {
        self.part(slot, |parts| parts.sinks.as_deref())
    }

    /// `a` and `b` per head.
    pub(super) fn log_position_scale(&self, slot: &str) -> Result<(&[f64], &[f64]), Error> {
        let (a, b) = self.part(slot, |parts| parts.scale.as_ref())?;
        Ok((a, b))
    }

    /// The position embeddings of a pool, one row each.
    pub(super) fn table(&self, slot: &str) -> Result<&Array, Error> {
        self.part(slot, |parts| parts.table.as_ref())
    }

    /// Whether the slot holds a norm-linear.
    pub(super) fn is_norm_linear(&self, slot: &str) -> bool {
        self.0
            .get(slot)
            .is_some_and(|parts| parts.norm.is_some() && parts.linear.is_some())
    }
}

/// A tensor that [`Params::load`] found to be there.
fn tensor(weights: &Weights, name: &str) -> Vec<f64> {
    weights.get(name).cloned().unwrap_or_default()
}

fn parts(module: &Module, weights: &Weights) -> Parts {
    let of = |source: &str, part: &str| tensor(weights, &format!("{source}.{part}"));
    let mut parts = Parts::default();
    match &module.kind {
        ModuleKind::Linear(params)
        | ModuleKind::Fp8Linear(params)
        | ModuleKind::AccumLinear(params) => {
            parts.linear = Some(linear(params, weights));
        }
        ModuleKind::Norm(params) => parts.norm = Some(norm(params, weights)),
        ModuleKind::NormLinear(inner, params) => {
            parts.norm = Some(norm(inner, weights));
            parts.linear = Some(linear(params, weights));
        }
        ModuleKind::Sinks { source, .. } => parts.sinks = Some(tensor(weights, source)),
        ModuleKind::LogPositionScale { source, .. } => {
            parts.scale = Some((of(source, "scale"), of(source, "bias")));
        }
        ModuleKind::KeyPools {
            input,
            pool,
            width,
            source,
        } => {
            let [input, pool, width] = [input, pool, width].map(|dim| dim.size as usize);
            parts.linear = Some(Linear {
                weight: matrix(width, input, tensor(weights, &format!("{source}_gate"))),
                bias: None,
            });
            parts.table = Some(matrix(
                pool,
                width,
                tensor(weights, &format!("{source}_ape")),
            ));
        }
    }
    parts
}

fn matrix(rows: usize, dim: usize, data: Vec<f64>) -> Array {
    Array {
        rows,
        heads: 1,
        dim,
        data,
    }
}

/// The rows of a linear's sources in the order in which its weight has them.
fn stacked(params: &LinearParams, weights: &Weights, part: &str) -> Vec<f64> {
    let of = |source: &str| tensor(weights, &format!("{source}.{part}"));
    match &params.rows {
        Rows::Stacked(sources) => sources.iter().flat_map(|(source, _)| of(source)).collect(),
        Rows::Grouped { groups, pieces } => {
            let pieces: Vec<Vec<f64>> = pieces.iter().map(|piece| of(piece.source)).collect();
            let groups = groups.size as usize;
            let of_group = |group: usize| {
                let share = move |piece: &Vec<f64>| {
                    let length = piece.len() / groups;
                    piece[group * length..][..length].to_vec()
                };
                pieces.iter().flat_map(share).collect::<Vec<_>>()
            };
            (0..groups).flat_map(of_group).collect()
        }
    }
}

fn linear(params: &LinearParams, weights: &Weights) -> Linear {
    let (rows, dim) = (params.output.size as usize, params.input.size as usize);
    Linear {
        weight: matrix(rows, dim, stacked(params, weights, "weight")),
        bias: params.bias.then(|| stacked(params, weights, "bias")),
    }
}

fn norm(params: &NormParams, weights: &Weights) -> Norm {
    let source = params.source;
    let of = |name: &str| tensor(weights, &format!("{source}.{name}"));
    let width = params.width.size as usize;
    let plain = |rows, dim, name| Linear {
        weight: matrix(rows, dim, of(name)),
        bias: None,
    };
    let (weight, gate) = match params.kind {
        NormKind::RmsNorm | NormKind::LayerNorm => ("weight", None),
        NormKind::GatedRmsNorm { rank } => {
            let rank = rank as usize;
            let gate = (
                plain(rank, width, "mlp.fc1.weight"),
                plain(width, rank, "mlp.fc2.weight"),
            );
            ("norm.weight", Some(gate))
        }
    };
    Norm {
        kind: params.kind,
        eps: params.eps,
        weight: of(weight),
        bias: (params.kind == NormKind::LayerNorm).then(|| of("bias")),
        gate,
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
    /// RMSNorm `γ x / sqrt(mean(x²) + ε)`, LayerNorm `γ (x - mean(x)) / sqrt(var(x) + ε) + β`, gated RMSNorm
    /// `n σ(W_2 silu(W_1 n))` with `n` the RMSNorm (B-12).
    pub(super) fn apply(&self, x: &Array) -> Array {
        let normed = self.normed(x);
        let Some((first, second)) = &self.gate else {
            return normed;
        };
        let silu = |x: &f64| x * sigmoid(*x);
        let inner = first
            .apply(&normed)
            .map(|row| row.iter().map(silu).collect());
        let gate = second.apply(&inner);
        Array::build((x.rows, 1, x.dim), |row, _| {
            let pairs = normed.row(row).iter().zip(gate.row(row));
            pairs.map(|(n, gate)| n * sigmoid(*gate)).collect()
        })
    }

    fn normed(&self, x: &Array) -> Array {
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
