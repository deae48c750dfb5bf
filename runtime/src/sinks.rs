//! Attention sinks: one more logit per head, with no value behind it.

use crate::attended::PerHead;
use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count};
use crate::heads::Heads;
use crate::parameters::SinkParameters;
use crate::weights::Selected;

/// Learned sink logits, one per head, in the accumulation type (features F-07).
#[derive(Debug)]
pub struct Sinks<B: Backend, const H: usize> {
    pub(crate) logits: B::Buffer<Accum<B>>,
}

impl<B: Backend, const H: usize> Sinks<B, H> {
    /// Loads the tensor `name`.
    ///
    /// # Errors
    /// When it is unreadable or not `[H]`.
    pub fn load(weights: &Selected<'_>, name: &str, device: &B::Device) -> Result<Self> {
        let (shape, values) = weights.read::<Accum<B>>(name)?;
        if shape != [H] || values.len() != H {
            return Err(Error::shape(name, &shape, &[H]));
        }
        Ok(Self {
            logits: B::upload(device, values)?,
        })
    }

    /// The sinks of these logits.
    ///
    /// # Errors
    /// When there is not one per head.
    pub fn from_f64(device: &B::Device, logits: &[f64]) -> Result<Self> {
        expect_count("sinks", logits.len(), H)?;
        let logits = logits.iter().map(|&logit| Scalar::from_f64(logit));
        Ok(Self {
            logits: B::upload(device, logits.collect())?,
        })
    }

    /// Adds the gradient of the sinks, `-Σ e^(sink - lse) (d_out · out)` over the rows, to `gradient`. `out` and `lse` are those after
    /// the sinks took their share.
    ///
    /// # Errors
    /// When the three have different numbers of rows, or the device refuses.
    pub fn backward<const D: usize>(
        &self,
        out: &Heads<B, H, D>,
        lse: &PerHead<B, H>,
        d_out: &Heads<B, H, D>,
        gradient: &mut SinkParameters<B, H>,
    ) -> Result<()> {
        expect_count("rows of attention's log-sum-exp", lse.rows(), out.rows())?;
        expect_count("rows of the output's gradient", d_out.rows(), out.rows())?;
        let (out, d_out) = (out.view(), d_out.view());
        B::sink_backward(
            out.device,
            &self.logits,
            out.strided(),
            &lse.buffer,
            d_out.strided(),
            &mut gradient.logits.values,
        )
    }
}
