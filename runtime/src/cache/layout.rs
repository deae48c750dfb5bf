//! How a cache's slots are divided, and what a batch may do with them.

use half::{bf16, f16};

use crate::batch::{Batch, Pages, Request};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, product};
use crate::segments::{Segment, Segments};
use crate::visibility::Visibility;

/// A number type that a cache can store.
pub trait CacheElement: Scalar {}
impl CacheElement for f32 {}
impl CacheElement for f64 {}
impl CacheElement for bf16 {}
impl CacheElement for f16 {}

/// How a cache's slots are divided into blocks.
pub trait CacheLayout: std::fmt::Debug + Send + Sync + 'static {
    /// Tokens per block; `None`: one block per request, as long as the cache was made.
    const PAGE: Option<usize>;
}

/// One block per request. A batch names it as the request's only block.
#[derive(Debug, Clone, Copy)]
pub struct Contiguous;
/// Blocks of `PAGE` tokens in any order.
#[derive(Debug, Clone, Copy)]
pub struct Paged<const PAGE: usize>;

impl CacheLayout for Contiguous {
    const PAGE: Option<usize> = None;
}
impl<const PAGE: usize> CacheLayout for Paged<PAGE> {
    const PAGE: Option<usize> = Some(PAGE);
}

/// Blocks of equal size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    blocks: usize,
    page: usize,
    /// A request has one block only.
    whole: bool,
}

impl Geometry {
    /// `blocks` blocks of `page` tokens in layout `P`.
    pub(super) fn new<P: CacheLayout>(blocks: usize, page: usize) -> Result<Self> {
        if let Some(wanted) = P::PAGE {
            expect_count("tokens per block of the cache", page, wanted)?;
        }
        Self::of(blocks, page, P::PAGE.is_none())
    }

    /// `blocks` pages of `page` tokens.
    #[cfg(feature = "cuda")]
    pub(crate) fn paged(blocks: usize, page: usize) -> Result<Self> {
        Self::of(blocks, page, false)
    }

    fn of(blocks: usize, page: usize, whole: bool) -> Result<Self> {
        if page == 0 && !whole {
            return Err(Error::BadCache(
                "a block has to hold at least one token".to_owned(),
            ));
        }
        product("the cache's slots", &[blocks, page])?;
        Ok(Self {
            blocks,
            page,
            whole,
        })
    }

    /// Blocks, and tokens in each.
    pub(super) fn blocks(&self) -> (usize, usize) {
        (self.blocks, self.page)
    }

    pub(super) fn slots(&self) -> usize {
        self.blocks * self.page
    }

    /// Whether a batch of `rows` input rows fits: block ids, room, slots written at most once, and none that is read as cached.
    pub(super) fn check(&self, batch: &Batch, rows: usize) -> Result<()> {
        expect_count("input rows of a batch", rows, batch.tokens())?;
        for (i, request) in batch.requests.iter().enumerate() {
            self.table(i, request, request.total())?;
        }
        self.written(batch).map(drop)
    }

    /// The slots that the new tokens go to; none for padding.
    pub(super) fn written(&self, batch: &Batch) -> Result<Vec<Option<usize>>> {
        let mut slots = Vec::with_capacity(batch.tokens());
        for (i, request) in batch.requests.iter().enumerate() {
            let table = self.table(i, request, request.total())?;
            slots.extend(
                (request.cached..request.total()).map(|token| Some(self.slot(table, token))),
            );
            slots.resize(request.row + request.new, None);
        }
        agreeing(batch, &slots)?;
        self.undisturbed(batch, &slots)?;
        Ok(slots)
    }

    /// Whether every slot is written at most once, and none that a request of the batch reads as cached.
    fn undisturbed(&self, batch: &Batch, slots: &[Option<usize>]) -> Result<()> {
        let mut taken: Vec<usize> = slots.iter().flatten().copied().collect();
        taken.sort_unstable();
        if let Some(pair) = taken.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::BadBatch(format!(
                "slot {} would be written twice",
                pair[0]
            )));
        }
        for (i, request) in batch.requests.iter().enumerate() {
            let table = self.table(i, request, request.cached)?;
            for (block, &id) in table.iter().enumerate() {
                let first = id as usize * self.page;
                let cached = self.page.min(request.cached - block * self.page);
                let next = taken.partition_point(|&slot| slot < first);
                if let Some(&slot) = taken.get(next).filter(|&&slot| slot < first + cached) {
                    return Err(Error::BadBatch(format!(
                        "slot {slot} would be written while request {i} reads it"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The slots of the first `tokens` tokens that lie in `blocks`.
    pub(super) fn held(&self, blocks: &[u32], tokens: usize) -> Result<Vec<usize>> {
        let request = Request {
            cached: tokens,
            new: 0,
            live: 0,
            row: 0,
            blocks: blocks.to_vec(),
        };
        let table = self.table(0, &request, tokens)?;
        Ok((0..tokens).map(|token| self.slot(table, token)).collect())
    }

    /// The slots of tokens `range` of request `i`.
    pub(super) fn range(
        &self,
        i: usize,
        request: &Request,
        range: std::ops::Range<usize>,
    ) -> Result<Vec<usize>> {
        let table = self.table(i, request, range.end)?;
        Ok(range.map(|token| self.slot(table, token)).collect())
    }

    /// The slots of some tokens of request `i`, ascending.
    pub(super) fn slots_of(
        &self,
        i: usize,
        request: &Request,
        tokens: &[usize],
    ) -> Result<Vec<usize>> {
        let table = self.table(i, request, tokens.last().map_or(0, |last| last + 1))?;
        Ok(tokens
            .iter()
            .map(|&token| self.slot(table, token))
            .collect())
    }

    /// Every request's new tokens against all its tokens, and where those lie.
    pub(super) fn reading(
        &self,
        batch: &Batch,
        visibility: Visibility,
    ) -> Result<(Segments, Pages)> {
        let mut tables = Vec::new();
        for (i, request) in batch.requests.iter().enumerate() {
            if request.live > 0 {
                tables.push(self.table(i, request, request.total())?.to_vec());
            }
        }
        let all = batch.requests.iter().enumerate();
        let all = all.map(|(i, request)| (i, 0..request.total(), 0));
        let segments = batch.against(visibility, all, self.slots())?;
        Ok((segments, Pages::new(self.page, tables)))
    }

    /// Every request's new tokens against its cached tokens, all of which they see, and where those lie.
    pub(super) fn context(&self, batch: &Batch) -> Result<(Segments, Pages)> {
        let (mut list, mut tables) = (Vec::new(), Vec::new());
        for (i, request) in batch.requests.iter().enumerate() {
            let table = self.table(i, request, request.cached)?;
            if request.live > 0 {
                tables.push(table.to_vec());
                list.push(Segment {
                    queries: request.rows(),
                    keys: 0..request.cached,
                    first_query: 0,
                    first_key: 0,
                    sequence: i,
                    shift: 0,
                    line: (0, 0),
                });
            }
        }
        let segments = Segments::new(list, Visibility::FULL, batch.tokens(), self.slots());
        Ok((segments, Pages::new(self.page, tables)))
    }

    fn slot(&self, table: &[u32], token: usize) -> usize {
        table[token / self.page] as usize * self.page + token % self.page
    }

    /// The blocks that hold the first `tokens` tokens of request `i`.
    fn table<'a>(&self, i: usize, request: &'a Request, tokens: usize) -> Result<&'a [u32]> {
        if self.whole && request.blocks.len() > 1 {
            return Err(Error::BadBatch(format!(
                "request {i} has {} blocks, but in a contiguous cache a request has one",
                request.blocks.len()
            )));
        }
        let needed = if tokens == 0 {
            0
        } else {
            tokens.div_ceil(self.page.max(1))
        };
        let table = match request.blocks.get(..needed) {
            Some(table) if tokens == 0 || self.page > 0 => table,
            _ => {
                return Err(Error::BadBatch(format!(
                    "request {i} needs room for {tokens} tokens, but its {} blocks of {} hold {}",
                    request.blocks.len(),
                    self.page,
                    request.blocks.len().saturating_mul(self.page)
                )));
            }
        };
        if let Some(id) = table.iter().find(|&&id| id as usize >= self.blocks) {
            return Err(Error::BadBatch(format!(
                "request {i} names block {id}, but the cache has {} blocks",
                self.blocks
            )));
        }
        let mut ids = table.to_vec();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::BadBatch(format!(
                "request {i} names block {} twice",
                pair[0]
            )));
        }
        Ok(table)
    }
}

/// Whether a batch's slot mapping, where it has one, names the slots that its blocks do.
fn agreeing(batch: &Batch, slots: &[Option<usize>]) -> Result<()> {
    let Some(mapping) = batch.slot_mapping() else {
        return Ok(());
    };
    for (&mapped, &slot) in mapping.iter().zip(slots) {
        if let Some(slot) = slot
            && usize::try_from(mapped) != Ok(slot)
        {
            return Err(Error::BadBatch(format!(
                "slot {mapped} is mapped where the request's blocks name slot {slot}"
            )));
        }
    }
    Ok(())
}
