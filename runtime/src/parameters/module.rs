//! Between a module's working weights and its parameters.

use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::{Error, Result};
use crate::gated_norm::GatedRmsNorm;
use crate::indexer::KeyPools;
use crate::linear::{AccumLinear, Linear};
use crate::norm::{LayerNorm, LayerNormLinear, Norm, RmsNorm};
use crate::position_scale::LogPositionScale;
use crate::sinks::Sinks;

use super::groups::{
    GatedNormParameters, KeyPoolParameters, LinearParameters, LogPositionParameters,
    NormLinearParameters, NormParameters, Parameter, ParameterGroup, SinkParameters,
};
use super::ops::ParameterOps;

/// A module of a layer that has parameters.
pub trait Module<B: Backend> {
    /// What has a value for each of its working weights.
    type Parameters: ParameterGroup<B>;

    /// Copies the working weights, widened, which is exact.
    ///
    /// # Errors
    /// When one of the two has a bias and the other none, or the device refuses.
    fn read(&self, into: &mut Self::Parameters) -> Result<()>;

    /// Makes `from` the working weights, rounded to nearest, ties to even.
    ///
    /// # Errors
    /// As [`read`](Self::read); what the module held may be partly replaced then.
    fn assign(&mut self, from: &Self::Parameters) -> Result<()>;
}

impl<B: Backend> Parameter<B> {
    fn widened_from(&mut self, weight: &B::Buffer<B::Elem>) -> Result<()> {
        B::Parameters::widen(&self.device, weight, &mut self.values)
    }

    fn narrowed_to(&self, weight: &mut B::Buffer<B::Elem>) -> Result<()> {
        B::Parameters::narrow(&self.device, &self.values, weight)
    }

    fn copied_from(&mut self, weight: &B::Buffer<Accum<B>>) -> Result<()> {
        B::Parameters::on_host(
            &self.device,
            [&mut self.values],
            [weight],
            |[to], [from]| {
                to.copy_from_slice(from);
            },
        )
    }

    fn copied_to(&self, weight: &mut B::Buffer<Accum<B>>) -> Result<()> {
        B::Parameters::on_host(&self.device, [weight], [&self.values], |[to], [from]| {
            to.copy_from_slice(from);
        })
    }
}

/// A bias beside its parameter, where both are there; `None` where neither is.
fn both<L, R>(bias: Option<L>, parameter: Option<R>) -> Result<Option<(L, R)>> {
    match (bias, parameter) {
        (Some(bias), Some(parameter)) => Ok(Some((bias, parameter))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::BadConstant(
            "a linear has a bias and its parameters have none".to_owned(),
        )),
        (None, Some(_)) => Err(Error::BadConstant(
            "a linear has no bias and its parameters have one".to_owned(),
        )),
    }
}

/// β of parameters that may be an RMSNorm's.
pub(crate) fn shifted<P>(beta: Option<P>) -> Result<P> {
    beta.ok_or_else(|| {
        Error::BadConstant("a LayerNorm's parameters lack β: they are an RMSNorm's".to_owned())
    })
}

impl<B: Backend, const IN: usize, const OUT: usize> Module<B> for Linear<B, IN, OUT> {
    type Parameters = LinearParameters<B, IN, OUT>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        let bias = both(self.bias.as_ref(), into.bias.as_mut())?;
        into.weight.widened_from(&self.weight)?;
        bias.map_or(Ok(()), |(from, to)| to.widened_from(from))
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        let bias = both(self.bias.as_mut(), from.bias.as_ref())?;
        from.weight.narrowed_to(&mut self.weight)?;
        bias.map_or(Ok(()), |(to, from)| from.narrowed_to(to))
    }
}

impl<B: Backend, const IN: usize, const OUT: usize> Module<B> for AccumLinear<B, IN, OUT> {
    type Parameters = LinearParameters<B, IN, OUT>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        let bias = both(self.bias.as_ref(), into.bias.as_mut())?;
        into.weight.copied_from(&self.weight)?;
        bias.map_or(Ok(()), |(from, to)| to.copied_from(from))
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        let bias = both(self.bias.as_mut(), from.bias.as_ref())?;
        from.weight.copied_to(&mut self.weight)?;
        bias.map_or(Ok(()), |(to, from)| from.copied_to(to))
    }
}

impl<B: Backend, const W: usize> Module<B> for RmsNorm<B, W> {
    type Parameters = NormParameters<B, W>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        into.gamma.widened_from(&self.gamma)
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        from.gamma.narrowed_to(&mut self.gamma)
    }
}

impl<B: Backend, const W: usize> Module<B> for LayerNorm<B, W> {
    type Parameters = NormParameters<B, W>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        let beta = shifted(into.beta.as_mut())?;
        into.gamma.widened_from(&self.gamma)?;
        beta.widened_from(&self.beta)
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        let beta = shifted(from.beta.as_ref())?;
        from.gamma.narrowed_to(&mut self.gamma)?;
        beta.narrowed_to(&mut self.beta)
    }
}

impl<B, N, const IN: usize, const OUT: usize> Module<B> for LayerNormLinear<B, N, IN, OUT>
where
    B: Backend,
    N: Norm<B, IN> + Module<B>,
{
    type Parameters = NormLinearParameters<N::Parameters, LinearParameters<B, IN, OUT>>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        self.norm.read(&mut into.norm)?;
        self.linear.read(&mut into.linear)
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        self.norm.assign(&from.norm)?;
        self.linear.assign(&from.linear)
    }
}

impl<B: Backend, const W: usize, const RANK: usize> Module<B> for GatedRmsNorm<B, W, RANK> {
    type Parameters = GatedNormParameters<B, W, RANK>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        self.norm.read(&mut into.norm)?;
        self.down.read(&mut into.down)?;
        self.up.read(&mut into.up)
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        self.norm.assign(&from.norm)?;
        self.down.assign(&from.down)?;
        self.up.assign(&from.up)
    }
}

impl<B: Backend, const H: usize> Module<B> for Sinks<B, H> {
    type Parameters = SinkParameters<B, H>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        into.logits.copied_from(&self.logits)
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        from.logits.copied_to(&mut self.logits)
    }
}

/// Its factors are host values that an element can hold.
impl<B: Backend, const H: usize> Module<B> for LogPositionScale<B, H> {
    type Parameters = LogPositionParameters<B, H>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        for (to, from) in [(&mut into.scale, &self.scale), (&mut into.bias, &self.bias)] {
            B::Parameters::on_host(&to.device, [&mut to.values], [], |[to], []| {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = Accum::<B>::from_f64(from);
                }
            })?;
        }
        Ok(())
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        for (to, from) in [(&mut self.scale, &from.scale), (&mut self.bias, &from.bias)] {
            for (to, from) in to.iter_mut().zip(from.to_vec()?) {
                *to = B::Elem::from_f64(from.to_f64()).to_f64();
            }
        }
        Ok(())
    }
}

impl<B, const IN: usize, const W: usize, const POOL: usize> Module<B> for KeyPools<B, IN, W, POOL>
where
    B: Backend,
{
    type Parameters = KeyPoolParameters<B, IN, W, POOL>;

    fn read(&self, into: &mut Self::Parameters) -> Result<()> {
        self.gate.read(&mut into.gate)?;
        into.positions.widened_from(&self.positions)
    }

    fn assign(&mut self, from: &Self::Parameters) -> Result<()> {
        self.gate.assign(&from.gate)?;
        from.positions.narrowed_to(&mut self.positions)
    }
}
