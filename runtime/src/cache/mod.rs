//! Key-value caches: of latents, and of expanded keys and values; contiguous and paged.

mod bytes;
mod context;
mod decoded;
mod erased;
mod format;
mod formats;
mod index;
mod indexed;
mod latent;
mod layout;
mod naive;
mod pooled;
mod prologue;

pub use bytes::{ByteFormat, ByteLayout};
#[cfg_attr(
    not(feature = "cuda"),
    allow(unused_imports, reason = "for backends that have kernels")
)]
pub(crate) use bytes::{CodedMemory, Coding};
#[cfg(feature = "cuda")]
pub(crate) use context::{Chunk, Chunks};
pub(crate) use format::Entries;
pub use format::{CacheFormat, EntryKind, EntryShape, Filling};
pub use formats::{
    AnyScale, Fp8DsMla, Fp8E4m3, Fp8E5m2, Fp8Model1, IndexFp8, IndexMxfp4, Mxfp8, PowerOfTwo,
    ScaleKind,
};
pub use index::IndexCache;
pub use indexed::{IndexStore, IndexedCache, NoCache};
pub use latent::{ContextChunk, LatentCache};
#[cfg(feature = "cuda")]
pub(crate) use layout::Geometry;
pub use layout::{CacheElement, CacheLayout, Contiguous, Paged};
pub use naive::NaiveCache;
pub use pooled::PooledIndexCache;
pub use prologue::{Prologue, PrologueKey, PrologueParts};
