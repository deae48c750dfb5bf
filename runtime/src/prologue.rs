//! What stands between the down projections and attention over a latent cache, said before it is computed, so that a device may do all of it in
//! one pass over rows: [`LatentCache::prologue`](crate::LatentCache::prologue) and
//! [`IndexedCache::prologue`](crate::IndexedCache::prologue).
//!
//! Where a device has no such pass, each op is computed by itself. Both ways compute the same numbers.

use std::marker::PhantomData;

use crate::backend::{Backend, Rotation, Strided};
use crate::error::Result;
use crate::heads::Heads;
use crate::indexer::IndexQueries;
use crate::rotary::{Angles, RopeKey, RopeLayout, Rotary};
use crate::rows::{Rows, RowsView};

/// The norm of some rows, `[rows, W]`, not yet computed.
#[derive(Debug)]
pub struct Normed<'a, B: Backend, const W: usize> {
    pub(crate) device: &'a B::Device,
    pub(crate) rows: NormedRows<'a, B>,
}

/// The rotation of the keys' shared part, `[rows, R]`, not yet computed; the result is in layout `L`.
#[derive(Debug)]
pub struct RotatedKey<'a, B: Backend, L: RopeLayout, const R: usize> {
    pub(crate) x: Strided<'a, B, B::Elem>,
    pub(crate) rotation: Rotation<'a, B>,
    /// Rows that there are angles for.
    pub(crate) angles: usize,
    pub(crate) layout: PhantomData<L>,
}

/// An indexer's keys, `[rows, W]`, not yet computed: normed, and a part of them rotated.
#[derive(Debug)]
pub struct IndexKey<'a, B: Backend, const W: usize> {
    pub(crate) normed: Normed<'a, B, W>,
    pub(crate) rotation: Rotation<'a, B>,
    /// Rows that there are angles for.
    pub(crate) angles: usize,
    pub(crate) transformed: bool,
}

/// Rows, and what they are normed by.
#[derive(Debug)]
pub struct NormedRows<'a, B: Backend> {
    /// `[rows, 1, W]`.
    pub x: Strided<'a, B, B::Elem>,
    /// The weight.
    pub gamma: &'a B::Buffer<B::Elem>,
    /// The bias of a LayerNorm; `None`: an RMSNorm.
    pub beta: Option<&'a B::Buffer<B::Elem>>,
    /// ε.
    pub eps: f64,
}

impl<'a, B: Backend, const W: usize> Normed<'a, B, W> {
    pub(crate) fn rows(&self) -> usize {
        self.rows.x.rows
    }

    /// Computes it.
    pub(crate) fn compute(&self) -> Result<Rows<B, W>> {
        Ok(Rows {
            device: self.device.clone(),
            buffer: self.rows.compute(self.device)?,
            rows: self.rows(),
        })
    }
}

impl<B: Backend> NormedRows<'_, B> {
    fn compute(&self, device: &B::Device) -> Result<B::Buffer<B::Elem>> {
        match self.beta {
            None => B::rms_norm(device, self.x, Some(self.gamma), self.eps),
            Some(beta) => B::layer_norm(device, self.x, self.gamma, beta, self.eps),
        }
    }
}

impl<B: Backend, L: RopeLayout, const R: usize> RotatedKey<'_, B, L, R> {
    pub(crate) fn compute(&self, device: &B::Device) -> Result<RopeKey<B, L, R>> {
        let mut buffer = B::copy(device, self.x)?;
        B::rotate(device, &mut buffer, 1, R, &self.rotation)?;
        Ok(RopeKey::tagged(Rows {
            device: device.clone(),
            buffer,
            rows: self.x.rows,
        }))
    }
}

impl<'a, B: Backend, const W: usize> IndexKey<'a, B, W> {
    pub(crate) fn new(normed: Normed<'a, B, W>, rotation: Rotation<'a, B>, angles: usize) -> Self {
        Self {
            normed,
            rotation,
            angles,
            transformed: false,
        }
    }

    /// The same, times the normalised Hadamard matrix.
    #[must_use]
    pub fn transformed(self) -> Self {
        const {
            assert!(
                W.is_power_of_two(),
                "the Hadamard matrix is of powers of two"
            )
        };
        Self {
            transformed: true,
            ..self
        }
    }

    pub(crate) fn compute(&self) -> Result<Rows<B, W>> {
        let device = self.normed.device;
        let mut rows = self.normed.compute()?;
        B::rotate(device, &mut rows.buffer, 1, W, &self.rotation)?;
        if self.transformed {
            B::hadamard(device, &mut rows.buffer, W)?;
        }
        Ok(rows)
    }
}

/// What becomes of queries on the way: the norm of their latent, or nothing.
pub trait PrologueQueries<'a, B: Backend> {
    /// What comes of them.
    type Out;

    /// The rows to be normed, if there are any.
    #[doc(hidden)]
    fn rows(&self) -> Option<&NormedRows<'a, B>>;

    /// What a device has made of them.
    #[doc(hidden)]
    fn made(self, normed: Option<B::Buffer<B::Elem>>) -> Result<Self::Out>;
}

impl<'a, B: Backend, const W: usize> PrologueQueries<'a, B> for Normed<'a, B, W> {
    type Out = Rows<B, W>;

    fn rows(&self) -> Option<&NormedRows<'a, B>> {
        Some(&self.rows)
    }

    fn made(self, normed: Option<B::Buffer<B::Elem>>) -> Result<Rows<B, W>> {
        match normed {
            None => self.compute(),
            Some(buffer) => Ok(Rows {
                device: self.device.clone(),
                buffer,
                rows: self.rows(),
            }),
        }
    }
}

impl<'a, B: Backend> PrologueQueries<'a, B> for () {
    type Out = ();

    fn rows(&self) -> Option<&NormedRows<'a, B>> {
        None
    }

    fn made(self, _: Option<B::Buffer<B::Elem>>) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend, In: RopeLayout, Out: RopeLayout, const R: usize> Rotary<B, In, Out, R> {
    /// [`Rotary::key`], not yet computed.
    pub fn key_of<'a>(
        &self,
        k: impl Into<RowsView<'a, B, R>>,
        angles: &'a Angles<B, R>,
    ) -> RotatedKey<'a, B, Out, R> {
        RotatedKey {
            x: k.into().strided(),
            rotation: Self::rotation(0, angles),
            angles: angles.rows,
            layout: PhantomData,
        }
    }

    /// [`Rotary::rows_first`] of an indexer's keys, not yet computed.
    pub fn first_of<'a, const W: usize>(
        &self,
        normed: Normed<'a, B, W>,
        angles: &'a Angles<B, R>,
    ) -> IndexKey<'a, B, W> {
        const { assert!(R <= W, "the rotated part is wider than the row") };
        IndexKey::new(normed, Self::rotation(0, angles), angles.rows)
    }

    /// [`Rotary::rows_last`] of an indexer's keys, not yet computed.
    pub fn last_of<'a, const W: usize>(
        &self,
        normed: Normed<'a, B, W>,
        angles: &'a Angles<B, R>,
    ) -> IndexKey<'a, B, W> {
        const { assert!(R <= W, "the rotated part is wider than the row") };
        IndexKey::new(normed, Self::rotation(W - R, angles), angles.rows)
    }

    /// [`Rotary::heads_first`] of an indexer's queries, not yet computed.
    pub fn heads_first_of<'a, const H: usize, const W: usize>(
        &self,
        q: &'a Heads<B, H, W>,
        angles: &'a Angles<B, R>,
    ) -> IndexQueries<'a, B, H, W> {
        const { assert!(R <= W, "the rotated part is wider than the head") };
        IndexQueries::rotated(q, Self::rotation(0, angles), angles.rows)
    }

    /// [`Rotary::heads`] of an indexer's queries, not yet computed.
    pub fn heads_of<'a, const H: usize, const W: usize>(
        &self,
        q: &'a Heads<B, H, W>,
        angles: &'a Angles<B, R>,
    ) -> IndexQueries<'a, B, H, W> {
        const { assert!(R <= W, "the rotated part is wider than the head") };
        IndexQueries::rotated(q, Self::rotation(W - R, angles), angles.rows)
    }
}
