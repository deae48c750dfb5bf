//! Two caches of one layer, the indexer's beside the keys and values, and no cache at all.

use std::fmt::Debug;

use super::format::{CacheFormat, Filling};
use super::index::IndexCache;
use super::layout::CacheLayout;
use crate::backend::Backend;
use crate::batch::Batch;
use crate::element::Scalar;
use crate::error::Result;
use crate::layer::KvCache;

/// A cache of index keys, of whatever kind: it is a [`KvCache`] whose format is the index keys'.
pub trait IndexStore<B: Backend>: KvCache<B> {}

impl<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize> IndexStore<B>
    for IndexCache<B, F, P, DI>
{
}

/// Keys and values, and the indexer's keys of the same tokens in the same blocks.
#[derive(Debug)]
pub struct IndexedCache<KV, INDEX> {
    /// What attention reads.
    pub kv: KV,
    /// What the indexer reads.
    pub index: INDEX,
}

impl<KV, INDEX> IndexedCache<KV, INDEX> {
    /// Two caches of equally many blocks.
    pub const fn new(kv: KV, index: INDEX) -> Self {
        Self { kv, index }
    }

    /// Whether a batch with `rows` input rows can be written to both caches and read.
    ///
    /// # Errors
    /// When it does not fit one of them.
    pub fn check<B: Backend>(&self, batch: &Batch, rows: usize) -> Result<()>
    where
        KV: KvCache<B>,
        INDEX: IndexStore<B>,
    {
        self.kv.check(batch, rows)?;
        self.index.check(batch, rows)
    }
}

impl<B: Backend, KV: KvCache<B>, INDEX: IndexStore<B>> KvCache<B> for IndexedCache<KV, INDEX> {
    type Format = KV::Format;
    type IndexFormat = INDEX::Format;
    const PAGE_SIZE: Option<usize> = KV::PAGE_SIZE;
    const ELEMENTS_PER_TOKEN: usize = KV::ELEMENTS_PER_TOKEN + INDEX::ELEMENTS_PER_TOKEN;

    fn bytes_per_token() -> usize {
        KV::bytes_per_token() + INDEX::bytes_per_token()
    }

    fn with_blocks(device: &B::Device, blocks: usize, tokens_per_block: usize) -> Result<Self> {
        Ok(Self {
            kv: KV::with_blocks(device, blocks, tokens_per_block)?,
            index: INDEX::with_blocks(device, blocks, tokens_per_block)?,
        })
    }

    fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        Self::check::<B>(self, batch, rows)
    }

    fn fill_with(&mut self, with: Filling) -> Result<()> {
        self.kv.fill_with(with)?;
        self.index.fill_with(with)
    }

    fn latent_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        self.kv.latent_rows(blocks, tokens)
    }

    fn index_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<Vec<f64>>> {
        self.index.index_rows(blocks, tokens)
    }
}

/// An indexer's cache alone is that of a layer that attends to another layer's latents.
impl<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize> KvCache<B>
    for IndexCache<B, F, P, DI>
{
    type Format = F;
    type IndexFormat = F;
    const PAGE_SIZE: Option<usize> = P::PAGE;
    const ELEMENTS_PER_TOKEN: usize = DI;

    fn bytes_per_token() -> usize {
        F::bytes_per_token(DI, 0)
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

    fn latent_rows(&self, _blocks: &[u32], _tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        Ok(None)
    }

    fn index_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<Vec<f64>>> {
        let keys = self.entries(blocks, tokens)?.to_vec()?;
        Ok(Some(keys.into_iter().map(Scalar::to_f64).collect()))
    }
}

/// The cache of a layer that stores nothing: it attends to another layer's latents, and selects nothing of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl<B: Backend> KvCache<B> for NoCache {
    type Format = f32;
    type IndexFormat = f32;
    const PAGE_SIZE: Option<usize> = None;
    const ELEMENTS_PER_TOKEN: usize = 0;

    fn bytes_per_token() -> usize {
        0
    }

    fn with_blocks(_: &B::Device, _blocks: usize, _tokens_per_block: usize) -> Result<Self> {
        Ok(Self)
    }

    fn check(&self, _batch: &Batch, _rows: usize) -> Result<()> {
        Ok(())
    }

    fn fill_with(&mut self, _: Filling) -> Result<()> {
        Ok(())
    }

    fn latent_rows(&self, _blocks: &[u32], _tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        Ok(None)
    }
}
