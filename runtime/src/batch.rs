//! Ragged batches: how many tokens each request has in the cache, how many are new, and where its blocks lie.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result, expect_count, product};
use crate::forms::Forms;
use crate::segments::{Segment, Segments};
use crate::visibility::Visibility;

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Tokens that the cache already holds.
    pub cached: usize,
    /// Tokens in this batch; 0 is allowed.
    pub new: usize,
    /// Ids of its cache blocks in order. Token `t` is in block `t / page`, at `t % page`. More than needed is fine.
    pub blocks: &'a [u32],
}

/// Requests whose new tokens stand one after another in the input's rows.
#[derive(Debug, Clone)]
pub struct Batch {
    pub(crate) requests: Vec<Request>,
    positions: Vec<u32>,
    slots: Option<Vec<i64>>,
    blocks: Option<Vec<u32>>,
    visible: Option<Arc<[bool]>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) cached: usize,
    pub(crate) new: usize,
    /// Those of them that are no padding: the first ones.
    pub(crate) live: usize,
    /// First row of the request's new tokens.
    pub(crate) row: usize,
    pub(crate) blocks: Vec<u32>,
}

/// Where the tokens of each segment lie in a cache.
#[derive(Debug, Clone)]
pub struct Pages {
    page: usize,
    tables: Vec<Vec<u32>>,
}

impl Pages {
    /// Tables of blocks of `page` slots each, one per segment.
    pub(crate) fn new(page: usize, tables: Vec<Vec<u32>>) -> Self {
        Self { page, tables }
    }

    /// Slots per block.
    pub fn page(&self) -> usize {
        self.page
    }

    /// The blocks of each segment, in the order of its tokens.
    pub fn tables(&self) -> &[Vec<u32>] {
        &self.tables
    }

    /// The slot of token `index` of a segment.
    pub fn slot(&self, segment: usize, index: usize) -> usize {
        self.tables[segment][index / self.page] as usize * self.page + index % self.page
    }
}

impl Batch {
    /// A batch of requests; positions continue from each request's cached tokens.
    ///
    /// # Errors
    /// When a request's length does not fit in 32 bits.
    pub fn new(sequences: &[Sequence<'_>]) -> Result<Self> {
        let mut positions = Vec::new();
        let mut requests = Vec::with_capacity(sequences.len());
        for (i, sequence) in sequences.iter().enumerate() {
            let end = sequence
                .cached
                .checked_add(sequence.new)
                .and_then(|end| u32::try_from(end).ok());
            let (Some(end), Ok(cached)) = (end, u32::try_from(sequence.cached)) else {
                return Err(Error::BadBatch(format!(
                    "request {i} has {} cached and {} new tokens, together at most {} are possible",
                    sequence.cached,
                    sequence.new,
                    u32::MAX
                )));
            };
            requests.push(Request {
                cached: sequence.cached,
                new: sequence.new,
                live: sequence.new,
                row: positions.len(),
                blocks: sequence.blocks.to_vec(),
            });
            positions.extend(cached..end);
        }
        Ok(Self {
            requests,
            positions,
            slots: None,
            blocks: None,
            visible: None,
        })
    }

    /// Other positions for the rope: one per new token.
    ///
    /// # Errors
    /// When there is not one per new token.
    pub fn with_positions(mut self, positions: Vec<u32>) -> Result<Self> {
        expect_count("positions of a batch", positions.len(), self.tokens())?;
        self.positions = positions;
        Ok(self)
    }

    /// The cache slot (`block * page + offset`) of each new token, as engines hand it over, or -1 for padding behind a request's
    /// last token: it is not cached, sees nothing and is seen by nothing. A cache refuses a slot that is not the one that the
    /// request's blocks name, since attention reads through the blocks.
    ///
    /// # Errors
    /// When there is not one per new token, one is below -1, or a token follows padding.
    pub fn with_slot_mapping(mut self, slots: Vec<i64>) -> Result<Self> {
        expect_count("slots of a batch", slots.len(), self.tokens())?;
        if let Some(slot) = slots.iter().find(|&&slot| slot < -1) {
            return Err(Error::BadBatch(format!(
                "slot {slot} is neither a slot nor -1"
            )));
        }
        for (i, request) in self.requests.iter_mut().enumerate() {
            let own = &slots[request.row..request.row + request.new];
            request.live = own.iter().position(|&slot| slot < 0).unwrap_or(own.len());
            if own[request.live..].iter().any(|&slot| slot >= 0) {
                return Err(Error::BadBatch(format!(
                    "a token of request {i} follows padding: slots of -1 come last"
                )));
            }
        }
        self.slots = Some(slots);
        Ok(self)
    }

    /// An id for each new token: neighbours with the same one see each other, whatever else they see; 0 belongs to no block. The
    /// tokens of a block have to be new in the same batch.
    ///
    /// # Errors
    /// When there is not one per new token.
    pub fn with_blocks(mut self, ids: Vec<u32>) -> Result<Self> {
        expect_count("blocks of a batch", ids.len(), self.tokens())?;
        self.blocks = Some(ids);
        Ok(self)
    }

    /// A dense mask: for each request `new` lines, one per new token, of `cached + new` entries, true where the token sees the key.
    ///
    /// # Errors
    /// When there is not one per new token and key.
    pub fn with_visible(mut self, bits: &[bool]) -> Result<Self> {
        expect_count("entries of the mask", bits.len(), self.lines()?.1)?;
        self.visible = Some(bits.into());
        Ok(self)
    }

    /// Which form is the cheaper for each request, MHA or MQA. `mha_from` says from how many new tokens on it is MHA: pairs of tokens
    /// already cached, ascending from 0, and new tokens; a pair holds up to the next one. Padding counts for nothing.
    ///
    /// # Errors
    /// When the pairs are not in order, or there is none for 0.
    pub fn forms(&self, mha_from: &[(usize, usize)]) -> Result<Forms> {
        Forms::of(self, mha_from)
    }

    /// The rows of some requests' new tokens, padding included.
    pub(crate) fn rows_of(&self, kept: &[bool]) -> Vec<usize> {
        self.kept(kept)
            .flat_map(|(_, request)| request.row..request.row + request.new)
            .collect()
    }

    /// The same rows, of which those of all but some requests belong to nobody: they see nothing, and nothing sees them.
    pub(crate) fn silenced(&self, kept: &[bool]) -> Self {
        let mut batch = self.clone();
        for (request, kept) in batch.requests.iter_mut().zip(kept) {
            if !kept {
                request.live = 0;
            }
        }
        batch
    }

    /// Some requests alone, their rows one after another.
    pub(crate) fn only(&self, kept: &[bool]) -> Result<Self> {
        let rows = self.rows_of(kept);
        let mut next = 0;
        let mut requests = Vec::new();
        for (_, request) in self.kept(kept) {
            requests.push(Request {
                row: next,
                ..request.clone()
            });
            next += request.new;
        }
        let (lines, _) = self.lines()?;
        let visible = self.visible.as_deref().map(|all| {
            let of = |(i, request): (usize, &Request)| {
                let end = lines[i] + request.new * (request.cached + request.new);
                &all[lines[i]..end]
            };
            self.kept(kept).flat_map(of).copied().collect()
        });
        fn picked<T: Copy>(all: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&row| all[row]).collect()
        }
        Ok(Self {
            requests,
            positions: picked(&self.positions, &rows),
            slots: self.slots.as_deref().map(|slots| picked(slots, &rows)),
            blocks: self.blocks.as_deref().map(|ids| picked(ids, &rows)),
            visible,
        })
    }

    fn kept<'a>(&'a self, kept: &'a [bool]) -> impl Iterator<Item = (usize, &'a Request)> {
        let all = self.requests.iter().enumerate().zip(kept);
        all.filter(|(_, kept)| **kept).map(|(request, _)| request)
    }

    /// New tokens of all requests: the rows of the input.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// One position per new token.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Number of requests.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// The requests.
    pub fn sequences(&self) -> impl Iterator<Item = Sequence<'_>> {
        self.requests.iter().map(|request| Sequence {
            cached: request.cached,
            new: request.new,
            blocks: &request.blocks,
        })
    }

    /// The new tokens of each request among themselves.
    ///
    /// # Errors
    /// When a block has a hole, or the batch says less or more about who sees whom than a layer of this visibility is told.
    pub fn segments(&self, visibility: Visibility) -> Result<Segments> {
        let own = self.requests.iter().enumerate();
        let own = own.map(|(i, request)| (i, request.rows(), request.cached));
        self.against(visibility, own, self.tokens())
    }

    /// The new tokens of requests against keys of theirs: the request, rows of keys, and the first one's index in the sequence.
    pub(crate) fn against(
        &self,
        visibility: Visibility,
        keys: impl Iterator<Item = (usize, Range<usize>, usize)>,
        key_rows: usize,
    ) -> Result<Segments> {
        let lines = self.lines()?.0;
        let list = keys
            .filter(|&(i, ..)| self.requests[i].live > 0)
            .map(|(i, keys, first_key)| {
                let request = &self.requests[i];
                Segment {
                    queries: request.rows(),
                    keys,
                    first_query: request.cached,
                    first_key,
                    sequence: i,
                    shift: 0,
                    line: (lines[i], request.cached + request.new),
                }
            })
            .collect();
        Segments::new(list, visibility, self.tokens(), key_rows)
            .with_input(self.blocks.as_deref(), self.visible.as_ref())
    }

    /// Where each request's lines of a dense mask start, and where the last one's end.
    fn lines(&self) -> Result<(Vec<usize>, usize)> {
        let mut end = 0_usize;
        let mut starts = Vec::with_capacity(self.requests.len());
        for request in &self.requests {
            starts.push(end);
            let own = product("a dense mask", &[request.new, request.cached + request.new])?;
            end = end.checked_add(own).ok_or(Error::Overflow {
                what: "a dense mask",
            })?;
        }
        Ok((starts, end))
    }

    pub(crate) fn slot_mapping(&self) -> Option<&[i64]> {
        self.slots.as_deref()
    }
}

impl Request {
    /// Rows of the new tokens, padding left out.
    pub(crate) fn rows(&self) -> std::ops::Range<usize> {
        self.row..self.row + self.live
    }

    /// Tokens once the new ones are written.
    pub(crate) fn total(&self) -> usize {
        self.cached + self.live
    }
}
