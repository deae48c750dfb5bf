//! Latents and rotated keys on their way from the layer that computes them to those that attend to the same (features S-01, S-16).

use crate::backend::Backend;
use crate::error::{Error, Result, expect_count};
use crate::extras::FromHost;
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::{Rows, RowsView};

/// Room for the latents `[rows, C]` and the rotated keys `[rows, R]` of whole sequences. Layers with a cache share that instead.
#[derive(Debug)]
pub struct SharedKv<B: Backend, L: RopeLayout, const C: usize, const R: usize> {
    kv: Option<(Rows<B, C>, RopeKey<B, L, R>)>,
}

impl<B: Backend, L: RopeLayout, const C: usize, const R: usize> SharedKv<B, L, C, R> {
    /// Nothing there yet.
    pub const fn new() -> Self {
        Self { kv: None }
    }

    /// Hands over a copy of normalised latents and rotated keys; what is there already is dropped.
    ///
    /// # Errors
    /// When the two have different numbers of rows, or the device refuses the copy.
    pub fn set<'a>(
        &mut self,
        latent: impl Into<RowsView<'a, B, C>>,
        k_rope: &RopeKey<B, L, R>,
    ) -> Result<()>
    where
        B: 'a,
    {
        let latent = latent.into();
        expect_count("rows of rotated keys", k_rope.rows(), latent.rows())?;
        let k_rope = RopeKey::tagged(k_rope.view().to_rows()?);
        self.kv = Some((latent.to_rows()?, k_rope));
        Ok(())
    }

    /// The latents and rotated keys of `rows` rows.
    ///
    /// # Errors
    /// When there are none, or of another number of rows.
    pub fn get(&self, rows: usize) -> Result<(&Rows<B, C>, &RopeKey<B, L, R>)> {
        let (latent, k_rope) = self.kv.as_ref().ok_or_else(|| {
            Error::BadCache("no layer before this one has handed over its latents".to_owned())
        })?;
        expect_count("rows of shared latents", latent.rows(), rows)?;
        Ok((latent, k_rope))
    }
}

impl<B: Backend, L: RopeLayout, const C: usize, const R: usize> Default for SharedKv<B, L, C, R> {
    fn default() -> Self {
        Self::new()
    }
}

/// The gradients of what one layer handed to others: of latents `[rows, C]` and of rotated keys `[rows, R]`, summed over these.
#[derive(Debug)]
pub struct SharedKvGradients<B: Backend, const C: usize, const R: usize> {
    latent: Rows<B, C>,
    k_rope: Rows<B, R>,
}

impl<B: Backend, const C: usize, const R: usize> SharedKvGradients<B, C, R> {
    /// The gradients that one layer's backward pass returned.
    ///
    /// # Errors
    /// When the two have different numbers of rows.
    pub fn new(latent: Rows<B, C>, k_rope: Rows<B, R>) -> Result<Self> {
        expect_count(
            "rows of rotated keys' gradients",
            k_rope.rows(),
            latent.rows(),
        )?;
        Ok(Self { latent, k_rope })
    }

    /// Adds those of another layer.
    ///
    /// # Errors
    /// When it has another number of rows, or the device refuses.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.latent.add(&other.latent)?;
        self.k_rope.add(&other.k_rope)
    }

    /// Both, borrowed.
    pub fn views(&self) -> (RowsView<'_, B, C>, RowsView<'_, B, R>) {
        (self.latent.view(), self.k_rope.view())
    }
}

/// Latents `[rows, r_kv]` and rotated keys `[rows, d_r]` on the host, the keys in the layout of the layer that reads them.
#[derive(Debug, Clone)]
pub struct HostKv<B: Backend> {
    /// Where they go.
    pub device: B::Device,
    /// Latents, row by row.
    pub latent: Vec<B::Elem>,
    /// Rotated keys, row by row.
    pub k_rope: Vec<B::Elem>,
    /// How many rows.
    pub rows: usize,
}

impl<B: Backend, L: RopeLayout, const C: usize, const R: usize> FromHost for SharedKv<B, L, C, R> {
    type Host = HostKv<B>;

    fn from_host(host: &HostKv<B>) -> Result<Self> {
        let latent = Rows::<B, C>::from_vec(&host.device, host.latent.clone())?;
        expect_count("rows of shared latents", latent.rows(), host.rows)?;
        let k_rope = if R == 0 {
            latent.columns::<0, R>().to_rows()?
        } else {
            Rows::from_vec(&host.device, host.k_rope.clone())?
        };
        let mut shared = Self::new();
        shared.set(&latent, &RopeKey::tagged(k_rope))?;
        Ok(shared)
    }
}
