//! The result of attention, and how two results over different keys become one.

use crate::backend::{Accum, AttentionParts, Backend, ParameterOps, Parts, PartsMut, Strided};
use crate::element::Scalar;
use crate::error::{Result, expect_count, finite};
use crate::heads::Heads;
use crate::rows::Rows;
use crate::sinks::Sinks;

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

    /// Adds `other`.
    ///
    /// # Errors
    /// When it has another number of rows, or the device refuses.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        expect_count("rows to be added", other.rows, self.rows)?;
        B::Parameters::add(&self.device, &mut self.buffer, &other.buffer)
    }

    /// The values rounded to the element type: the gradient of [`RowsView::to_per_head`](crate::RowsView::to_per_head).
    ///
    /// # Errors
    /// When the device refuses.
    pub fn to_rows(&self) -> Result<Rows<B, H>> {
        let copy = B::copy(&self.device, self.strided())?;
        Ok(Rows {
            device: self.device.clone(),
            buffer: B::round(&self.device, copy)?,
            rows: self.rows,
        })
    }

    /// The values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<Accum<B>>> {
        B::download(&self.device, &self.buffer)
    }

    pub(crate) fn strided(&self) -> Strided<'_, B, Accum<B>> {
        Strided {
            buffer: &self.buffer,
            offset: 0,
            rows: self.rows,
            heads: 1,
            width: H,
            row_stride: H,
            head_stride: 0,
        }
    }

    /// The largest value of each head: of largest logits, what QK-clip asks for (features N-02). -∞ where there is no row; a NaN stays one,
    /// so that it shows.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn max_over_rows(&self) -> Result<Vec<f64>> {
        let mut most = vec![f64::NEG_INFINITY; H];
        for (i, value) in self.to_vec()?.into_iter().enumerate() {
            let (most, value) = (&mut most[i % H], value.to_f64());
            if value > *most || value.is_nan() {
                *most = value;
            }
        }
        Ok(most)
    }
}

/// Attention's output `[rows, H, D]` with what merging and QK-clip need. The output stays in the accumulation type, so that any number of
/// parts can be joined and only the whole is rounded.
#[derive(Debug)]
pub struct Attended<B: Backend, const H: usize, const D: usize> {
    out: B::Buffer<Accum<B>>,
    lse: PerHead<B, H>,
    max_logit: PerHead<B, H>,
}

impl<B: Backend, const H: usize, const D: usize> Attended<B, H, D> {
    pub(crate) fn new(device: &B::Device, rows: usize, parts: AttentionParts<B>) -> Self {
        let per_head = |buffer| PerHead {
            device: device.clone(),
            buffer,
            rows,
        };
        Self {
            out: parts.out,
            lse: per_head(parts.lse),
            max_logit: per_head(parts.max_logit),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lse.rows
    }

    /// The output, normalised, rounded to the element type; zeros in rows that see nothing.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn into_out(self) -> Result<Heads<B, H, D>> {
        let PerHead { device, rows, .. } = self.lse;
        Ok(Heads {
            buffer: B::round(&device, self.out)?,
            device,
            rows,
        })
    }

    /// The output as [`Attended::into_out`] gives it, the log-sum-exp and the largest logits.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn into_parts(self) -> Result<(Heads<B, H, D>, PerHead<B, H>, PerHead<B, H>)> {
        let Self {
            out,
            lse,
            max_logit,
        } = self;
        let out = Heads {
            buffer: B::round(&lse.device, out)?,
            device: lse.device.clone(),
            rows: lse.rows,
        };
        Ok((out, lse, max_logit))
    }

    /// The output on the host, row by row and head by head, not rounded.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<Accum<B>>> {
        B::download(&self.lse.device, &self.out)
    }

    /// Natural logarithm of the sum of `e^logit` over what a row sees; -∞ where it sees nothing.
    pub fn lse(&self) -> &PerHead<B, H> {
        &self.lse
    }

    /// Largest logit among what a row sees, scaled, capped and biased as the softmax has it; -∞ where it sees nothing.
    pub fn max_logit(&self) -> &PerHead<B, H> {
        &self.max_logit
    }

    /// Joins the result over other keys: with `l = ln(e^l₁ + e^l₂)`, `o = e^(l₁ - l) o₁ + e^(l₂ - l) o₂` (features I-05). The pair (0, -∞)
    /// is the identity element, to the bit.
    ///
    /// # Errors
    /// When `other` has another number of rows.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        expect_count("rows of a merged attention", other.rows(), self.rows())?;
        let into = PartsMut {
            out: &mut self.out,
            lse: &mut self.lse.buffer,
            max_logit: &mut self.max_logit.buffer,
        };
        let from = Parts {
            out: &other.out,
            lse: &other.lse.buffer,
            max_logit: &other.max_logit.buffer,
        };
        B::merge(&self.lse.device, into, from, D)
    }

    /// Lets each head's sink take its share of the softmax: `o · sigmoid(lse - sink)`, which is `Σ e^s v / (Σ e^s + e^sink)` (features
    /// F-07). The log-sum-exp becomes that of keys and sink, so sinks come after all merging, once; the largest logit stays a key's.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn with_sinks(self, sinks: &Sinks<B, H>) -> Result<Self> {
        self.sunk(Some(&sinks.logits))
    }

    /// [`Attended::with_sinks`] with all sinks 0: `Σ e^s v / (Σ e^s + 1)`, the off-by-one softmax.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn off_by_one(self) -> Result<Self> {
        self.sunk(None)
    }

    fn sunk(mut self, sinks: Option<&B::Buffer<Accum<B>>>) -> Result<Self> {
        let lse = &mut self.lse;
        B::sink(&lse.device, &mut self.out, &mut lse.buffer, sinks, D)?;
        Ok(self)
    }
}
