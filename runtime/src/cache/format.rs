//! How a cache stores its tokens' entries.
//!
//! An entry is a row of values: a latent and a rotated key part, or an indexer's key and nothing behind it. A number type is a
//! format: the values stand side by side, and attention reads them where they are. Other formats store bytes, which are
//! encoded when they are written. Where a backend has a kernel for them, attention reads them where they are too; else they are decoded, some
//! tokens at a time.

use std::fmt::Debug;

use super::bytes::CodedMemory;
use super::layout::{CacheElement, Geometry};
use crate::attention::AttentionOutput;
use crate::backend::{Backend, BytesAttention, BytesIndexing, Place, Strided};
use crate::element::Scalar;
use crate::error::{Result, product};
use crate::weights::generator::Recipe;

pub(super) mod sealed {
    /// Keeps [`CacheFormat`](super::CacheFormat) to this crate's types: a backend has to know how each is encoded.
    pub trait Sealed {}
    impl<E: super::CacheElement> Sealed for E {}
}

/// The widths of an entry, and the blocks that entries stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryShape {
    /// Width of the latent, or of an indexer's key.
    pub latent: usize,
    /// Width of the rotated key part behind it; 0 where there is none.
    pub rope: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Tokens per block. Slot `s` is token `s % page` of block `s / page`.
    pub page: usize,
}

impl EntryShape {
    /// Entries of these widths in a cache's blocks.
    pub(crate) fn new(latent: usize, rope: usize, geometry: &Geometry) -> Self {
        let (blocks, page) = geometry.blocks();
        Self {
            latent,
            rope,
            blocks,
            page,
        }
    }

    /// Values of one entry.
    pub fn width(&self) -> usize {
        self.latent + self.rope
    }

    /// Entries that there is room for.
    pub fn slots(&self) -> usize {
        self.blocks * self.page
    }
}

/// What a format's entries may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Anything.
    Any,
    /// Latents and rotated key parts.
    Latent,
    /// An indexer's keys.
    Key,
}

impl EntryKind {
    /// Whether entries of `kind` can be stored.
    pub const fn holds(self, kind: Self) -> bool {
        matches!(
            (self, kind),
            (Self::Any, _) | (Self::Latent, Self::Latent) | (Self::Key, Self::Key)
        )
    }
}

/// What a cache can store: any [`CacheElement`], or a type that names a byte format.
pub trait CacheFormat: sealed::Sealed + Debug + Send + Sync + Sized + 'static {
    /// Name in messages and reports, e.g. `bf16`.
    const NAME: &'static str;
    /// What the entries may be.
    const KIND: EntryKind;
    /// The latent's width has to be a multiple of this: so many neighbours share a scale.
    const LATENT_GRAIN: usize;
    /// The rotated part's width has to be a multiple of this.
    const ROPE_GRAIN: usize;
    /// Whether the values are stored as numbers, [`Element`](Self::Element)s, that attention can read where they are.
    const PLAIN: bool;
    /// The number type of a plain format. Nothing is stored in it where [`PLAIN`](Self::PLAIN) is false.
    type Element: CacheElement;
    /// A cache's memory.
    type Store<B: Backend>: Debug + Send + Sync + 'static;

    /// Bytes that the entry of one token takes; what pads whole blocks is not counted.
    fn bytes_per_token(latent: usize, rope: usize) -> usize;

    /// Memory for entries, all of them zeros.
    ///
    /// # Errors
    /// When it does not fit.
    #[doc(hidden)]
    fn zeros<B: Backend>(device: &B::Device, shape: EntryShape) -> Result<Self::Store<B>>;

    /// Writes one entry per slot, a row of `latent` and one of `rope`; skips `None`.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn write<B: Backend>(
        entries: &mut Entries<B, Self>,
        slots: &[Option<usize>],
        latent: Strided<'_, B, B::Elem>,
        rope: Strided<'_, B, B::Elem>,
    ) -> Result<()>;

    /// The latents and the rotated parts of some slots, `[slots, latent]` and `[slots, rope]`.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn read<B: Backend>(
        entries: &Entries<B, Self>,
        slots: &[usize],
    ) -> Result<[B::Buffer<B::Elem>; 2]>;

    /// Absorbed attention that reads entries of bytes where they are; `None`, and nothing done, where entries are numbers, or the backend has
    /// no kernel for it.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn attend<B: Backend, O: AttentionOutput<B, H, C>, const H: usize, const C: usize>(
        _entries: &Entries<B, Self>,
        _attention: &BytesAttention<'_, B>,
    ) -> Result<Option<O>> {
        Ok(None)
    }

    /// An indexer's choice among entries of bytes, read where they are; `None`, and nothing done, where entries are numbers, or the backend has
    /// no kernel for it.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn select<B: Backend>(
        _entries: &Entries<B, Self>,
        _indexing: &BytesIndexing<'_, B>,
        _most: usize,
    ) -> Result<Option<B::Indices>> {
        Ok(None)
    }

    /// The memory of a plain format as numbers, `[slots, width]`; `None` for other formats.
    #[doc(hidden)]
    fn plain<B: Backend>(store: &Self::Store<B>) -> Option<&B::Buffer<Self::Element>>;

    /// The memory of a byte format, and how it codes values; `None` for plain formats.
    #[doc(hidden)]
    fn coded<B: Backend>(_entries: &Entries<B, Self>) -> Option<CodedMemory<'_, B>> {
        None
    }

    /// The memory, as bytes.
    ///
    /// # Errors
    /// When the device refuses the copy.
    #[doc(hidden)]
    fn bytes<B: Backend>(entries: &Entries<B, Self>) -> Result<Vec<u8>>;

    /// Overwrites every entry.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn fill<B: Backend>(entries: &mut Entries<B, Self>, with: Filling) -> Result<()>;
}

/// What every entry of a cache is overwritten with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Filling {
    /// One value.
    Value(f64),
    /// Values of deviation 1 that depend on the seed alone.
    Random(u64),
}

impl From<f64> for Filling {
    fn from(value: f64) -> Self {
        Self::Value(value)
    }
}

impl Filling {
    /// So many values.
    pub(super) fn values<B: Backend, E: Scalar>(
        self,
        device: &B::Device,
        len: usize,
    ) -> Result<B::Buffer<E>> {
        let values = match self {
            Self::Value(value) => vec![E::from_f64(value); len],
            Self::Random(seed) => {
                let drawn = Recipe::for_hidden_states(seed).values("cache", len);
                drawn.into_iter().map(E::from_f32).collect()
            }
        };
        B::upload(device, values)
    }
}

/// A cache's entries. Which slot is whose is not known here.
#[derive(Debug)]
pub struct Entries<B: Backend, F: CacheFormat> {
    pub(super) device: B::Device,
    pub(super) shape: EntryShape,
    pub(super) store: F::Store<B>,
}

impl<B: Backend, F: CacheFormat> Entries<B, F> {
    /// Zeros.
    pub(super) fn new(device: &B::Device, shape: EntryShape) -> Result<Self> {
        product(
            "a cache",
            &[shape.blocks, shape.page, shape.width().max(1), 8],
        )?;
        Ok(Self {
            device: device.clone(),
            shape,
            store: F::zeros::<B>(device, shape)?,
        })
    }

    /// Entries that are somewhere already.
    #[cfg(feature = "cuda")]
    pub(crate) fn over(device: &B::Device, shape: EntryShape, store: F::Store<B>) -> Self {
        Self {
            device: device.clone(),
            shape,
            store,
        }
    }

    /// The memory, and what stands in it.
    #[cfg(feature = "cuda")]
    pub(crate) fn memory(&self) -> (&F::Store<B>, EntryShape) {
        (&self.store, self.shape)
    }

    /// Writes one entry per slot; skips `None`.
    pub(super) fn write(
        &mut self,
        slots: &[Option<usize>],
        latent: Strided<'_, B, B::Elem>,
        rope: Strided<'_, B, B::Elem>,
    ) -> Result<()> {
        F::write(self, slots, latent, rope)
    }

    /// `[slots, latent]` and `[slots, rope]`.
    pub(super) fn read(&self, slots: &[usize]) -> Result<[B::Buffer<B::Elem>; 2]> {
        F::read(self, slots)
    }

    /// Absorbed attention over entries of bytes, read where they are, if that can be.
    pub(super) fn attend<O: AttentionOutput<B, H, C>, const H: usize, const C: usize>(
        &self,
        attention: &BytesAttention<'_, B>,
    ) -> Result<Option<O>> {
        F::attend(self, attention)
    }

    /// An indexer's choice among entries of bytes, read where they are, if that can be.
    pub(crate) fn select(
        &self,
        indexing: &BytesIndexing<'_, B>,
        most: usize,
    ) -> Result<Option<B::Indices>> {
        F::select(self, indexing, most)
    }

    /// The entries as a `[slots, width]` window; `None` where they are no plain numbers.
    pub(super) fn window(&self) -> Option<Strided<'_, B, F::Element>> {
        let width = self.shape.width();
        F::plain::<B>(&self.store).map(|buffer| Strided {
            buffer,
            offset: 0,
            rows: self.shape.slots(),
            heads: 1,
            width,
            row_stride: width,
            head_stride: 0,
        })
    }

    /// Stores `value` everywhere.
    pub(super) fn fill(&mut self, with: Filling) -> Result<()> {
        F::fill(self, with)
    }
}

impl<E: CacheElement> CacheFormat for E {
    const NAME: &'static str = <E as Scalar>::NAME;
    const KIND: EntryKind = EntryKind::Any;
    const LATENT_GRAIN: usize = 1;
    const ROPE_GRAIN: usize = 1;
    const PLAIN: bool = true;
    type Element = E;
    type Store<B: Backend> = B::Buffer<E>;

    fn bytes_per_token(latent: usize, rope: usize) -> usize {
        (latent + rope) * size_of::<E>()
    }

    fn zeros<B: Backend>(device: &B::Device, shape: EntryShape) -> Result<B::Buffer<E>> {
        B::zeros(device, product("a cache", &[shape.slots(), shape.width()])?)
    }

    fn write<B: Backend>(
        entries: &mut Entries<B, E>,
        slots: &[Option<usize>],
        latent: Strided<'_, B, B::Elem>,
        rope: Strided<'_, B, B::Elem>,
    ) -> Result<()> {
        let Entries {
            device,
            shape,
            store,
            ..
        } = entries;
        let [first, last] = places(shape);
        B::scatter(device, latent, store, slots, first)?;
        B::scatter(device, rope, store, slots, last)
    }

    fn read<B: Backend>(
        entries: &Entries<B, E>,
        slots: &[usize],
    ) -> Result<[B::Buffer<B::Elem>; 2]> {
        let Entries {
            device,
            shape,
            store,
            ..
        } = entries;
        let [first, last] = places(shape);
        Ok([
            B::gather(device, store, slots, first, shape.latent)?,
            B::gather(device, store, slots, last, shape.rope)?,
        ])
    }

    fn plain<B: Backend>(store: &B::Buffer<E>) -> Option<&B::Buffer<E>> {
        Some(store)
    }

    fn bytes<B: Backend>(entries: &Entries<B, E>) -> Result<Vec<u8>> {
        // Little-endian, as every machine that this crate's kernels are written for
        let values = B::download(&entries.device, &entries.store)?;
        Ok(bytemuck::cast_slice(&values).to_vec())
    }

    fn fill<B: Backend>(entries: &mut Entries<B, E>, with: Filling) -> Result<()> {
        let shape = entries.shape;
        entries.store = with.values::<B, E>(&entries.device, shape.slots() * shape.width())?;
        Ok(())
    }
}

/// Where the two parts of a plain entry stand.
fn places(shape: &EntryShape) -> [Place; 2] {
    let first = Place {
        stride: shape.width(),
        offset: 0,
        head_stride: shape.latent,
    };
    let last = Place {
        offset: shape.latent,
        head_stride: shape.rope,
        ..first
    };
    [first, last]
}
