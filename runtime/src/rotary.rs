//! Rotary position embeddings, with the layout of pairs in the type.

use std::fmt::Debug;
use std::marker::PhantomData;

use crate::backend::{Accum, Backend, Rotation};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, product};
use crate::heads::Heads;
use crate::rows::{Rows, RowsView};

/// Where the two halves of a rotated pair stand. A tag: two layouts never mix by accident.
pub trait RopeLayout: Debug + Send + Sync + 'static {
    /// Pairs are (i, i + R/2), not (2i, 2i + 1).
    const HALF: bool;
}

/// Pairs (2i, 2i + 1).
#[derive(Debug, Clone, Copy)]
pub struct Interleaved;
/// Pairs (i, i + R/2).
#[derive(Debug, Clone, Copy)]
pub struct Half;
/// Not rotated.
#[derive(Debug, Clone, Copy)]
pub struct Unrotated;

impl RopeLayout for Interleaved {
    const HALF: bool = false;
}
impl RopeLayout for Half {
    const HALF: bool = true;
}
impl RopeLayout for Unrotated {
    const HALF: bool = false;
}

/// Rotates pairs stored as `In` by position times frequency and stores them as `Out`.
#[derive(Debug)]
pub struct Rotary<B: Backend, In: RopeLayout, Out: RopeLayout, const R: usize> {
    device: B::Device,
    inv_freq: Vec<f64>,
    factor: f64,
    layouts: PhantomData<(In, Out)>,
}

/// Cosines and sines at a batch's positions, `[rows, R/2]` each.
#[derive(Debug)]
pub struct Angles<B: Backend, const R: usize> {
    cos: B::Buffer<Accum<B>>,
    sin: B::Buffer<Accum<B>>,
    rows: usize,
}

/// The position part of the keys, `[rows, R]`, shared by all heads, tagged with the layout it is stored in.
#[derive(Debug)]
pub struct RopeKey<B: Backend, L: RopeLayout, const R: usize> {
    values: Rows<B, R>,
    layout: PhantomData<L>,
}

impl<B: Backend, In: RopeLayout, Out: RopeLayout, const R: usize> Rotary<B, In, Out, R> {
    /// Frequencies in radians per position, `R/2` of them, and what cosines and sines are multiplied by.
    ///
    /// # Errors
    /// When there are not `R/2` frequencies, or one or the factor is not finite.
    pub fn new(device: &B::Device, inv_freq: &[f64], factor: f64) -> Result<Self> {
        const { assert!(R.is_multiple_of(2), "rotated widths are even") };
        expect_count("rope frequencies", inv_freq.len(), R / 2)?;
        if !factor.is_finite() || inv_freq.iter().any(|frequency| !frequency.is_finite()) {
            return Err(Error::BadConstant(
                "rope frequencies and their factor have to be finite".to_owned(),
            ));
        }
        Ok(Self {
            device: device.clone(),
            inv_freq: inv_freq.to_vec(),
            factor,
            layouts: PhantomData,
        })
    }

    /// `cos(p · f)` and `sin(p · f)` times the factor, computed in `f64` and rounded once, so that far positions stay exact.
    ///
    /// # Errors
    /// When the device refuses the tables.
    pub fn angles(&self, positions: &[u32]) -> Result<Angles<B, R>> {
        let len = product("rope tables", &[positions.len(), R / 2])?;
        let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
        for &position in positions {
            for frequency in &self.inv_freq {
                let (s, c) = (f64::from(position) * frequency).sin_cos();
                cos.push(Scalar::from_f64(c * self.factor));
                sin.push(Scalar::from_f64(s * self.factor));
            }
        }
        let (cos, sin) = (B::upload(&self.device, cos)?, B::upload(&self.device, sin)?);
        Ok(Angles {
            cos,
            sin,
            rows: positions.len(),
        })
    }

    /// Rotates the last `R` of each head's `QK` values.
    ///
    /// # Errors
    /// When there is not one position per row.
    pub fn heads<const H: usize, const QK: usize>(
        &self,
        mut q: Heads<B, H, QK>,
        angles: &Angles<B, R>,
    ) -> Result<Heads<B, H, QK>> {
        const { assert!(R <= QK, "the rotated part is wider than the head") };
        expect_count("positions", angles.rows, q.rows)?;
        B::rotate(&self.device, &mut q.buffer, H, QK, &Self::rotation(angles))?;
        Ok(q)
    }

    /// The rotated key part.
    ///
    /// # Errors
    /// When there is not one position per row.
    pub fn key<'a>(
        &self,
        k: impl Into<RowsView<'a, B, R>>,
        angles: &Angles<B, R>,
    ) -> Result<RopeKey<B, Out, R>>
    where
        B: 'a,
    {
        let k = k.into();
        expect_count("positions", angles.rows, k.rows())?;
        let mut values = k.to_rows()?;
        B::rotate(
            &self.device,
            &mut values.buffer,
            1,
            R,
            &Self::rotation(angles),
        )?;
        Ok(RopeKey {
            values,
            layout: PhantomData,
        })
    }

    fn rotation(angles: &Angles<B, R>) -> Rotation<'_, B> {
        Rotation {
            cos: &angles.cos,
            sin: &angles.sin,
            pairs: R / 2,
            half_in: In::HALF,
            half_out: Out::HALF,
        }
    }
}

impl<B: Backend, const R: usize> RopeKey<B, Unrotated, R> {
    /// A key part that no position enters (NoPE), as it is.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn unrotated<'a>(k: impl Into<RowsView<'a, B, R>>) -> Result<Self>
    where
        B: 'a,
    {
        Ok(Self {
            values: k.into().to_rows()?,
            layout: PhantomData,
        })
    }
}

impl<B: Backend> RopeKey<B, Unrotated, 0> {
    /// No position part at all.
    ///
    /// # Errors
    /// When the device refuses an empty buffer.
    pub fn absent(device: &B::Device, rows: usize) -> Result<Self> {
        let values = Rows {
            device: device.clone(),
            buffer: B::zeros(device, 0)?,
            rows,
        };
        Ok(Self {
            values,
            layout: PhantomData,
        })
    }
}

impl<B: Backend, L: RopeLayout, const R: usize> RopeKey<B, L, R> {
    /// Trusts that `values` are in layout `L`: what a cache tagged `L` gave back.
    pub(crate) fn tagged(values: Rows<B, R>) -> Self {
        Self {
            values,
            layout: PhantomData,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.rows
    }

    /// The values.
    pub fn view(&self) -> RowsView<'_, B, R> {
        self.values.view()
    }

    /// The values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<B::Elem>> {
        self.values.to_vec()
    }
}
