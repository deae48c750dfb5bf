//! Attention sinks: one more logit per head, with no value behind it.

use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count};
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
}
