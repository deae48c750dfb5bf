//! Caches behind [`KvCache`].

use super::format::{CacheFormat, Filling};
use super::latent::LatentCache;
use super::layout::CacheLayout;
use super::naive::NaiveCache;
use crate::backend::Backend;
use crate::batch::Batch;
use crate::element::Scalar;
use crate::error::{Result, product};
use crate::layer::KvCache;
use crate::rotary::RopeLayout;

impl<B: Backend, F: CacheFormat, L: RopeLayout, P: CacheLayout, const C: usize, const R: usize>
    KvCache<B> for LatentCache<B, F, L, P, C, R>
{
    type Format = F;
    type IndexFormat = F;
    const PAGE_SIZE: Option<usize> = P::PAGE;
    const ELEMENTS_PER_TOKEN: usize = C + R;

    fn bytes_per_token() -> usize {
        F::bytes_per_token(C, R)
    }

    fn with_blocks(device: &B::Device, blocks: usize, tokens_per_block: usize) -> Result<Self> {
        Self::with_blocks(device, blocks, P::PAGE.unwrap_or(tokens_per_block))
    }

    fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        Self::check(self, batch, rows)
    }

    fn fill_with(&mut self, with: Filling) -> Result<()> {
        self.entries.fill(with)
    }

    fn latent_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        let (latent, k_rope) = self.entries(blocks, tokens)?;
        let widened = |values: Vec<B::Elem>| values.into_iter().map(Scalar::to_f64).collect();
        Ok(Some((widened(latent.to_vec()?), widened(k_rope.to_vec()?))))
    }
}

impl<
    B: Backend,
    F: CacheFormat,
    L: RopeLayout,
    P: CacheLayout,
    const G: usize,
    const QK: usize,
    const V: usize,
> KvCache<B> for NaiveCache<B, F, L, P, G, QK, V>
{
    type Format = F;
    type IndexFormat = F;
    const PAGE_SIZE: Option<usize> = P::PAGE;
    const ELEMENTS_PER_TOKEN: usize = G * (QK + V);

    fn bytes_per_token() -> usize {
        G * F::bytes_per_token(QK, V)
    }

    fn with_blocks(device: &B::Device, blocks: usize, tokens_per_block: usize) -> Result<Self> {
        Self::with_blocks(device, blocks, P::PAGE.unwrap_or(tokens_per_block))
    }

    fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        Self::check(self, batch, rows)
    }

    fn fill_with(&mut self, with: Filling) -> Result<()> {
        let slots = self.geometry.slots();
        let keys = product("a cache of keys", &[slots, G, QK])?;
        let values = product("a cache of values", &[slots, G, V])?;
        let keys = with.values::<B, F::Element>(&self.device, keys)?;
        self.values = with.values::<B, F::Element>(&self.device, values)?;
        self.keys = keys;
        Ok(())
    }

    /// A naive cache holds no latents.
    fn latent_rows(&self, _blocks: &[u32], _tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        Ok(None)
    }
}
