//! The cache of an indexer's keys where those are pooled (features S-17).

use std::marker::PhantomData;
use std::ops::Range;

use super::format::{CacheFormat, Entries, EntryShape, Filling};
use super::indexed::IndexStore;
use super::layout::{CacheLayout, Contiguous, Geometry, Paged};
use crate::attended::PerHead;
use crate::backend::{Backend, Pages, Strided};
use crate::batch::Batch;
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count};
use crate::heads::Heads;
use crate::indexer::{Asking, KeyPools, Lines, SelectingPools};
use crate::layer::KvCache;
use crate::rows::{Rows, RowsView};
use crate::selection::Selection;
use crate::visibility::Visibility;

/// `[slots, DI + DI]` keys and gates of the number type `F`, one of each per token, in the same blocks and slots as the layer's other cache, and
/// the finished key of each complete pool.
#[derive(Debug)]
pub struct PooledIndexCache<
    B: Backend,
    F: CacheFormat,
    P: CacheLayout,
    const DI: usize,
    const POOL: usize,
> {
    device: B::Device,
    tokens: Entries<B, F>,
    /// A block holds a key for each pool that fits into a block of tokens.
    pools: Entries<B, F>,
    geometry: Geometry,
    layout: PhantomData<P>,
}

impl<B: Backend, F: CacheFormat, const DI: usize, const POOL: usize>
    PooledIndexCache<B, F, Contiguous, DI, POOL>
{
    /// Room for `requests` requests of up to `tokens` tokens; request `i` of the cache is block `i`.
    ///
    /// # Errors
    /// When that does not fit in memory.
    pub fn contiguous(device: &B::Device, requests: usize, tokens: usize) -> Result<Self> {
        Self::with_blocks(device, requests, tokens)
    }
}

impl<B: Backend, F: CacheFormat, const PAGE: usize, const DI: usize, const POOL: usize>
    PooledIndexCache<B, F, Paged<PAGE>, DI, POOL>
{
    /// `pages` blocks of `PAGE` tokens.
    ///
    /// # Errors
    /// When that does not fit in memory.
    pub fn paged(device: &B::Device, pages: usize) -> Result<Self> {
        Self::with_blocks(device, pages, PAGE)
    }
}

impl<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize, const POOL: usize>
    PooledIndexCache<B, F, P, DI, POOL>
{
    /// `blocks` blocks of `tokens` tokens, in either layout. That a page holds whole pools is proved by the compiler.
    ///
    /// # Errors
    /// When the layout's page size is another, or that does not fit in memory.
    pub fn with_blocks(device: &B::Device, blocks: usize, tokens: usize) -> Result<Self> {
        const {
            assert!(POOL > 0, "a pool holds at least one token");
            assert!(
                match P::PAGE {
                    Some(page) => page > 0 && page.is_multiple_of(POOL),
                    None => true,
                },
                "a page has to hold whole pools"
            );
            assert!(
                F::PLAIN,
                "pooled keys and their gates are stored as the numbers that they are"
            );
        };
        let geometry = Geometry::new::<P>(blocks, tokens)?;
        let pools = EntryShape {
            latent: DI,
            rope: 0,
            blocks,
            page: tokens / POOL,
        };
        Ok(Self {
            device: device.clone(),
            tokens: Entries::new(device, EntryShape::new(DI, DI, &geometry))?,
            pools: Entries::new(device, pools)?,
            geometry,
            layout: PhantomData,
        })
    }

    /// Whether a batch with `rows` input rows can be written and selected from.
    ///
    /// # Errors
    /// When `rows` is not the batch's tokens, a block id is out of range or named twice, a request lacks room, or a slot would be
    /// written twice.
    pub fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        self.geometry.check(batch, rows)
    }

    /// Writes the new tokens' keys and gates, and the keys of the pools that they complete. Everything is checked before anything is
    /// written.
    ///
    /// # Errors
    /// As [`PooledIndexCache::check`].
    pub fn write<'a, const IN: usize>(
        &mut self,
        batch: &Batch,
        k: impl Into<RowsView<'a, B, DI>>,
        gates: impl Into<RowsView<'a, B, DI>>,
        pools: &KeyPools<B, IN, DI, POOL>,
    ) -> Result<()>
    where
        B: 'a,
    {
        let (k, gates) = (k.into(), gates.into());
        expect_count("index keys to be cached", k.rows(), batch.tokens())?;
        expect_count("index gates to be cached", gates.rows(), batch.tokens())?;
        let slots = self.geometry.written(batch)?;
        let (tokens, completed) = self.completed(batch)?;
        self.tokens.write(&slots, k.strided(), gates.strided())?;
        let (k, gates) = self.read(&tokens)?;
        let first_rows: Vec<usize> = (0..completed.len()).map(|pool| pool * POOL).collect();
        let keys = pools.keys(k.view().strided(), gates.view().strided(), &first_rows)?;
        let keys = keys.view().strided();
        self.pools
            .write(&completed, keys, Strided { width: 0, ..keys })
    }

    /// All tokens of the best pools of each new token, already written, among those of its request.
    ///
    /// # Errors
    /// As [`PooledIndexCache::check`] and [`select_pools`](crate::indexer::select_pools).
    pub fn select<const HI: usize, const K: usize>(
        &self,
        batch: &Batch,
        q: &Heads<B, HI, DI>,
        weights: &PerHead<B, HI>,
        visibility: Visibility,
        selecting: &SelectingPools,
    ) -> Result<Selection<B, K>> {
        expect_count("rows of an indexer's queries", q.rows(), batch.tokens())?;
        let asking = Asking::new(q, weights)?;
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let lines = Lines::new(&segments, POOL)?;
        let pages = Pages::new(pages.page() / POOL, pages.tables().to_vec());
        let k = self.pools.window().ok_or_else(|| {
            Error::BadCache(format!("keys of pools in {} have to be decoded", F::NAME))
        })?;
        lines.select(&asking, k, Some(&pages), selecting)
    }

    /// The keys and gates of a request's first `tokens` tokens, which lie in `blocks`.
    ///
    /// # Errors
    /// When they cannot lie there.
    pub fn entries(&self, blocks: &[u32], tokens: usize) -> Result<(Rows<B, DI>, Rows<B, DI>)> {
        self.read(&self.geometry.held(blocks, tokens)?)
    }

    fn read(&self, slots: &[usize]) -> Result<(Rows<B, DI>, Rows<B, DI>)> {
        let rows = |buffer| Rows {
            device: self.device.clone(),
            buffer,
            rows: slots.len(),
        };
        let [k, gates] = self.tokens.read(slots)?;
        Ok((rows(k), rows(gates)))
    }

    /// The pools that the batch's new tokens complete: the slots of their tokens, and their own.
    fn completed(&self, batch: &Batch) -> Result<(Vec<usize>, Vec<Option<usize>>)> {
        let (mut tokens, mut pools) = (Vec::new(), Vec::new());
        for (i, request) in batch.requests.iter().enumerate() {
            let completed: Range<usize> = request.cached / POOL..request.total() / POOL;
            let all = completed.start * POOL..completed.end * POOL;
            let slots = self.geometry.range(i, request, all)?;
            let (_, page) = self.geometry.blocks();
            pools.extend(slots.iter().step_by(POOL).map(|first| {
                let (block, token) = (first / page, first % page);
                Some(block * (page / POOL) + token / POOL)
            }));
            tokens.extend(slots);
        }
        Ok((tokens, pools))
    }
}

impl<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize, const POOL: usize> IndexStore<B>
    for PooledIndexCache<B, F, P, DI, POOL>
{
}

impl<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize, const POOL: usize> KvCache<B>
    for PooledIndexCache<B, F, P, DI, POOL>
{
    type Format = F;
    type IndexFormat = F;
    const PAGE_SIZE: Option<usize> = P::PAGE;
    /// Pools' keys not counted.
    const ELEMENTS_PER_TOKEN: usize = 2 * DI;

    /// Pools' keys in equal parts.
    fn bytes_per_token() -> usize {
        F::bytes_per_token(DI, DI) + F::bytes_per_token(DI, 0).div_ceil(POOL)
    }

    fn with_blocks(device: &B::Device, blocks: usize, tokens_per_block: usize) -> Result<Self> {
        Self::with_blocks(device, blocks, P::PAGE.unwrap_or(tokens_per_block))
    }

    fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        Self::check(self, batch, rows)
    }

    fn fill_with(&mut self, with: Filling) -> Result<()> {
        self.tokens.fill(with)?;
        self.pools.fill(with)
    }

    fn latent_rows(&self, _blocks: &[u32], _tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
        Ok(None)
    }

    /// The tokens' keys, not the pools'.
    fn index_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<Vec<f64>>> {
        let (keys, _) = self.entries(blocks, tokens)?;
        Ok(Some(
            keys.to_vec()?.into_iter().map(Scalar::to_f64).collect(),
        ))
    }
}
