//! The parameters of each kind of module.

use crate::backend::{Accum, Backend};
use crate::error::{Error, Result};
use crate::linear::GroupPart;

use super::layout::ParameterLayout;

/// One parameter in the accumulation type, `f32` or `f64`: a gradient, a master weight, or a moment of an optimiser.
#[derive(Debug)]
pub struct Parameter<B: Backend> {
    pub(crate) device: B::Device,
    /// `[rows, width]`, contiguous, in the order of the working weight.
    pub(crate) values: B::Buffer<Accum<B>>,
    pub(crate) layout: ParameterLayout,
}

impl<B: Backend> Parameter<B> {
    /// Zeros, as many as `rows` rows of the layout's width have.
    fn zeros(device: &B::Device, layout: ParameterLayout, rows: usize) -> Result<Self> {
        if layout.rows() != rows {
            let names: Vec<&str> = layout.names().collect();
            return Err(Error::shape(names.join(" and "), &[layout.rows()], &[rows]));
        }
        Ok(Self {
            device: device.clone(),
            values: B::zeros(device, layout.len())?,
            layout,
        })
    }

    /// `[len]` zeros, one tensor of the checkpoint.
    fn vector(device: &B::Device, name: String, len: usize) -> Result<Self> {
        Self::zeros(device, ParameterLayout::stacked([(name, len)], None)?, len)
    }

    /// `[rows, width]` zeros, one tensor of the checkpoint.
    fn matrix(device: &B::Device, name: String, rows: usize, width: usize) -> Result<Self> {
        let layout = ParameterLayout::stacked([(name, rows)], Some(width))?;
        Self::zeros(device, layout, rows)
    }

    /// Its shape, and what checkpoints call its parts.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The device that holds it.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// A copy of its values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<Accum<B>>> {
        B::download(&self.device, &self.values)
    }
}

/// The parameters of one module of a layer, in a fixed order.
pub trait ParameterGroup<B: Backend> {
    /// Parameter `index`, counted from 0; `None` behind the last one.
    fn parameter(&self, index: usize) -> Option<&Parameter<B>>;

    /// As [`parameter`](Self::parameter), to be changed.
    fn parameter_mut(&mut self, index: usize) -> Option<&mut Parameter<B>>;

    /// How many there are.
    fn count(&self) -> usize {
        (0..)
            .take_while(|&index| self.parameter(index).is_some())
            .count()
    }
}

/// Lists a group's parameters in order; optional ones are skipped where they are absent.
macro_rules! group {
    ([$($generics:tt)*] $type:ty, $group:ident: $($one:expr),+; mut $($one_mut:expr),+) => {
        impl<$($generics)*> ParameterGroup<B> for $type {
            fn parameter(&self, index: usize) -> Option<&Parameter<B>> {
                let $group = self;
                [$($one),+].into_iter().flatten().nth(index)
            }

            fn parameter_mut(&mut self, index: usize) -> Option<&mut Parameter<B>> {
                let $group = self;
                [$($one_mut),+].into_iter().flatten().nth(index)
            }
        }
    };
}

/// Parameters of a [`Linear`](crate::Linear) or an [`AccumLinear`](crate::AccumLinear): weight `[OUT, IN]` and perhaps a bias `[OUT]`.
#[derive(Debug)]
pub struct LinearParameters<B: Backend, const IN: usize, const OUT: usize> {
    pub(crate) weight: Parameter<B>,
    pub(crate) bias: Option<Parameter<B>>,
}

group!([B: Backend, const IN: usize, const OUT: usize] LinearParameters<B, IN, OUT>, it:
    Some(&it.weight), it.bias.as_ref(); mut Some(&mut it.weight), it.bias.as_mut());

impl<B: Backend, const IN: usize, const OUT: usize> LinearParameters<B, IN, OUT> {
    /// Zeros for `NAME.weight` of each name, that many rows each, stacked. No bias.
    ///
    /// # Errors
    /// When the rows are not `OUT` in all, a name is given twice, or the device has no room.
    pub fn zeros(device: &B::Device, pieces: &[(&str, usize)]) -> Result<Self> {
        let weight = Self::stack(pieces, "weight", Some(IN))?;
        Self::of(device, weight, None)
    }

    /// Zeros for `NAME.weight` and `NAME.bias` of each name, stacked.
    ///
    /// # Errors
    /// As [`LinearParameters::zeros`].
    pub fn zeros_biased(device: &B::Device, pieces: &[(&str, usize)]) -> Result<Self> {
        let weight = Self::stack(pieces, "weight", Some(IN))?;
        let bias = Self::stack(pieces, "bias", None)?;
        Self::of(device, weight, Some(bias))
    }

    /// Zeros for a projection whose output stands group by group (features R-05), from the parts that
    /// [`Linear::load_grouped`](crate::Linear::load_grouped) takes. No bias.
    ///
    /// # Errors
    /// When the rows are not `OUT` in all, the parts don't take every row of a tensor exactly once, or the device has no room.
    pub fn zeros_grouped(
        device: &B::Device,
        groups: usize,
        parts: &[GroupPart<'_>],
    ) -> Result<Self> {
        let weight = ParameterLayout::grouped(groups, parts, "weight", Some(IN))?;
        Self::of(device, weight, None)
    }

    /// As [`LinearParameters::zeros_grouped`], weights and biases.
    ///
    /// # Errors
    /// As [`LinearParameters::zeros_grouped`].
    pub fn zeros_grouped_biased(
        device: &B::Device,
        groups: usize,
        parts: &[GroupPart<'_>],
    ) -> Result<Self> {
        let weight = ParameterLayout::grouped(groups, parts, "weight", Some(IN))?;
        let bias = ParameterLayout::grouped(groups, parts, "bias", None)?;
        Self::of(device, weight, Some(bias))
    }

    /// Zeros for the one tensor `name` `[OUT, IN]`: a linear whose weight checkpoints call by its bare name.
    fn bare(device: &B::Device, name: String) -> Result<Self> {
        let weight = ParameterLayout::stacked([(name, OUT)], Some(IN))?;
        Self::of(device, weight, None)
    }

    fn stack(
        pieces: &[(&str, usize)],
        leaf: &str,
        width: Option<usize>,
    ) -> Result<ParameterLayout> {
        let named = pieces
            .iter()
            .map(|&(name, rows)| (format!("{name}.{leaf}"), rows));
        ParameterLayout::stacked(named, width)
    }

    fn of(
        device: &B::Device,
        weight: ParameterLayout,
        bias: Option<ParameterLayout>,
    ) -> Result<Self> {
        Ok(Self {
            weight: Parameter::zeros(device, weight, OUT)?,
            bias: bias
                .map(|bias| Parameter::zeros(device, bias, OUT))
                .transpose()?,
        })
    }
}

/// Parameters of an [`RmsNorm`](crate::RmsNorm), γ `[W]`, or of a [`LayerNorm`](crate::LayerNorm), γ and β `[W]`.
#[derive(Debug)]
pub struct NormParameters<B: Backend, const W: usize> {
    pub(crate) gamma: Parameter<B>,
    /// A LayerNorm's.
    pub(crate) beta: Option<Parameter<B>>,
}

group!([B: Backend, const W: usize] NormParameters<B, W>, it:
    Some(&it.gamma), it.beta.as_ref(); mut Some(&mut it.gamma), it.beta.as_mut());

impl<B: Backend, const W: usize> NormParameters<B, W> {
    /// Zeros for γ, `NAME.weight`: an RMSNorm's.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros(device: &B::Device, name: &str) -> Result<Self> {
        Ok(Self {
            gamma: Parameter::vector(device, format!("{name}.weight"), W)?,
            beta: None,
        })
    }

    /// Zeros for γ, `NAME.weight`, and β, `NAME.bias`: a LayerNorm's.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros_shifted(device: &B::Device, name: &str) -> Result<Self> {
        Ok(Self {
            gamma: Parameter::vector(device, format!("{name}.weight"), W)?,
            beta: Some(Parameter::vector(device, format!("{name}.bias"), W)?),
        })
    }
}

/// Parameters of a [`LayerNormLinear`](crate::LayerNormLinear): its norm's and its linear's.
#[derive(Debug)]
pub struct NormLinearParameters<N, L> {
    /// The norm's.
    pub norm: N,
    /// The linear's.
    pub linear: L,
}

impl<N, L> NormLinearParameters<N, L> {
    /// The parameters of a norm and of the linear that it feeds.
    pub fn new(norm: N, linear: L) -> Self {
        Self { norm, linear }
    }
}

impl<B: Backend, N: ParameterGroup<B>, L: ParameterGroup<B>> ParameterGroup<B>
    for NormLinearParameters<N, L>
{
    fn parameter(&self, index: usize) -> Option<&Parameter<B>> {
        match index.checked_sub(self.norm.count()) {
            None => self.norm.parameter(index),
            Some(index) => self.linear.parameter(index),
        }
    }

    fn parameter_mut(&mut self, index: usize) -> Option<&mut Parameter<B>> {
        match index.checked_sub(self.norm.count()) {
            None => self.norm.parameter_mut(index),
            Some(index) => self.linear.parameter_mut(index),
        }
    }
}

/// Parameters of a [`GatedRmsNorm`](crate::GatedRmsNorm): γ `[W]`, W₁ `[RANK, W]` and W₂ `[W, RANK]`.
#[derive(Debug)]
pub struct GatedNormParameters<B: Backend, const W: usize, const RANK: usize> {
    pub(crate) norm: NormParameters<B, W>,
    pub(crate) down: LinearParameters<B, W, RANK>,
    pub(crate) up: LinearParameters<B, RANK, W>,
}

group!([B: Backend, const W: usize, const RANK: usize] GatedNormParameters<B, W, RANK>, it:
    Some(&it.norm.gamma), Some(&it.down.weight), Some(&it.up.weight);
    mut Some(&mut it.norm.gamma), Some(&mut it.down.weight), Some(&mut it.up.weight));

impl<B: Backend, const W: usize, const RANK: usize> GatedNormParameters<B, W, RANK> {
    /// Zeros for `NAME.norm.weight`, `NAME.mlp.fc1.weight` and `NAME.mlp.fc2.weight`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros(device: &B::Device, name: &str) -> Result<Self> {
        Ok(Self {
            norm: NormParameters::zeros(device, &format!("{name}.norm"))?,
            down: LinearParameters::zeros(device, &[(&format!("{name}.mlp.fc1"), RANK)])?,
            up: LinearParameters::zeros(device, &[(&format!("{name}.mlp.fc2"), W)])?,
        })
    }
}

/// Parameters of [`Sinks`](crate::Sinks): a logit per head, `[H]`.
#[derive(Debug)]
pub struct SinkParameters<B: Backend, const H: usize> {
    pub(crate) logits: Parameter<B>,
}

group!([B: Backend, const H: usize] SinkParameters<B, H>, it:
    Some(&it.logits); mut Some(&mut it.logits));

impl<B: Backend, const H: usize> SinkParameters<B, H> {
    /// Zeros for the tensor `name`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros(device: &B::Device, name: &str) -> Result<Self> {
        Ok(Self {
            logits: Parameter::vector(device, name.to_owned(), H)?,
        })
    }
}

/// Parameters of a [`LogPositionScale`](crate::LogPositionScale): a and b, `[H]` each.
#[derive(Debug)]
pub struct LogPositionParameters<B: Backend, const H: usize> {
    pub(crate) scale: Parameter<B>,
    pub(crate) bias: Parameter<B>,
}

group!([B: Backend, const H: usize] LogPositionParameters<B, H>, it:
    Some(&it.scale), Some(&it.bias); mut Some(&mut it.scale), Some(&mut it.bias));

impl<B: Backend, const H: usize> LogPositionParameters<B, H> {
    /// Zeros for `NAME.scale` and `NAME.bias`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros(device: &B::Device, name: &str) -> Result<Self> {
        Ok(Self {
            scale: Parameter::vector(device, format!("{name}.scale"), H)?,
            bias: Parameter::vector(device, format!("{name}.bias"), H)?,
        })
    }
}

/// Parameters of [`KeyPools`](crate::KeyPools): the gate `[W, IN]`, and a summand `[POOL, W]` for each place in a pool.
#[derive(Debug)]
pub struct KeyPoolParameters<B: Backend, const IN: usize, const W: usize, const POOL: usize> {
    pub(crate) gate: LinearParameters<B, IN, W>,
    pub(crate) positions: Parameter<B>,
}

group!([B: Backend, const IN: usize, const W: usize, const POOL: usize]
    KeyPoolParameters<B, IN, W, POOL>, it:
    Some(&it.gate.weight), Some(&it.positions);
    mut Some(&mut it.gate.weight), Some(&mut it.positions));

impl<B: Backend, const IN: usize, const W: usize, const POOL: usize>
    KeyPoolParameters<B, IN, W, POOL>
{
    /// Zeros for `NAME_gate` and `NAME_ape`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros(device: &B::Device, name: &str) -> Result<Self> {
        Ok(Self {
            gate: LinearParameters::bare(device, format!("{name}_gate"))?,
            positions: Parameter::matrix(device, format!("{name}_ape"), POOL, W)?,
        })
    }
}
