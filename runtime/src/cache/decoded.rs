//! Attention over entries that are no plain numbers: they are decoded some tokens at a time.

use super::format::CacheFormat;
use super::latent::{Cursor, LatentCache};
use super::layout::CacheLayout;
use crate::attended::Attended;
use crate::attention::{self, AttentionOutput};
use crate::backend::Backend;
use crate::batch::Batch;
use crate::error::{Result, expect_count};
use crate::heads::{Heads, HeadsView};
use crate::rotary::RopeLayout;
use crate::segments::{Segment, Segments};
use crate::selection::Selection;
use crate::softmax::Softmax;
use crate::visibility::Visibility;

/// How many tokens are decoded at once.
const TOKENS_AT_ONCE: usize = 4096;

impl<B: Backend, F: CacheFormat, L: RopeLayout, P: CacheLayout, const C: usize, const R: usize>
    LatentCache<B, F, L, P, C, R>
{
    /// Absorbed attention over decoded entries.
    pub(super) fn attend_decoded<O: AttentionOutput<B, H, C>, const H: usize, const K: usize>(
        &self,
        batch: &Batch,
        q_latent: &Heads<B, H, C>,
        q_rope: HeadsView<'_, B, H, R>,
        selection: Option<&Selection<B, K>>,
        visibility: Visibility,
        softmax: Softmax<'_, B>,
    ) -> Result<O> {
        // Bias and dropout count keys in their sequence, and gathered keys have left it
        if let Some(selection) = selection
            && softmax.added().is_none()
            && softmax.dropped().is_none()
            && let Some(few) = self.gathered(batch, selection, visibility)?
        {
            let (latent, k_rope) = self.gather(&few.slots)?;
            return attention::absorbed_selected(
                q_latent,
                q_rope,
                &latent,
                &k_rope,
                &few.segments,
                &few.selection,
                softmax,
            );
        }
        let mut whole: Option<Attended<B, H, C>> = None;
        let mut next = Cursor::default();
        while let Some(chunk) = self.chunk(batch, TOKENS_AT_ONCE, visibility, &mut next)? {
            let (latent, k_rope, segments) = (&chunk.latent, &chunk.k_rope, &chunk.segments);
            let part = match selection {
                None => attention::absorbed(q_latent, q_rope, latent, k_rope, segments, softmax)?,
                Some(selection) => attention::absorbed_selected(
                    q_latent, q_rope, latent, k_rope, segments, selection, softmax,
                )?,
            };
            match &mut whole {
                Some(whole) => whole.merge(&part)?,
                None => whole = Some(part),
            }
        }
        if let Some(whole) = whole {
            return O::of(whole);
        }
        // Nobody sees anything
        let (latent, k_rope) = self.gather(&[])?;
        let nothing = batch.against(visibility, std::iter::empty(), 0)?;
        attention::absorbed(q_latent, q_rope, &latent, &k_rope, &nothing, softmax)
    }

    /// The selected tokens alone; `None` where they are more than should be decoded at once.
    fn gathered<const K: usize>(
        &self,
        batch: &Batch,
        selection: &Selection<B, K>,
        visibility: Visibility,
    ) -> Result<Option<Gathered<B, K>>> {
        expect_count("rows of a selection", selection.rows(), batch.tokens())?;
        let (segments, _) = self.geometry.reading(batch, visibility)?;
        let mut chosen = selection.to_vec()?;
        let (mut slots, mut list) = (Vec::new(), Vec::new());
        for segment in segments.list() {
            let rows = segment.queries.start * K..segment.queries.end * K;
            let tokens = renumber::<K>(&segments, segment, &mut chosen[rows]);
            let keys = slots.len()..slots.len() + tokens.len();
            if keys.end > TOKENS_AT_ONCE {
                return Ok(None);
            }
            let i = segment.sequence;
            slots.extend(self.geometry.slots_of(i, &batch.requests[i], &tokens)?);
            list.push(Segment {
                keys,
                ..segment.clone()
            });
        }
        // Which keys a query sees has been settled by taking the others out of its selection
        let segments = Segments::new(list, Visibility::FULL, batch.tokens(), slots.len());
        let selection = Selection::trusted(&self.device, batch.tokens(), chosen)?;
        Ok(Some(Gathered {
            slots,
            segments,
            selection,
        }))
    }
}

/// Tokens picked out of a cache, and what queries select of them.
struct Gathered<B: Backend, const K: usize> {
    slots: Vec<usize>,
    segments: Segments,
    selection: Selection<B, K>,
}

/// The tokens that any query of a segment selects and sees, ascending; the queries' `chosen` lists become places in that list.
fn renumber<const K: usize>(
    segments: &Segments,
    segment: &Segment,
    chosen: &mut [i32],
) -> Vec<usize> {
    let mut tokens = Vec::new();
    for (i, list) in chosen.chunks_exact_mut(K).enumerate() {
        let mut kept = 0;
        for place in 0..K {
            let Ok(token) = usize::try_from(list[place]) else {
                break;
            };
            if token < segment.keys.len() && segments.sees(segment, i, token) {
                tokens.push(token);
                list[kept] = list[place];
                kept += 1;
            }
        }
        list[kept..].fill(-1);
    }
    tokens.sort_unstable();
    tokens.dedup();
    for place in chosen.iter_mut().filter(|place| **place >= 0) {
        // Every token that is left is in the list, and the list is shorter than the largest token
        *place = tokens.partition_point(|&token| (token as i64) < i64::from(*place)) as i32;
    }
    tokens
}
