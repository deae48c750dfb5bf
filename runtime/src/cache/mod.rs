//! Key-value caches: of latents, and of expanded keys and values; contiguous and paged.

mod erased;
mod format;
mod index;
mod indexed;
mod latent;
mod layout;
mod naive;

pub use format::{CacheFormat, EntryShape};
pub use index::IndexCache;
pub use indexed::{IndexStore, IndexedCache, NoCache};
pub use latent::{ContextChunk, LatentCache};
pub use layout::{CacheElement, CacheLayout, Contiguous, Paged};
pub use naive::NaiveCache;
