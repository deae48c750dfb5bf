//! The naive cache: every head's keys and values, expanded.

use std::fmt::Debug;
use std::marker::PhantomData;

use super::format::CacheFormat;
use super::layout::{CacheLayout, Contiguous, Geometry, Paged};
use crate::attended::Attended;
use crate::attention;
use crate::backend::{Attention, Backend, Place, Strided};
use crate::batch::Batch;
use crate::error::{Result, expect_count, product};
use crate::heads::Heads;
use crate::rotary::{RopeKey, RopeLayout};
use crate::softmax::Softmax;
use crate::visibility::Visibility;

/// `[slots, H, QK]` keys, the position part last, and `[slots, H, V]` values, of the number type `F`.
#[derive(Debug)]
pub struct NaiveCache<
    B: Backend,
    F: CacheFormat,
    L: RopeLayout,
    P: CacheLayout,
    const H: usize,
    const QK: usize,
    const V: usize,
> {
    pub(super) device: B::Device,
    pub(super) keys: B::Buffer<F::Element>,
    pub(super) values: B::Buffer<F::Element>,
    pub(super) geometry: Geometry,
    layout: PhantomData<(L, P)>,
}

impl<B: Backend, F: CacheFormat, L: RopeLayout, const H: usize, const QK: usize, const V: usize>
    NaiveCache<B, F, L, Contiguous, H, QK, V>
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
    const H: usize,
    const QK: usize,
    const V: usize,
> NaiveCache<B, F, L, Paged<PAGE>, H, QK, V>
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
    const H: usize,
    const QK: usize,
    const V: usize,
> NaiveCache<B, F, L, P, H, QK, V>
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
            product("a cache of keys", &[geometry.slots(), H, QK])?,
        )?;
        let values = B::zeros(
            device,
            product("a cache of values", &[geometry.slots(), H, V])?,
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
        kv: &Heads<B, H, KV>,
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
        let shared = Strided {
            heads: H,
            head_stride: 0,
            ..k_rope.view().strided()
        };
        let nope = Place {
            stride: H * QK,
            offset: 0,
            head_stride: QK,
        };
        let rope = Place {
            offset: QK - R,
            ..nope
        };
        let value = Place {
            stride: H * V,
            offset: 0,
            head_stride: V,
        };
        B::scatter(
            &self.device,
            attention::narrowed(kv, 0, QK - R),
            &mut self.keys,
            &slots,
            nope,
        )?;
        B::scatter(&self.device, shared, &mut self.keys, &slots, rope)?;
        B::scatter(
            &self.device,
            attention::narrowed(kv, QK - R, V),
            &mut self.values,
            &slots,
            value,
        )
    }

    /// Attention of the new tokens, already written, over all tokens of their requests that they may see.
    ///
    /// # Errors
    /// As [`NaiveCache::check`], [`Batch::segments`] and [`attention::expanded`].
    pub fn attend<'a>(
        &self,
        batch: &Batch,
        q: &Heads<B, H, QK>,
        visibility: Visibility,
        softmax: impl Into<Softmax<'a, B>>,
    ) -> Result<Attended<B, H, V>>
    where
        B: 'a,
    {
        let (segments, pages) = self.geometry.reading(batch, visibility)?;
        let rows = self.geometry.slots();
        let keys = Strided {
            buffer: &self.keys,
            offset: 0,
            rows,
            heads: H,
            width: QK,
            row_stride: H * QK,
            head_stride: QK,
        };
        let values = Strided {
            buffer: &self.values,
            offset: 0,
            rows,
            heads: H,
            width: V,
            row_stride: H * V,
            head_stride: V,
        };
        let q_all = q.view().strided();
        let attention = Attention {
            q: q_all,
            q_rope: attention::narrowed(q_all, QK, 0),
            k: keys,
            k_rope: attention::narrowed(keys, QK, 0),
            v: values,
            segments: &segments,
            pages: Some(&pages),
            selection: None,
            softmax: softmax.into(),
        };
        attention::attend(&self.device, q.rows(), attention)
    }
}
