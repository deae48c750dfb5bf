//! Caches of bytes: where an entry's bytes stand, and how they meet a backend.

use std::fmt::Debug;
use std::ops::Range;

use super::format::{Entries, EntryShape, Filling};
use crate::backend::{Backend, Strided};
use crate::error::{Result, product};

/// Where the bytes of entries stand in a block: first all tokens' data, then all tokens' scales, then padding. A format whose
/// scales stand beside each token's data counts them as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteLayout {
    /// Bytes of data per token.
    pub data: usize,
    /// Bytes of scales per token, behind the data of all tokens of the block.
    pub scales: usize,
    /// A block takes a multiple of so many bytes.
    pub block_multiple: usize,
}

impl ByteLayout {
    /// Entries that stand side by side, without padding.
    pub(super) const fn beside(data: usize) -> Self {
        Self {
            data,
            scales: 0,
            block_multiple: 1,
        }
    }

    /// Data of all tokens, then scales of all tokens, without padding.
    pub(super) const fn behind(data: usize, scales: usize) -> Self {
        Self {
            data,
            scales,
            block_multiple: 1,
        }
    }

    /// Bytes of a block of `page` tokens.
    pub fn block_bytes(&self, page: usize) -> usize {
        (page * (self.data + self.scales)).next_multiple_of(self.block_multiple)
    }

    /// The bytes of slot `slot`'s data and of its scales, in a cache with blocks of `page` tokens.
    pub fn place(&self, slot: usize, page: usize) -> (Range<usize>, Range<usize>) {
        let (block, token) = (slot / page, slot % page);
        let start = block * self.block_bytes(page);
        let data = start + token * self.data;
        let scales = start + page * self.data + token * self.scales;
        (data..data + self.data, scales..scales + self.scales)
    }
}

/// A format that stores an entry as bytes. A value of the type holds what one cache decides for itself.
pub trait ByteFormat: Copy + Debug + Default + Send + Sync + 'static {
    /// Where the bytes of entries of these widths stand.
    fn layout(latent: usize, rope: usize) -> ByteLayout;

    /// Writes an entry. The slices are as long as [`layout`](Self::layout) says.
    fn encode(self, latent: &[f32], rope: &[f32], data: &mut [u8], scales: &mut [u8]);

    /// Reads an entry.
    fn decode(self, data: &[u8], scales: &[u8], latent: &mut [f32], rope: &mut [f32]);

    /// Which format it is, for backends that encode and decode by other means than the two above.
    #[doc(hidden)]
    fn coding(self) -> Coding;
}

/// This crate's byte formats, with what a cache decides for itself and what their types do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coding {
    /// [`Fp8E4m3`](super::Fp8E4m3).
    FlatE4m3 {
        /// What a code's value is multiplied by.
        k_scale: f32,
    },
    /// [`Fp8E5m2`](super::Fp8E5m2).
    FlatE5m2 {
        /// What a code's value is multiplied by.
        k_scale: f32,
    },
    /// [`Fp8DsMla`](super::Fp8DsMla).
    DsMla {
        /// Whether scales are powers of two.
        power_of_two: bool,
    },
    /// [`Fp8Model1`](super::Fp8Model1).
    Model1,
    /// [`Mxfp8`](super::Mxfp8).
    Mxfp8,
    /// [`IndexFp8`](super::IndexFp8).
    IndexFp8 {
        /// Whether scales are powers of two.
        power_of_two: bool,
    },
    /// [`IndexMxfp4`](super::IndexMxfp4).
    IndexMxfp4,
}

/// A cache's bytes, where entries stand in them, and how they are coded.
#[derive(Debug)]
pub struct CodedMemory<'a, B: Backend> {
    /// How values are coded.
    pub coding: Coding,
    /// Where an entry's bytes stand.
    pub layout: ByteLayout,
    /// The memory.
    pub bytes: &'a B::Bytes,
}

/// A cache's bytes, and its format.
#[derive(Debug)]
pub struct ByteStore<B: Backend, F: ByteFormat> {
    pub(super) format: F,
    pub(super) bytes: B::Bytes,
}

impl<B: Backend, F: ByteFormat> ByteStore<B, F> {
    /// Zeros.
    pub(super) fn zeros(device: &B::Device, shape: EntryShape) -> Result<Self> {
        let layout = F::layout(shape.latent, shape.rope);
        // Bounds what `block_bytes` computes
        let per_token = layout.data + layout.scales + layout.block_multiple;
        product("a cache's block", &[shape.page, per_token, 2])?;
        let len = product("a cache", &[shape.blocks, layout.block_bytes(shape.page)])?;
        Ok(Self {
            format: F::default(),
            bytes: B::zero_bytes(device, len)?,
        })
    }
}

/// Overwrites every entry.
pub(super) fn fill<B: Backend, F>(entries: &mut Entries<B, F>, with: Filling) -> Result<()>
where
    F: ByteFormat + super::format::CacheFormat<Store<B> = ByteStore<B, F>>,
{
    let Entries {
        device,
        shape,
        store,
        ..
    } = entries;
    // The same row for every slot, or from each to the next one value further on
    let row_stride = match with {
        Filling::Value(_) => 0,
        Filling::Random(_) => 1,
    };
    let len = shape.width() + row_stride * shape.slots();
    let values = with.values::<B, B::Elem>(device, len)?;
    let part = |offset, width| Strided::<B, B::Elem> {
        buffer: &values,
        offset,
        rows: shape.slots(),
        heads: 1,
        width,
        row_stride,
        head_stride: 0,
    };
    let slots: Vec<Option<usize>> = (0..shape.slots()).map(Some).collect();
    let (latent, rope) = (part(0, shape.latent), part(shape.latent, shape.rope));
    B::encode(
        device,
        store.format,
        &mut store.bytes,
        *shape,
        &slots,
        latent,
        rope,
    )
}

/// Makes a [`ByteFormat`] a [`CacheFormat`](super::format::CacheFormat).
macro_rules! byte_format {
    (impl<$($scale:ident)?> $format:ty, $name:expr, $kind:ident, latent $latent:literal, rope $rope:literal) => {
        impl $(<$scale: super::ScaleKind>)? crate::cache::format::sealed::Sealed for $format {}

        impl $(<$scale: super::ScaleKind>)? crate::cache::format::CacheFormat for $format {
            const NAME: &'static str = $name;
            const KIND: crate::cache::format::EntryKind = crate::cache::format::EntryKind::$kind;
            const LATENT_GRAIN: usize = $latent;
            const ROPE_GRAIN: usize = $rope;
            const PLAIN: bool = false;
            type Element = f32;
            type Store<B: crate::backend::Backend> = crate::cache::bytes::ByteStore<B, Self>;

            fn bytes_per_token(latent: usize, rope: usize) -> usize {
                let layout = <Self as crate::cache::bytes::ByteFormat>::layout(latent, rope);
                layout.data + layout.scales
            }

            fn zeros<B: crate::backend::Backend>(
                device: &B::Device,
                shape: crate::cache::format::EntryShape,
            ) -> crate::error::Result<Self::Store<B>> {
                crate::cache::bytes::ByteStore::zeros(device, shape)
            }

            fn write<B: crate::backend::Backend>(
                entries: &mut crate::cache::format::Entries<B, Self>,
                slots: &[Option<usize>],
                latent: crate::backend::Strided<'_, B, B::Elem>,
                rope: crate::backend::Strided<'_, B, B::Elem>,
            ) -> crate::error::Result<()> {
                let (store, shape) = (&mut entries.store, entries.shape);
                B::encode(&entries.device, store.format, &mut store.bytes, shape, slots, latent, rope)
            }

            fn read<B: crate::backend::Backend>(
                entries: &crate::cache::format::Entries<B, Self>,
                slots: &[usize],
            ) -> crate::error::Result<[B::Buffer<B::Elem>; 2]> {
                let store = &entries.store;
                B::decode(&entries.device, store.format, &store.bytes, entries.shape, slots)
            }

            fn attend<B, O, const H: usize, const C: usize>(
                entries: &crate::cache::format::Entries<B, Self>,
                attention: &crate::backend::BytesAttention<'_, B>,
            ) -> crate::error::Result<Option<O>>
            where
                B: crate::backend::Backend,
                O: crate::attention::AttentionOutput<B, H, C>,
            {
                let (store, shape) = (&entries.store, entries.shape);
                O::attend_bytes(&entries.device, store.format, &store.bytes, shape, attention)
            }

            fn select<B: crate::backend::Backend>(
                entries: &crate::cache::format::Entries<B, Self>,
                indexing: &crate::backend::BytesIndexing<'_, B>,
                most: usize,
            ) -> crate::error::Result<Option<B::Indices>> {
                let (store, shape) = (&entries.store, entries.shape);
                B::index_select_bytes(&entries.device, store.format, &store.bytes, shape, indexing, most)
            }

            fn plain<B: crate::backend::Backend>(_: &Self::Store<B>) -> Option<&B::Buffer<f32>> {
                None
            }

            fn coded<B: crate::backend::Backend>(
                entries: &crate::cache::format::Entries<B, Self>,
            ) -> Option<crate::cache::bytes::CodedMemory<'_, B>> {
                let (store, shape) = (&entries.store, entries.shape);
                Some(crate::cache::bytes::CodedMemory {
                    coding: crate::cache::bytes::ByteFormat::coding(store.format),
                    layout: <Self as crate::cache::bytes::ByteFormat>::layout(shape.latent, shape.rope),
                    bytes: &store.bytes,
                })
            }

            fn bytes<B: crate::backend::Backend>(
                entries: &crate::cache::format::Entries<B, Self>,
            ) -> crate::error::Result<Vec<u8>> {
                B::download_bytes(&entries.device, &entries.store.bytes)
            }

            fn fill<B: crate::backend::Backend>(
                entries: &mut crate::cache::format::Entries<B, Self>,
                with: crate::cache::format::Filling,
            ) -> crate::error::Result<()> {
                crate::cache::bytes::fill(entries, with)
            }
        }
    };
}
pub(super) use byte_format;
