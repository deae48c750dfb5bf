//! The result of attention, and how two results over different keys become one.

use crate::backend::{Accum, AttentionParts, Backend, Parts, PartsMut};
use crate::error::{Result, expect_count, finite};
use crate::heads::Heads;

/// A `[rows, H]` tensor in the accumulation type.
#[derive(Debug)]
pub struct PerHead<B: Backend, const H: usize> {
    pub(crate) device: B::Device,
    pub(crate) buffer: B::Buffer<Accum<B>>,
    pub(crate) rows: usize,
}

impl<B: Backend, const H: usize> PerHead<B, H> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Every value times `by`.
    ///
    /// # Errors
    /// When `by` is not finite, or the device refuses.
    pub fn scaled(mut self, by: f64) -> Result<Self> {
        B::scale_accum(&self.device, &mut self.buffer, finite("a factor", by)?)?;
        Ok(self)
    }

    /// The values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<Accum<B>>> {
        B::download(&self.device, &self.buffer)
    }
}

/// Attention's output `[rows, H, D]` with what merging and QK-clip need.
#[derive(Debug)]
pub struct Attended<B: Backend, const H: usize, const D: usize> {
    out: Heads<B, H, D>,
    lse: PerHead<B, H>,
    max_logit: PerHead<B, H>,
}

impl<B: Backend, const H: usize, const D: usize> Attended<B, H, D> {
    pub(crate) fn new(device: &B::Device, rows: usize, parts: AttentionParts<B>) -> Self {
        Self {
            out: Heads {
                device: device.clone(),
                buffer: parts.out,
                rows,
            },
            lse: PerHead {
                device: device.clone(),
                buffer: parts.lse,
                rows,
            },
            max_logit: PerHead {
                device: device.clone(),
                buffer: parts.max_logit,
                rows,
            },
        }
    }

    /// The output, normalised; zeros in rows that see nothing.
    pub fn out(&self) -> &Heads<B, H, D> {
        &self.out
    }

    /// The output, normalised; zeros in rows that see nothing.
    pub fn into_out(self) -> Heads<B, H, D> {
        self.out
    }

    /// Natural logarithm of the sum of `e^logit` over what a row sees; -∞ where it sees nothing.
    pub fn lse(&self) -> &PerHead<B, H> {
        &self.lse
    }

    /// Largest scaled logit among what a row sees; -∞ where it sees nothing.
    pub fn max_logit(&self) -> &PerHead<B, H> {
        &self.max_logit
    }

    /// Joins the result over other keys: with `l = ln(e^l₁ + e^l₂)`, `o = e^(l₁ - l) o₁ + e^(l₂ - l) o₂` (features I-05). The pair (0, -∞)
    /// is the identity element, to the bit.
    ///
    /// # Errors
    /// When `other` has another number of rows.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        expect_count("rows of a merged attention", other.out.rows, self.out.rows)?;
        let into = PartsMut {
            out: &mut self.out.buffer,
            lse: &mut self.lse.buffer,
            max_logit: &mut self.max_logit.buffer,
        };
        let from = Parts {
            out: &other.out.buffer,
            lse: &other.lse.buffer,
            max_logit: &other.max_logit.buffer,
        };
        B::merge(&self.out.device, into, from, D)
    }
}
