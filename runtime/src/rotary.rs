//! Rotary position embeddings, with the layout of pairs in the type.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use crate::backend::{Accum, Backend, Rotation};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, finite, product};
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
    frequencies: Frequencies,
    factor: f64,
    layouts: PhantomData<(In, Out)>,
}

/// Radians per position of each pair, perhaps chosen by how far a call's positions reach (features D-01).
#[derive(Debug)]
enum Frequencies {
    Fixed(Vec<f64>),
    /// `long` for the whole call once its longest position + 1 exceeds `original`.
    ByLength {
        short: Vec<f64>,
        long: Vec<f64>,
        original: u32,
    },
    /// Powers of a base that grows once the call's longest position + 1 exceeds `max`.
    Dynamic {
        theta: f64,
        factor: f64,
        max: u32,
    },
}

impl Frequencies {
    /// The frequencies of a call whose longest position + 1 is `length`.
    fn at(&self, length: u64, pairs: usize) -> Cow<'_, [f64]> {
        match self {
            Self::Fixed(frequencies) => Cow::Borrowed(frequencies),
            Self::ByLength {
                short,
                long,
                original,
            } => Cow::Borrowed(if length > u64::from(*original) {
                long
            } else {
                short
            }),
            &Self::Dynamic { theta, factor, max } => {
                Cow::Owned(dynamic(theta, factor, u64::from(max), length, pairs))
            }
        }
    }
}

/// `b^(-2i/R)` with `b = θ · (f·L/max − (f − 1))^(R/(R − 2))`, L at least `max`.
fn dynamic(theta: f64, factor: f64, max: u64, length: u64, pairs: usize) -> Vec<f64> {
    let width = 2.0 * pairs as f64;
    let stretch = factor * (length.max(max) as f64 / max as f64) - (factor - 1.0);
    let base = theta * stretch.powf(width / (width - 2.0));
    (0..pairs)
        .map(|i| base.powf(-2.0 * i as f64 / width))
        .collect()
}

/// Cosines and sines at a batch's positions, `[rows, R/2]` each.
#[derive(Debug)]
pub struct Angles<B: Backend, const R: usize> {
    cos: B::Buffer<Accum<B>>,
    sin: B::Buffer<Accum<B>>,
    pub(crate) rows: usize,
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
        checked::<R>(inv_freq)?;
        Self::with(device, Frequencies::Fixed(inv_freq.to_vec()), factor)
    }

    /// As [`Rotary::new`], with the frequencies `short` for calls whose longest position + 1 is at most
    /// `original_max_position_embeddings`, and `long` for all positions of a longer call.
    ///
    /// # Errors
    /// As [`Rotary::new`], for either list.
    pub fn longrope(
        device: &B::Device,
        short: &[f64],
        long: &[f64],
        original_max_position_embeddings: u32,
        factor: f64,
    ) -> Result<Self> {
        checked::<R>(short)?;
        checked::<R>(long)?;
        let frequencies = Frequencies::ByLength {
            short: short.to_vec(),
            long: long.to_vec(),
            original: original_max_position_embeddings,
        };
        Self::with(device, frequencies, factor)
    }

    /// Frequencies `b^(-2i/R)` of a base that grows with the call's longest position + 1, L (dynamic NTK):
    /// `b = θ · (f·L/max − (f − 1))^(R/(R − 2))`, and `b = θ` while L is at most `max_position_embeddings`. It depends on the call alone,
    /// not on calls before it.
    ///
    /// # Errors
    /// When `theta` is not a positive number, `factor` not one of at least 1, or `max_position_embeddings` is 0.
    pub fn dynamic(
        device: &B::Device,
        theta: f64,
        factor: f64,
        max_position_embeddings: u32,
    ) -> Result<Self> {
        let sound = theta > 0.0 && theta.is_finite() && factor >= 1.0 && factor.is_finite();
        if !sound || max_position_embeddings == 0 {
            return Err(Error::BadConstant(format!(
                "dynamic rope of theta {theta}, factor {factor} and {max_position_embeddings} positions, wanted a positive theta, \
                 a factor of at least 1, and positions"
            )));
        }
        let frequencies = Frequencies::Dynamic {
            theta,
            factor,
            max: max_position_embeddings,
        };
        Self::with(device, frequencies, 1.0)
    }

    fn with(device: &B::Device, frequencies: Frequencies, factor: f64) -> Result<Self> {
        const { assert!(R.is_multiple_of(2), "rotated widths are even") };
        Ok(Self {
            device: device.clone(),
            frequencies,
            factor: finite("the factor of rope", factor)?,
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
        let length = positions
            .iter()
            .max()
            .map_or(0, |&last| u64::from(last) + 1);
        let frequencies = self.frequencies.at(length, R / 2);
        for &position in positions {
            for frequency in frequencies.iter() {
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
        self.rotate(&mut q.buffer, (q.rows, H, QK), QK - R, angles)?;
        Ok(q)
    }

    /// The gradient of what [`Rotary::heads`] was given, `dq` that of its result: the rotation by the opposite angles, stored as `In`.
    ///
    /// # Errors
    /// As [`Rotary::heads`].
    pub fn heads_backward<const H: usize, const QK: usize>(
        &self,
        mut dq: Heads<B, H, QK>,
        angles: &Angles<B, R>,
    ) -> Result<Heads<B, H, QK>> {
        const { assert!(R <= QK, "the rotated part is wider than the head") };
        self.rotate_back(&mut dq.buffer, (dq.rows, H, QK), QK - R, angles)?;
        Ok(dq)
    }

    /// Rotates the first `R` of each head's `QK` values.
    ///
    /// # Errors
    /// When there is not one position per row.
    pub fn heads_first<const H: usize, const QK: usize>(
        &self,
        mut q: Heads<B, H, QK>,
        angles: &Angles<B, R>,
    ) -> Result<Heads<B, H, QK>> {
        const { assert!(R <= QK, "the rotated part is wider than the head") };
        self.rotate(&mut q.buffer, (q.rows, H, QK), 0, angles)?;
        Ok(q)
    }

    /// The gradient of what [`Rotary::heads_first`] was given.
    ///
    /// # Errors
    /// As [`Rotary::heads_first`].
    pub fn heads_first_backward<const H: usize, const QK: usize>(
        &self,
        mut dq: Heads<B, H, QK>,
        angles: &Angles<B, R>,
    ) -> Result<Heads<B, H, QK>> {
        const { assert!(R <= QK, "the rotated part is wider than the head") };
        self.rotate_back(&mut dq.buffer, (dq.rows, H, QK), 0, angles)?;
        Ok(dq)
    }

    /// Rotates the last `R` of each row's `W` values: a key that all heads share and that has other parts too.
    ///
    /// # Errors
    /// When there is not one position per row.
    pub fn rows_last<const W: usize>(
        &self,
        mut k: Rows<B, W>,
        angles: &Angles<B, R>,
    ) -> Result<Rows<B, W>> {
        const { assert!(R <= W, "the rotated part is wider than the row") };
        self.rotate(&mut k.buffer, (k.rows, 1, W), W - R, angles)?;
        Ok(k)
    }

    /// The gradient of what [`Rotary::rows_last`] was given.
    ///
    /// # Errors
    /// As [`Rotary::rows_last`].
    pub fn rows_last_backward<const W: usize>(
        &self,
        mut dk: Rows<B, W>,
        angles: &Angles<B, R>,
    ) -> Result<Rows<B, W>> {
        const { assert!(R <= W, "the rotated part is wider than the row") };
        self.rotate_back(&mut dk.buffer, (dk.rows, 1, W), W - R, angles)?;
        Ok(dk)
    }

    /// Rotates the first `R` of each row's `W` values.
    ///
    /// # Errors
    /// When there is not one position per row.
    pub fn rows_first<const W: usize>(
        &self,
        mut k: Rows<B, W>,
        angles: &Angles<B, R>,
    ) -> Result<Rows<B, W>> {
        const { assert!(R <= W, "the rotated part is wider than the row") };
        self.rotate(&mut k.buffer, (k.rows, 1, W), 0, angles)?;
        Ok(k)
    }

    /// The gradient of what [`Rotary::rows_first`] was given.
    ///
    /// # Errors
    /// As [`Rotary::rows_first`].
    pub fn rows_first_backward<const W: usize>(
        &self,
        mut dk: Rows<B, W>,
        angles: &Angles<B, R>,
    ) -> Result<Rows<B, W>> {
        const { assert!(R <= W, "the rotated part is wider than the row") };
        self.rotate_back(&mut dk.buffer, (dk.rows, 1, W), 0, angles)?;
        Ok(dk)
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
        let values = self.rows_last(k.into().to_rows()?, angles)?;
        Ok(RopeKey {
            values,
            layout: PhantomData,
        })
    }

    /// The gradient of what [`Rotary::key`] was given.
    ///
    /// # Errors
    /// As [`Rotary::key`].
    pub fn key_backward(&self, dk: Rows<B, R>, angles: &Angles<B, R>) -> Result<Rows<B, R>> {
        self.rows_last_backward(dk, angles)
    }

    /// How `R` values from `start` on are rotated.
    pub(crate) fn rotation<'a>(start: usize, angles: &'a Angles<B, R>) -> Rotation<'a, B> {
        Rotation {
            cos: &angles.cos,
            sin: &angles.sin,
            pairs: R / 2,
            start,
            half_in: In::HALF,
            half_out: Out::HALF,
            backward: false,
        }
    }

    /// Rotates `R` values from `start` on of each head of a `[rows, heads, width]` buffer.
    fn rotate(
        &self,
        x: &mut B::Buffer<B::Elem>,
        (rows, heads, width): (usize, usize, usize),
        start: usize,
        angles: &Angles<B, R>,
    ) -> Result<()> {
        expect_count("positions", angles.rows, rows)?;
        let rotation = Self::rotation(start, angles);
        B::rotate(&self.device, x, heads, width, &rotation)
    }

    /// The transpose of [`Rotary::rotate`]: of a rotation it is the opposite one, and the factor stays.
    fn rotate_back(
        &self,
        x: &mut B::Buffer<B::Elem>,
        (rows, heads, width): (usize, usize, usize),
        start: usize,
        angles: &Angles<B, R>,
    ) -> Result<()> {
        expect_count("positions", angles.rows, rows)?;
        let rotation = Rotation {
            cos: &angles.cos,
            sin: &angles.sin,
            pairs: R / 2,
            start,
            half_in: Out::HALF,
            half_out: In::HALF,
            backward: true,
        };
        B::rotate(&self.device, x, heads, width, &rotation)
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

    pub(crate) fn into_rows(self) -> Rows<B, R> {
        self.values
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

/// Refuses frequencies that are not `R / 2` finite numbers.
fn checked<const R: usize>(frequencies: &[f64]) -> Result<()> {
    expect_count("rope frequencies", frequencies.len(), R / 2)?;
    if frequencies.iter().any(|frequency| !frequency.is_finite()) {
        return Err(Error::BadConstant(
            "rope frequencies have to be finite".to_owned(),
        ));
    }
    Ok(())
}
