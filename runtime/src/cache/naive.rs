//! The naive cache: every head's keys and values, expanded.

use std::fmt::Debug;
use std::marker::PhantomData;

use super::format::CacheFormat;
use super::layout::{CacheLayout, Contiguous, Geometry, Paged};
use crate::attention::{self, AttentionOutput};
use crate::backend::{Attention, Backend, Chosen, Place, Strided};
use crate::batch::{Batch, Pages, Sequence};
use crate::error::{Result, expect_count, product};
use crate::heads::Heads;
use crate::rotary::{RopeKey, RopeLayout, Rotary};
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::Softmax;
use crate::visibility::Visibility;

/// `[slots, G, QK]` keys, rotated, and `[slots, G, V]` values, of the number type `F`, for `G` heads or groups of heads.
#[derive(Debug)]
pub struct NaiveCache<
    B: Backend,
    F: CacheFormat,
    L: RopeLayout,
    P: CacheLayout,
    const G: usize,
    const QK: usize,
    const V: usize,
> {
    pub(super) device: B::Device,
    pub(super) keys: B::Buffer<F::Element>,
    pub(super) values: B::Buffer<F::Element>,
    pub(super) geometry: Geometry,
    layout: PhantomData<(L, P)>,
}

impl<B: Backend, F: CacheFormat, L: RopeLayout, const G: usize, const QK: usize, const V: usize>
    NaiveCache<B, F, L, Contiguous, G, QK, V>
{
    /// Room for `requests` requests of up to `tokens` tokens; request `i` of the cache is block `i`.
    ///
    /// # Errors
    /// When that does not fit in memory.
    pub fn contiguous(device: &B::Device, requests: usize, tokens: usize) -> Result<Self> {
        Self::with_blocks(device, requests, tokens)
    }
}

impl<
    B: Backend,
    F: CacheFormat,
    L: RopeLayout,
    const PAGE: usize,
    const G: usize,
    const QK: usize,
    const V: usize,
> NaiveCache<B, F, L, Paged<PAGE>, G, QK, V>
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

impl<
    B: Backend,
    F: CacheFormat,
    L: RopeLayout,
    P: CacheLayout,
    const G: usize,
    const QK: usize,
    const V: usize,
> NaiveCache<B, F, L, P, G, QK, V>
{
    /// `blocks` blocks of `tokens` tokens, in either layout.
    ///
    /// # Errors
    /// When the layout's page size is another, or that does not fit in memory.
    pub fn with_blocks(device: &B::Device, blocks: usize, tokens: usize) -> Result<Self> {
        const {
            assert!(
                F::PLAIN,
                "a cache of expanded keys stores numbers as they are"
            )
        };
        let geometry = Geometry::new::<P>(blocks, tokens)?;
        let keys = B::zeros(
            device,
            product("a cache of keys", &[geometry.slots(), G, QK])?,
        )?;
        let values = B::zeros(
            device,
            product("a cache of values", &[geometry.slots(), G, V])?,
        )?;
        Ok(Self {
            device: device.clone(),
            keys,
            values,
            geometry,
            layout: PhantomData,
        })
    }

    /// Whether a batch with `rows` input rows can be written and attended to.
    ///
    /// # Errors
    /// When `rows` is not the batch's tokens, a block id is out of range or named twice, a request lacks room, or a slot would be
    /// written twice.
    pub fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        self.geometry.check(batch, rows)
    }

    /// Writes the new tokens' keys (`QK - R` values of a head of `kv`, then the shared rotated part) and values (the rest of the
    /// head). Everything is checked before anything is written.
    ///
    /// # Errors
    /// As [`NaiveCache::check`].
    pub fn write<const KV: usize, const R: usize>(
        &mut self,
        batch: &Batch,
        kv: &Heads<B, G, KV>,
        k_rope: &RopeKey<B, L, R>,
    ) -> Result<()> {
        const {
            assert!(R <= QK, "the rotated part is wider than the key head");
            assert!(
                KV == QK - R + V,
                "a head of keys and values is QK - R + V wide"
            );
        };
        expect_count("keys to be cached", kv.rows(), batch.tokens())?;
        expect_count("rotated keys to be cached", k_rope.rows(), batch.tokens())?;
        let slots = self.geometry.written(batch)?;
        let kv = kv.view().strided();
        let repeated = Strided {
            heads: G,
            head_stride: 0,
            ..k_rope.view().strided()
        };
        self.scatter_keys(attention::narrowed(kv, 0, QK - R), 0, &slots)?;
        self.scatter_keys(repeated, QK - R, &slots)?;
        self.scatter_values(attention::narrowed(kv, QK - R, V), &slots)
    }

    /// Writes the new tokens' keys, rotated, and values. Everything is checked before anything is written.
    ///
    /// # Errors
    /// As [`NaiveCache::check`].
    pub fn write_heads(
        &mut self,
        batch: &Batch,
        k: &Heads<B, G, QK>,
        v: &Heads<B, G, V>,
    ) -> Result<()> {
        expect_count("keys to be cached", k.rows(), batch.tokens())?;
        expect_count("values to be cached", v.rows(), batch.tokens())?;
        let slots = self.geometry.written(batch)?;
        self.scatter_keys(k.view().strided(), 0, &slots)?;
        self.scatter_values(v.view().strided(), &slots)
    }

    /// A step of decoding: rotates the first `R` values of each head of queries and keys by the batch's positions, writes the new tokens'
    /// keys and values, and attends over all tokens of their requests that they may see.
    ///
    /// # Errors
    /// As [`NaiveCache::write_heads`] and [`NaiveCache::attend`].
    #[allow(clippy::too_many_arguments)] // a step of decoding reads as many things
    pub fn flash_decode<'a, In: RopeLayout, O, const R: usize, const H: usize>(
        &mut self,
        batch: &Batch,
        q: Heads<B, H, QK>,
        k: Heads<B, G, QK>,
        v: &Heads<B, G, V>,
        rotary: &Rotary<B, In, L, R>,
        visibility: Visibility,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<O>
    where
        B: 'a,
        O: AttentionOutput<B, H, V>,
    {
        let angles = rotary.angles(batch.positions())?;
        let (q, k) = (
            rotary.heads_first(q, &angles)?,
            rotary.heads_first(k, &angles)?,
        );
        self.write_heads(batch, &k, v)?;
        self.attend(batch, &q, visibility, softmax)
    }

    /// Attention of the new tokens, already written, over all tokens of their requests that they may see. Head `h` of the queries
    /// belongs to group `⌊h · G / H⌋`.
    ///
    /// # Errors
    /// As [`NaiveCache::check`], [`Batch::segments`] and [`attention::grouped`].
    pub fn attend<'a, O, const H: usize>(
        &self,
        batch: &Batch,
        q: &Heads<B, H, QK>,
        visibility: Visibility,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<O>
    where
        B: 'a,
        O: AttentionOutput<B, H, V>,
    {
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        self.attend_over(q, &segments, &pages, None, softmax.into())
    }

    /// [`NaiveCache::attend`] over the selected tokens that a new token sees.
    ///
    /// # Errors
    /// As [`NaiveCache::attend`], and when the selection has another number of rows.
    pub fn attend_selected<'a, O, const H: usize, const K: usize>(
        &self,
        batch: &Batch,
        q: &Heads<B, H, QK>,
        selection: &Selection<B, K>,
        visibility: Visibility,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<O>
    where
        B: 'a,
        O: AttentionOutput<B, H, V>,
    {
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let chosen = selection.of(&segments)?;
        self.attend_over(q, &segments, &pages, Some(chosen), softmax.into())
    }

    /// Whether a batch with `rows` input rows can attend to contexts: its requests' cached tokens.
    ///
    /// # Errors
    /// When `rows` is not the batch's tokens, a block id is out of range or named twice, or a request's blocks hold fewer tokens than
    /// its context.
    pub fn check_context(&self, batch: &Batch, rows: usize) -> Result<()> {
        expect_count("input rows of a batch", rows, batch.tokens())?;
        self.geometry.context(batch).map(drop)
    }

    /// Writes the contexts of a batch's requests, all of each, one context's rows after the other's: the batch names a context's length
    /// as the request's cached tokens, and its blocks.
    ///
    /// # Errors
    /// When `k` and `v` have other rows than the contexts, or as [`NaiveCache::check_context`].
    pub fn write_context(
        &mut self,
        batch: &Batch,
        k: &Heads<B, G, QK>,
        v: &Heads<B, G, V>,
    ) -> Result<()> {
        let contexts: Vec<Sequence<'_>> = batch
            .sequences()
            .map(|sequence| Sequence {
                cached: 0,
                new: sequence.cached,
                blocks: sequence.blocks,
            })
            .collect();
        self.write_heads(&Batch::new(&contexts)?, k, v)
    }

    /// Cross attention: the batch's new tokens, which are not in this cache, over all of their request's context, which is: the batch
    /// names its length as the request's cached tokens, and its blocks.
    ///
    /// # Errors
    /// As [`NaiveCache::check_context`] and [`attention::grouped`].
    pub fn attend_context<'a, O, const H: usize>(
        &self,
        batch: &Batch,
        q: &Heads<B, H, QK>,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<O>
    where
        B: 'a,
        O: AttentionOutput<B, H, V>,
    {
        let (segments, pages) = self.geometry.context(batch)?;
        self.attend_over(q, &segments, &pages, None, softmax.into())
    }

    fn attend_over<O: AttentionOutput<B, H, V>, const H: usize>(
        &self,
        q: &Heads<B, H, QK>,
        segments: &Segments,
        pages: &Pages,
        selection: Option<Chosen<'_, B>>,
        softmax: Softmax<'_, B>,
    ) -> Result<O> {
        const { attention::whole_groups(H, G) };
        let keys = self.window(&self.keys, QK);
        let q_all = q.view().strided();
        let attention = Attention {
            q: q_all,
            q_rope: attention::narrowed(q_all, QK, 0),
            k: keys,
            k_rope: attention::narrowed(keys, QK, 0),
            v: self.window(&self.values, V),
            segments,
            pages: Some(pages),
            selection,
            softmax,
        };
        attention::attend(&self.device, attention)
    }

    fn window<'a>(
        &self,
        buffer: &'a B::Buffer<F::Element>,
        width: usize,
    ) -> Strided<'a, B, F::Element> {
        Strided {
            buffer,
            offset: 0,
            rows: self.geometry.slots(),
            heads: G,
            width,
            row_stride: G * width,
            head_stride: width,
        }
    }

    /// Writes values `offset ..` of every head's keys.
    fn scatter_keys(
        &mut self,
        k: Strided<'_, B, B::Elem>,
        offset: usize,
        slots: &[Option<usize>],
    ) -> Result<()> {
        let place = Place {
            stride: G * QK,
            offset,
            head_stride: QK,
        };
        B::scatter(&self.device, k, &mut self.keys, slots, place)
    }

    fn scatter_values(
        &mut self,
        v: Strided<'_, B, B::Elem>,
        slots: &[Option<usize>],
    ) -> Result<()> {
        let place = Place {
            stride: G * V,
            offset: 0,
            head_stride: V,
        };
        B::scatter(&self.device, v, &mut self.values, slots, place)
    }
}
