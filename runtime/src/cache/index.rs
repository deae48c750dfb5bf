//! The cache of an indexer's keys (features L-16, J-09).

use std::marker::PhantomData;

use super::format::{CacheFormat, Entries, EntryKind, EntryShape};
use super::layout::{CacheLayout, Contiguous, Geometry, Paged};
use crate::attended::PerHead;
use crate::backend::{Backend, Pages, Strided};
use crate::batch::Batch;
use crate::error::{Result, expect_count};
use crate::heads::Heads;
use crate::indexer::{self, Asking, IndexQueries, Scores, Selecting};
use crate::rows::{Rows, RowsView};
use crate::segments::Segments;
use crate::selection::Selection;
use crate::visibility::Visibility;

/// `[slots, DI]` keys in the format `F`, one per token, in the same blocks and slots as the layer's other cache.
///
/// Where the format stores plain numbers, keys are scored where they lie, and so are codes where the backend has a kernel for them: by what codes
/// and scales say, rounded to no number type. Others are decoded first, all keys of the batch's requests at once.
#[derive(Debug)]
pub struct IndexCache<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize> {
    device: B::Device,
    pub(super) entries: Entries<B, F>,
    geometry: Geometry,
    layout: PhantomData<P>,
}

impl<B: Backend, F: CacheFormat, const DI: usize> IndexCache<B, F, Contiguous, DI> {
    /// Room for `requests` requests of up to `tokens` tokens; request `i` of the cache is block `i`.
    ///
    /// # Errors
    /// When that does not fit in memory.
    pub fn contiguous(device: &B::Device, requests: usize, tokens: usize) -> Result<Self> {
        Self::with_blocks(device, requests, tokens)
    }
}

impl<B: Backend, F: CacheFormat, const PAGE: usize, const DI: usize>
    IndexCache<B, F, Paged<PAGE>, DI>
{
    /// `pages` blocks of `PAGE` tokens.
    ///
    /// # Errors
    /// When that does not fit in memory.
    pub fn paged(device: &B::Device, pages: usize) -> Result<Self> {
        const { assert!(PAGE > 0, "a page holds at least one token") };
        Self::with_blocks(device, pages, PAGE)
    }
}

impl<B: Backend, F: CacheFormat, P: CacheLayout, const DI: usize> IndexCache<B, F, P, DI> {
    /// `blocks` blocks of `tokens` tokens, in either layout.
    ///
    /// # Errors
    /// When the layout's page size is another, or that does not fit in memory.
    pub fn with_blocks(device: &B::Device, blocks: usize, tokens: usize) -> Result<Self> {
        const {
            assert!(
                F::KIND.holds(EntryKind::Key),
                "the cache's format is one of latents"
            );
            assert!(
                DI.is_multiple_of(F::LATENT_GRAIN),
                "the cache's format shares scales among more neighbours than divide the key"
            );
        };
        let geometry = Geometry::new::<P>(blocks, tokens)?;
        let entries = Entries::new(device, EntryShape::new(DI, 0, &geometry))?;
        Ok(Self {
            device: device.clone(),
            entries,
            geometry,
            layout: PhantomData,
        })
    }

    /// The cache's memory, block after block, as its format lays it out.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        F::bytes(&self.entries)
    }

    /// Whether a batch with `rows` input rows can be written and selected from.
    ///
    /// # Errors
    /// When `rows` is not the batch's tokens, a block id is out of range or named twice, a request lacks room, or a slot would be
    /// written twice.
    pub fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        self.geometry.check(batch, rows)
    }

    /// Writes the new tokens' keys. Everything is checked before anything is written.
    ///
    /// # Errors
    /// As [`IndexCache::check`].
    pub fn write<'a>(&mut self, batch: &Batch, k: impl Into<RowsView<'a, B, DI>>) -> Result<()>
    where
        B: 'a,
    {
        let k = k.into();
        expect_count("index keys to be cached", k.rows(), batch.tokens())?;
        let slots = self.written(batch)?;
        self.write_to(&slots, k)
    }

    /// Writes keys to slots that have been looked up.
    pub(super) fn write_to(
        &mut self,
        slots: &[Option<usize>],
        k: RowsView<'_, B, DI>,
    ) -> Result<()> {
        let k = k.strided();
        let nothing = Strided { width: 0, ..k };
        self.entries.write(slots, k, nothing)
    }

    /// Where a batch's new keys go.
    pub(super) fn written(&self, batch: &Batch) -> Result<Vec<Option<usize>>> {
        self.geometry.written(batch)
    }

    /// The `K` best keys of each new token, already written, among all tokens of its request that it sees.
    ///
    /// # Errors
    /// As [`IndexCache::check`] and [`indexer::select`], and when the batch says less or more about who sees whom than a layer of this
    /// visibility is told.
    pub fn select<const HI: usize, const K: usize>(
        &self,
        batch: &Batch,
        q: &Heads<B, HI, DI>,
        weights: &PerHead<B, HI>,
        visibility: Visibility,
        selecting: &Selecting,
    ) -> Result<Selection<B, K>> {
        expect_count("rows of an indexer's queries", q.rows(), batch.tokens())?;
        let asking = Asking::new(q, weights)?;
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let sights = indexer::of_cached(&segments);
        if let Some(k) = self.entries.window() {
            return asking.select(k, &sights, Some(&pages), selecting);
        }
        if let Some(selection) =
            asking.select_coded(&self.entries, &sights, &pages, selecting, None)?
        {
            return Ok(selection);
        }
        let k = self.read(&slots(&segments, &pages))?;
        let sights = indexer::of_gathered(&segments);
        asking.select(k.view().strided(), &sights, None, selecting)
    }

    /// [`select`](Self::select) by queries that are rounded as the cache rounds keys, once what they are to be is done: scores are what codes give, and
    /// a backend that multiplies codes does so.
    ///
    /// # Errors
    /// As [`IndexCache::select`].
    pub fn select_rounded<'a, const HI: usize, const K: usize>(
        &self,
        batch: &Batch,
        q: impl Into<IndexQueries<'a, B, HI, DI>>,
        weights: &PerHead<B, HI>,
        visibility: Visibility,
        selecting: &Selecting,
    ) -> Result<Selection<B, K>>
    where
        B: 'a,
    {
        let q = q.into();
        q.check(batch.tokens())?;
        if self.entries.window().is_none() {
            let (segments, pages) = self.geometry.reading(batch, visibility)?;
            let (asking, sights) = (
                Asking::new(q.given(), weights)?,
                indexer::of_cached(&segments),
            );
            let rounding = Some(q.rounding());
            let selection =
                asking.select_coded(&self.entries, &sights, &pages, selecting, rounding)?;
            if let Some(selection) = selection {
                return Ok(selection);
            }
        }
        let rounded = self.rounded(&q.compute()?)?;
        self.select(batch, &rounded, weights, visibility, selecting)
    }

    /// Queries as the cache would give them back.
    fn rounded<const HI: usize>(&self, q: &Heads<B, HI, DI>) -> Result<Heads<B, HI, DI>> {
        let count = q.rows() * HI;
        let shape = EntryShape {
            latent: DI,
            rope: 0,
            blocks: 1,
            page: count,
        };
        let mut entries = Entries::<B, F>::new(&self.device, shape)?;
        let lines = Strided {
            buffer: &q.buffer,
            offset: 0,
            rows: count,
            heads: 1,
            width: DI,
            row_stride: DI,
            head_stride: 0,
        };
        let nothing = Strided { width: 0, ..lines };
        let slots: Vec<usize> = (0..count).collect();
        let to: Vec<Option<usize>> = slots.iter().copied().map(Some).collect();
        entries.write(&to, lines, nothing)?;
        let [buffer, _] = entries.read(&slots)?;
        Ok(Heads {
            device: self.device.clone(),
            buffer,
            rows: q.rows(),
        })
    }

    /// The score of every new token and key of its request, for probes and tests.
    ///
    /// # Errors
    /// As [`IndexCache::select`].
    pub fn scores<const HI: usize>(
        &self,
        batch: &Batch,
        q: &Heads<B, HI, DI>,
        weights: &PerHead<B, HI>,
        visibility: Visibility,
        selecting: &Selecting,
    ) -> Result<Scores<B>> {
        expect_count("rows of an indexer's queries", q.rows(), batch.tokens())?;
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let k = self.read(&slots(&segments, &pages))?;
        let sights = indexer::of_gathered(&segments);
        Asking::new(q, weights)?.scores(k.view().strided(), &sights, selecting)
    }

    /// The keys of a request's first `tokens` tokens, which lie in `blocks`.
    ///
    /// # Errors
    /// When they cannot lie there.
    pub fn entries(&self, blocks: &[u32], tokens: usize) -> Result<Rows<B, DI>> {
        self.read(&self.geometry.held(blocks, tokens)?)
    }

    fn read(&self, slots: &[usize]) -> Result<Rows<B, DI>> {
        let [buffer, _] = self.entries.read(slots)?;
        Ok(Rows {
            device: self.device.clone(),
            buffer,
            rows: slots.len(),
        })
    }
}

/// The slots of all tokens that the segments speak of, one segment after the other.
pub(super) fn slots(segments: &Segments, pages: &Pages) -> Vec<usize> {
    let list = segments.list().iter().enumerate();
    list.flat_map(|(i, segment)| (0..segment.keys.len()).map(move |token| pages.slot(i, token)))
        .collect()
}
