//! What attention in the expanded form meets: what a batch's requests have in a cache, some tokens at a time, and behind the last of each
//! request's its new tokens. So a request whose cached tokens fit in a chunk is attended to at once, and nothing of it is merged.

use super::format::{CacheFormat, Entries};
use super::layout::Geometry;
use crate::backend::{Backend, Place, Strided};
use crate::batch::Batch;
use crate::error::{Error, Result, expect_count};
use crate::segments::Segments;
use crate::visibility::Visibility;

/// Some tokens of a batch's requests, a row each.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Where a row's token is cached; `None` for a new one.
    slots: Vec<Option<usize>>,
    /// The row of each new token that is among them.
    rows: Vec<Option<usize>>,
    /// Every new token of a request against the request's rows; requests without rows here have no segment.
    pub(crate) segments: Segments,
}

/// All chunks of a batch, of so many cached tokens at most: one at least, so that there is a result where nobody sees anything. Tokens that
/// are too far back for any new one to see are left out.
#[derive(Debug)]
pub(crate) struct Chunks<'a> {
    geometry: &'a Geometry,
    batch: &'a Batch,
    tokens: usize,
    visibility: Visibility,
    request: usize,
    /// The request's first token that no chunk has had yet.
    token: usize,
    done: bool,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(
        geometry: &'a Geometry,
        batch: &'a Batch,
        tokens: usize,
        visibility: Visibility,
    ) -> Self {
        Self {
            geometry,
            batch,
            tokens,
            visibility,
            request: 0,
            token: 0,
            done: false,
        }
    }

    fn chunk(&mut self) -> Result<Chunk> {
        if self.tokens == 0 {
            return Err(Error::BadConstant(
                "a chunk of context has to hold at least one token".to_owned(),
            ));
        }
        let batch = self.batch;
        let (mut list, mut slots, mut rows) = (Vec::new(), Vec::new(), vec![None; batch.tokens()]);
        let mut room = self.tokens;
        while let Some(request) = batch.requests.get(self.request) {
            // Requests without new tokens have nobody to see theirs, and no later one sees further back than the first
            let (first_seen, _) = self.visibility.bounds(request.cached as i64);
            let first_seen = usize::try_from(first_seen).unwrap_or(0);
            let start = self.token.max(first_seen).min(request.cached);
            let end = request.cached.min(start.saturating_add(room));
            if request.live > 0 {
                if start == end && end < request.cached {
                    break;
                }
                let first = slots.len();
                let cached = self.geometry.range(self.request, request, start..end)?;
                slots.extend(cached.into_iter().map(Some));
                room -= end - start;
                if end == request.cached {
                    for row in request.rows() {
                        rows[row] = Some(slots.len());
                        slots.push(None);
                    }
                }
                list.push((self.request, first..slots.len(), start));
                if end < request.cached {
                    self.token = end;
                    break;
                }
            }
            self.request += 1;
            self.token = 0;
        }
        self.done = self.request == batch.requests.len();
        let segments = batch.against(self.visibility, list.into_iter(), slots.len())?;
        Ok(Chunk {
            slots,
            rows,
            segments,
        })
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = self.chunk();
        self.done |= chunk.is_err();
        Some(chunk)
    }
}

impl Chunk {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The rows' latents and rotated keys. `new` are those of the batch's tokens.
    pub(crate) fn entries<B: Backend, F: CacheFormat>(
        &self,
        cache: &Entries<B, F>,
        new: [Strided<'_, B, B::Elem>; 2],
    ) -> Result<[B::Buffer<B::Elem>; 2]> {
        for part in new {
            expect_count("rows beside a cache", part.rows, self.rows.len())?;
        }
        let device = &cache.device;
        let in_order = self.rows.iter().copied().eq((0..self.len()).map(Some));
        if in_order {
            let [latent, rope] = new;
            return Ok([B::copy(device, latent)?, B::copy(device, rope)?]);
        }
        let mut both = match self.slots.iter().flatten().next() {
            // Any token does in the place of a new one, which is written over it
            Some(any) => cache.read(
                &self
                    .slots
                    .iter()
                    .map(|slot| slot.unwrap_or(*any))
                    .collect::<Vec<_>>(),
            )?,
            None => {
                let zeros =
                    |part: &Strided<'_, B, B::Elem>| B::zeros(device, self.len() * part.width);
                let [latent, rope] = &new;
                [zeros(latent)?, zeros(rope)?]
            }
        };
        if self.rows.iter().any(Option::is_some) {
            for (part, into) in new.into_iter().zip(&mut both) {
                let place = Place {
                    stride: part.width,
                    offset: 0,
                    head_stride: part.width,
                };
                B::scatter(device, part, into, &self.rows, place)?;
            }
        }
        Ok(both)
    }
}
