//! The expanded form over a cache of latents: a chunk of them is expanded at a time.

use crate::attended::Attended;
use crate::backend::Backend;
use crate::cache::ContextChunk;
use crate::error::{Error, Result};
use crate::heads::Heads;
use crate::rotary::RopeLayout;
use crate::rows::Rows;
use crate::softmax::Softmax;

use super::{AttentionOutput, expanded};

/// [`expanded`](super::expanded()) over the chunks of a context, of which there is at least one: `expand` makes heads of keys and values of a
/// chunk's latents. One chunk alone is the whole answer; more of them are merged by log-sum-exp.
///
/// # Errors
/// A chunk's, those of `expand` and of [`expanded`](super::expanded()), and when there is no chunk.
pub fn over_context<
    'a,
    B,
    L,
    O,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const C: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    context: impl IntoIterator<Item = Result<ContextChunk<B, L, C, R>>>,
    softmax: impl Into<Softmax<'a, B>>,
    mut expand: impl FnMut(&Rows<B, C>) -> Result<Heads<B, H, KV>>,
) -> Result<O>
where
    B: Backend + 'a,
    L: RopeLayout,
    O: AttentionOutput<B, H, V>,
{
    let softmax = softmax.into();
    let mut chunks = context.into_iter();
    let Some(first) = chunks.next().transpose()? else {
        return Err(Error::BadBatch(
            "there are no keys, not even chunks of none".to_owned(),
        ));
    };
    let Some(second) = chunks.next() else {
        return over_chunk(q, &first, softmax, &mut expand);
    };
    let mut whole: Attended<B, H, V> = over_chunk(q, &first, softmax, &mut expand)?;
    drop(first);
    for chunk in std::iter::once(second).chain(chunks) {
        whole.merge(&over_chunk(q, &chunk?, softmax, &mut expand)?)?;
    }
    O::of(whole)
}

/// The expanded form over one chunk.
fn over_chunk<
    B,
    L,
    O,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const C: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    chunk: &ContextChunk<B, L, C, R>,
    softmax: Softmax<'_, B>,
    expand: &mut impl FnMut(&Rows<B, C>) -> Result<Heads<B, H, KV>>,
) -> Result<O>
where
    B: Backend,
    L: RopeLayout,
    O: AttentionOutput<B, H, V>,
{
    let kv = expand(&chunk.latent)?;
    expanded(q, &kv, &chunk.k_rope, &chunk.segments, softmax)
}
