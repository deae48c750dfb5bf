//! The parameters' gradients: shaped like the parameters, and as tensors of a checkpoint again.

use super::super::Weights;
use super::super::array::Array;
use super::super::params::{Linear, Norm, Params, Parts};
use super::super::{Error, params};
use crate::plan::{LinearParams, Module, ModuleKind, NormParams, Program, Rows};

impl Params {
    /// Zeros in the same shapes.
    pub(super) fn zeroed(&self) -> Self {
        let mut zeros = self.clone();
        for parts in zeros.0.values_mut() {
            let Parts {
                norm,
                linear,
                sinks,
                scale,
                table,
            } = parts;
            norm.iter_mut().for_each(clear_norm);
            linear.iter_mut().for_each(clear_linear);
            sinks.iter_mut().for_each(|sinks| sinks.fill(0.0));
            if let Some((a, b)) = scale {
                a.fill(0.0);
                b.fill(0.0);
            }
            table.iter_mut().for_each(|table| table.data.fill(0.0));
        }
        zeros
    }

    fn part_mut<'a, T>(
        &'a mut self,
        slot: &str,
        of: impl Fn(&'a mut Parts) -> Option<&'a mut T>,
    ) -> Result<&'a mut T, Error> {
        self.0.get_mut(slot).and_then(of).ok_or(Error::BadPlan(
            "a gradient of a slot that holds something else",
        ))
    }

    pub(super) fn linear_mut(&mut self, slot: &str) -> Result<&mut Linear, Error> {
        self.part_mut(slot, |parts| parts.linear.as_mut())
    }

    pub(super) fn norm_mut(&mut self, slot: &str) -> Result<&mut Norm, Error> {
        self.part_mut(slot, |parts| parts.norm.as_mut())
    }

    pub(super) fn sinks_mut(&mut self, slot: &str) -> Result<&mut Vec<f64>, Error> {
        self.part_mut(slot, |parts| parts.sinks.as_mut())
    }

    /// `a` and `b` per head.
    pub(super) fn scale_mut(&mut self, slot: &str) -> Result<&mut (Vec<f64>, Vec<f64>), Error> {
        self.part_mut(slot, |parts| parts.scale.as_mut())
    }

    /// The tensors that [`Params::load`] would make these of.
    pub(super) fn unload(&self, program: &Program) -> Weights {
        let mut tensors = Weights::new();
        for module in &program.modules {
            if let Some(parts) = self.0.get(module.slot) {
                unload(module, parts, &mut tensors);
            }
        }
        tensors
    }
}

fn clear_linear(linear: &mut Linear) {
    linear.weight.data.fill(0.0);
    linear.bias.iter_mut().for_each(|bias| bias.fill(0.0));
}

fn clear_norm(norm: &mut params::Norm) {
    norm.weight.fill(0.0);
    norm.bias.iter_mut().for_each(|bias| bias.fill(0.0));
    if let Some((first, second)) = &mut norm.gate {
        clear_linear(first);
        clear_linear(second);
    }
}

fn unload(module: &Module, parts: &Parts, tensors: &mut Weights) {
    match &module.kind {
        ModuleKind::Linear(params)
        | ModuleKind::Fp8Linear(params)
        | ModuleKind::AccumLinear(params) => {
            linear(params, parts, tensors);
        }
        ModuleKind::Norm(params) => norm(params, parts, tensors),
        ModuleKind::NormLinear(inner, params) => {
            norm(inner, parts, tensors);
            linear(params, parts, tensors);
        }
        ModuleKind::Sinks { source, .. } => {
            let sinks = parts.sinks.iter().cloned();
            tensors.extend(sinks.map(|sinks| ((*source).to_owned(), sinks)));
        }
        ModuleKind::LogPositionScale { source, .. } => {
            if let Some((a, b)) = &parts.scale {
                tensors.insert(format!("{source}.scale"), a.clone());
                tensors.insert(format!("{source}.bias"), b.clone());
            }
        }
        ModuleKind::KeyPools { source, .. } => {
            if let (Some(gate), Some(table)) = (&parts.linear, &parts.table) {
                tensors.insert(format!("{source}_gate"), gate.weight.data.clone());
                tensors.insert(format!("{source}_ape"), table.data.clone());
            }
        }
    }
}

fn norm(params: &NormParams, parts: &Parts, tensors: &mut Weights) {
    let Some(norm) = &parts.norm else {
        return;
    };
    let mut add = |name: &str, values: &[f64]| {
        tensors.insert(format!("{}.{name}", params.source), values.to_vec());
    };
    match &norm.gate {
        None => add("weight", &norm.weight),
        Some((first, second)) => {
            add("norm.weight", &norm.weight);
            add("mlp.fc1.weight", &first.weight.data);
            add("mlp.fc2.weight", &second.weight.data);
        }
    }
    if let Some(bias) = &norm.bias {
        add("bias", bias);
    }
}

fn linear(params: &LinearParams, parts: &Parts, tensors: &mut Weights) {
    let Some(linear) = &parts.linear else {
        return;
    };
    let bias = linear.bias.as_ref().map(|bias| Array {
        rows: bias.len(),
        heads: 1,
        dim: 1,
        data: bias.clone(),
    });
    let halves = [("weight", Some(&linear.weight)), ("bias", bias.as_ref())];
    for (part, rows) in halves {
        let Some(rows) = rows else { continue };
        for (source, places) in places(params) {
            let values = places.iter().flat_map(|&place| rows.row(place));
            tensors.insert(format!("{source}.{part}"), values.copied().collect());
        }
    }
}

/// For each source of a linear, the rows of the weight that are its own, in its order.
fn places(params: &LinearParams) -> Vec<(&'static str, Vec<usize>)> {
    match &params.rows {
        Rows::Stacked(sources) => {
            let mut start = 0;
            let of = |(source, rows): &(&'static str, crate::plan::Dim)| {
                let own: Vec<usize> = (start..start + rows.size as usize).collect();
                start += own.len();
                (*source, own)
            };
            sources.iter().map(of).collect()
        }
        Rows::Grouped { groups, pieces } => {
            let groups = groups.size as usize;
            let share = |rows: u32| rows as usize / groups.max(1);
            let stride: usize = pieces.iter().map(|piece| share(piece.rows.size)).sum();
            let mut start = 0;
            let of = |piece: &crate::plan::GroupPiece| {
                let (first, length) = (start, share(piece.rows.size));
                start += length;
                let of_group = |group: usize| {
                    let begin = group * stride + first;
                    begin..begin + length
                };
                (piece.source, (0..groups).flat_map(of_group).collect())
            };
            pieces.iter().map(of).collect()
        }
    }
}
