//! The latent cache: per token one normalised latent and one rotated key part, shared by all heads.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

use super::context::{Chunk, Chunks};
use super::format::{CacheFormat, Entries, EntryKind, EntryShape};
use super::layout::{CacheLayout, Contiguous, Geometry, Paged};
use crate::attention::{self, AttentionOutput};
use crate::backend::{Attention, Backend, BytesAttention, Strided};
use crate::batch::Batch;
use crate::error::{Result, expect_count};
use crate::heads::{Heads, HeadsView};
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::{Rows, RowsView};
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::Softmax;
use crate::visibility::Visibility;

/// An entry ĉ ∥ k_r per slot, `C` and `R` values stored as `F` says, the key part in layout `L`.
#[derive(Debug)]
pub struct LatentCache<
    B: Backend,
    F: CacheFormat,
    L: RopeLayout,
    P: CacheLayout,
    const C: usize,
    const R: usize,
> {
    pub(super) device: B::Device,
    pub(super) entries: Entries<B, F>,
    pub(super) geometry: Geometry,
    layout: PhantomData<(L, P)>,
}

/// Some tokens of the batch's requests, cached and new ones, and which new tokens see them.
#[derive(Debug)]
pub struct ContextChunk<B: Backend, L: RopeLayout, const C: usize, const R: usize> {
    /// Latents, request after request.
    pub latent: Rows<B, C>,
    /// Their rotated key parts.
    pub k_rope: RopeKey<B, L, R>,
    /// Every new token of a request against the request's rows of this chunk; requests without rows here have no segment.
    pub segments: Segments,
}

impl<B: Backend, F: CacheFormat, L: RopeLayout, const C: usize, const R: usize>
    LatentCache<B, F, L, Contiguous, C, R>
{
    /// Room for `requests` requests of up to `tokens` tokens; request `i` of the cache is block `i`.
    ///
    /// # Errors
    /// When that does not fit in memory.
    pub fn contiguous(device: &B::Device, requests: usize, tokens: usize) -> Result<Self> {
        Self::with_blocks(device, requests, tokens)
    }
}

impl<B: Backend, F: CacheFormat, L: RopeLayout, const PAGE: usize, const C: usize, const R: usize>
    LatentCache<B, F, L, Paged<PAGE>, C, R>
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

impl<B: Backend, F: CacheFormat, L: RopeLayout, P: CacheLayout, const C: usize, const R: usize>
    LatentCache<B, F, L, P, C, R>
{
    /// `blocks` blocks of `tokens` tokens, in either layout.
    ///
    /// # Errors
    /// When the layout's page size is another, or that does not fit in memory.
    pub fn with_blocks(device: &B::Device, blocks: usize, tokens: usize) -> Result<Self> {
        const {
            assert!(
                F::KIND.holds(EntryKind::Latent),
                "the cache's format is one of indexer keys"
            );
            assert!(
                C.is_multiple_of(F::LATENT_GRAIN),
                "the cache's format shares scales among more neighbours than divide the latent"
            );
            assert!(
                R.is_multiple_of(F::ROPE_GRAIN),
                "the cache's format shares scales among more neighbours than divide the rotated key"
            );
        };
        let geometry = Geometry::new::<P>(blocks, tokens)?;
        let entries = Entries::new(device, EntryShape::new(C, R, &geometry))?;
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

    /// Whether a batch with `rows` input rows can be written and attended to.
    ///
    /// # Errors
    /// When `rows` is not the batch's tokens, a block id is out of range or named twice, a request lacks room, or a slot would be
    /// written twice.
    pub fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        self.geometry.check(batch, rows)
    }

    /// Writes the new tokens' latents and rotated key parts. Everything is checked before anything is written.
    ///
    /// # Errors
    /// As [`LatentCache::check`].
    pub fn write<'a>(
        &mut self,
        batch: &Batch,
        latent: impl Into<RowsView<'a, B, C>>,
        k_rope: &RopeKey<B, L, R>,
    ) -> Result<()>
    where
        B: 'a,
    {
        let latent = latent.into();
        expect_count("latents to be cached", latent.rows(), batch.tokens())?;
        expect_count("rotated keys to be cached", k_rope.rows(), batch.tokens())?;
        let slots = self.geometry.written(batch)?;
        self.entries
            .write(&slots, latent.strided(), k_rope.view().strided())
    }

    /// Absorbed attention of the new tokens, already written, over all tokens of their requests that they may see.
    ///
    /// # Errors
    /// As [`LatentCache::check`], [`Batch::segments`] and [`attention::absorbed`].
    pub fn attend<'a, O, const H: usize>(
        &self,
        batch: &Batch,
        q_latent: &Heads<B, H, C>,
        q_rope: HeadsView<'_, B, H, R>,
        visibility: Visibility,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<O>
    where
        B: 'a,
        O: AttentionOutput<B, H, C>,
    {
        self.attend_over::<O, H, 1>(batch, q_latent, q_rope, None, visibility, softmax.into())
    }

    /// [`LatentCache::attend`] over the selected tokens that a new token sees.
    ///
    /// # Errors
    /// As [`LatentCache::attend`], and when the selection has another number of rows.
    pub fn attend_selected<'a, O, const H: usize, const K: usize>(
        &self,
        batch: &Batch,
        q_latent: &Heads<B, H, C>,
        q_rope: HeadsView<'_, B, H, R>,
        selection: &Selection<B, K>,
        visibility: Visibility,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<O>
    where
        B: 'a,
        O: AttentionOutput<B, H, C>,
    {
        let selection = Some(selection);
        self.attend_over(
            batch,
            q_latent,
            q_rope,
            selection,
            visibility,
            softmax.into(),
        )
    }

    fn attend_over<O: AttentionOutput<B, H, C>, const H: usize, const K: usize>(
        &self,
        batch: &Batch,
        q_latent: &Heads<B, H, C>,
        q_rope: HeadsView<'_, B, H, R>,
        selection: Option<&Selection<B, K>>,
        visibility: Visibility,
        softmax: Softmax<'_, B>,
    ) -> Result<O> {
        expect_count("rows of rotated queries", q_rope.rows(), q_latent.rows())?;
        let Some(entries) = self.entries.window() else {
            if B::READS_BYTES
                && let Some(attended) =
                    self.attend_bytes(batch, q_latent, q_rope, selection, visibility, softmax)?
            {
                return Ok(attended);
            }
            return self.attend_decoded(batch, q_latent, q_rope, selection, visibility, softmax);
        };
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let selection = selection
            .map(|selection| selection.of(&segments))
            .transpose()?;
        let attention = Attention {
            q: q_latent.view().strided(),
            q_rope: q_rope.strided(),
            k: attention::narrowed(entries, 0, C),
            k_rope: attention::narrowed(entries, C, R),
            v: attention::narrowed(entries, 0, C),
            segments: &segments,
            pages: Some(&pages),
            selection,
            softmax,
        };
        attention::attend(&self.device, attention)
    }

    /// Absorbed attention over entries of bytes where they are; `None` where they have to be decoded.
    fn attend_bytes<O: AttentionOutput<B, H, C>, const H: usize, const K: usize>(
        &self,
        batch: &Batch,
        q_latent: &Heads<B, H, C>,
        q_rope: HeadsView<'_, B, H, R>,
        selection: Option<&Selection<B, K>>,
        visibility: Visibility,
        softmax: Softmax<'_, B>,
    ) -> Result<Option<O>> {
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let rows = q_latent.rows();
        let selection = selection
            .map(|selection| selection.of(&segments))
            .transpose()?;
        let attention = BytesAttention {
            q: q_latent.view().strided(),
            q_rope: q_rope.strided(),
            segments: &segments,
            pages: Some(&pages),
            selection,
            softmax: attention::checked::<B, H, C>(rows, &segments, softmax)?,
        };
        self.entries.attend(&attention)
    }

    /// What attention in the expanded form meets: what the requests already have in the cache, `chunk_tokens` tokens at a time, and behind the
    /// last of each request's its new tokens, whose latents and rotated keys these are, one row each. Tokens that are too far back for any new
    /// token to see are left out. There is one chunk at least.
    ///
    /// The iterator yields an error, and then ends, when the batch does not fit the cache or has other rows, `chunk_tokens` is 0, or the
    /// batch says less or more about who sees whom than a layer of this visibility is told.
    pub fn context<'a>(
        &'a self,
        batch: &'a Batch,
        latent: impl Into<RowsView<'a, B, C>>,
        k_rope: &'a RopeKey<B, L, R>,
        chunk_tokens: usize,
        visibility: Visibility,
    ) -> impl Iterator<Item = Result<ContextChunk<B, L, C, R>>> {
        let new = [latent.into().strided(), k_rope.view().strided()];
        let mut chunks = Chunks::new(&self.geometry, batch, chunk_tokens, visibility);
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let chunk = chunks.next()?.and_then(|chunk| self.expandable(chunk, new));
            failed = chunk.is_err();
            Some(chunk)
        })
    }

    fn expandable(
        &self,
        chunk: Chunk,
        new: [Strided<'_, B, B::Elem>; 2],
    ) -> Result<ContextChunk<B, L, C, R>> {
        let [latent, k_rope] = chunk.entries(&self.entries, new)?;
        let (latent, k_rope) = self.dressed(chunk.len(), [latent, k_rope]);
        Ok(ContextChunk {
            latent,
            k_rope,
            segments: chunk.segments,
        })
    }

    /// The entries of the batch's new tokens, already written, one row each; those of padding are without meaning.
    ///
    /// # Errors
    /// As [`LatentCache::check`].
    pub fn latents(&self, batch: &Batch) -> Result<(Rows<B, C>, RopeKey<B, L, R>)> {
        let slots = self.geometry.written(batch)?;
        // Padding has no slot; any written one does in its place, since nobody sees it
        let some = slots.iter().flatten().next().copied();
        let read = slots
            .iter()
            .filter_map(|slot| slot.or(some))
            .collect::<Vec<_>>();
        expect_count(
            "tokens of a batch that is not all padding",
            read.len(),
            slots.len(),
        )?;
        self.gather(&read)
    }

    /// The entries of a request's first `tokens` tokens, which lie in `blocks`.
    ///
    /// # Errors
    /// When they cannot lie there.
    pub fn entries(&self, blocks: &[u32], tokens: usize) -> Result<(Rows<B, C>, RopeKey<B, L, R>)> {
        self.gather(&self.geometry.held(blocks, tokens)?)
    }

    pub(super) fn gather(&self, slots: &[usize]) -> Result<(Rows<B, C>, RopeKey<B, L, R>)> {
        Ok(self.dressed(slots.len(), self.entries.read(slots)?))
    }

    pub(super) fn dressed(
        &self,
        rows: usize,
        [latent, k_rope]: [B::Buffer<B::Elem>; 2],
    ) -> (Rows<B, C>, RopeKey<B, L, R>) {
        let latent = Rows {
            device: self.device.clone(),
            buffer: latent,
            rows,
        };
        let k_rope = Rows {
            device: self.device.clone(),
            buffer: k_rope,
            rows,
        };
        (latent, RopeKey::tagged(k_rope))
    }

    /// The batch's tokens, cached ones and then, already written, new ones, `chunk_tokens` at a time.
    pub(super) fn chunk(
        &self,
        batch: &Batch,
        chunk_tokens: usize,
        visibility: Visibility,
        next: &mut Cursor,
    ) -> Result<Option<ContextChunk<B, L, C, R>>> {
        let (mut list, mut slots) = (Vec::new(), Vec::new());
        while let Some((i, tokens)) = next.take(batch, visibility, chunk_tokens - slots.len()) {
            let request = &batch.requests[i];
            let keys = slots.len()..slots.len() + tokens.len();
            list.push((i, keys, tokens.start));
            slots.extend(self.geometry.range(i, request, tokens)?);
        }
        if list.is_empty() {
            return Ok(None);
        }
        let (latent, k_rope) = self.gather(&slots)?;
        let segments = batch.against(visibility, list.into_iter(), slots.len())?;
        Ok(Some(ContextChunk {
            latent,
            k_rope,
            segments,
        }))
    }
}

/// The first token that no chunk has had yet.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    request: usize,
    token: usize,
}

impl Cursor {
    /// The next tokens of one request, at most `room`. Requests without new tokens have nobody to see theirs.
    fn take(
        &mut self,
        batch: &Batch,
        visibility: Visibility,
        room: usize,
    ) -> Option<(usize, Range<usize>)> {
        if room == 0 {
            return None;
        }
        while let Some(request) = batch.requests.get(self.request) {
            // No later token sees further back than the first new one
            let (first_seen, _) = visibility.bounds(request.cached as i64);
            self.token = self.token.max(usize::try_from(first_seen).unwrap_or(0));
            let tokens = request.total();
            if request.live > 0 && self.token < tokens {
                let end = tokens.min(self.token.saturating_add(room));
                return Some((self.request, std::mem::replace(&mut self.token, end)..end));
            }
            *self = Self {
                request: self.request + 1,
                token: 0,
            };
        }
        None
    }
}
