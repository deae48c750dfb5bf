//! Which queries see which keys, as ranges: attention never builds a matrix of queries by keys.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::visibility::Visibility;

/// Some rows of queries, and the rows of keys of the same sequence that they may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the query tensor.
    pub queries: Range<usize>,
    /// Rows of the key tensor, or positions in the request's cache.
    pub keys: Range<usize>,
    /// Index of the first query in its sequence.
    pub first_query: usize,
    /// Index of the first key in its sequence.
    pub first_key: usize,
    /// Number of the sequence in the mask, or of the request in the batch.
    pub sequence: usize,
    /// Index of the key that the sequence's first query stands at: negative where it has more queries than keys.
    pub(crate) shift: i64,
    /// Where the dense mask's line of the first query starts, and from one line to the next.
    pub(crate) line: (usize, usize),
}

/// Segments that share no query, and the sizes of the tensors that they speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    list: Vec<Segment>,
    visibility: Visibility,
    queries: usize,
    keys: usize,
    /// Per row of the query tensor the block that it belongs to, as indices of keys in its sequence; empty where there is none.
    blocks: Option<Arc<[Range<usize>]>>,
    /// Dense masks, one entry per query and key.
    given: Option<Arc<[bool]>>,
}

impl Segments {
    /// Segments over `queries` rows and `keys` rows; callers built the ranges inside and disjoint.
    pub(crate) fn new(
        list: Vec<Segment>,
        visibility: Visibility,
        queries: usize,
        keys: usize,
    ) -> Self {
        debug_assert!(list.iter().all(|segment| segment.queries.end <= queries));
        Self {
            list,
            visibility,
            queries,
            keys,
            blocks: None,
            given: None,
        }
    }

    /// Segments with what comes with the input: an id of a block for each row of queries, 0 for none, and dense masks.
    pub(crate) fn with_input(
        mut self,
        blocks: Option<&[u32]>,
        given: Option<&Arc<[bool]>>,
    ) -> Result<Self> {
        match (given, self.visibility.is_given()) {
            (None, true) => {
                return Err(Error::BadMask(
                    "this layer was generated with `attn_mask_type: arbitrary`, but nothing says who sees whom".to_owned(),
                ));
            }
            (Some(_), false) => {
                return Err(Error::BadMask(
                    "the mask says who sees whom, but this layer was generated without it; give the spec `attn_mask_type: arbitrary`"
                        .to_owned(),
                ));
            }
            (given, _) => self.given = given.cloned(),
        }
        if let Some(ids) = blocks {
            if !self.visibility.has_blocks() {
                return Err(Error::BadMask(
                    "there are blocks, but this layer was generated without them; give the spec `bidirectional_blocks: true`".to_owned(),
                ));
            }
            self.blocks = Some(block_ranges(&self.list, self.queries, ids)?);
        }
        Ok(self)
    }

    /// The segments.
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// Rows of the query tensor that no segment has, as runs of neighbours.
    #[cfg(feature = "cuda")]
    pub(crate) fn outside(&self) -> Vec<Range<usize>> {
        let mut taken = vec![false; self.queries];
        for segment in &self.list {
            taken[segment.queries.clone()].fill(true);
        }
        let mut start = 0;
        let mut runs = Vec::new();
        for run in taken.chunk_by(PartialEq::eq) {
            if !run[0] {
                runs.push(start..start + run.len());
            }
            start += run.len();
        }
        runs
    }

    /// What a query sees of its segment.
    pub fn visibility(&self) -> Visibility {
        self.visibility
    }

    /// Rows of the query tensor, those outside all segments included.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Rows of the key tensor, those outside all segments included.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The keys, counted from the segment's first, that query `i` of the segment sees; a dense mask may take some of them away.
    pub fn visible(&self, segment: &Segment, i: usize) -> Range<usize> {
        let at = (segment.first_query + i) as i64 + segment.shift;
        let (mut start, mut end) = self.visibility.bounds(at);
        let block = self
            .blocks
            .as_deref()
            .map(|blocks| &blocks[segment.queries.start + i])
            .filter(|block| !block.is_empty());
        if let Some(block) = block {
            start = start.min(block.start as i64);
            end = end.max(block.end as i64);
        }
        let own = |index: i64| {
            let from_first = index.saturating_sub(segment.first_key as i64);
            usize::try_from(from_first.max(0))
                .unwrap_or(usize::MAX)
                .min(segment.keys.len())
        };
        let (start, end) = (own(start), own(end));
        start..end.max(start)
    }

    /// What a dense mask says about query `i` of the segment and each of the segment's keys; `None` where there is no such mask.
    pub fn given(&self, segment: &Segment, i: usize) -> Option<&[bool]> {
        let first = self.given_from(segment, i);
        Some(&self.given.as_deref()?[first..first + segment.keys.len()])
    }

    /// Where [`given`](Self::given) of query `i` starts among [`all_given`](Self::all_given).
    pub(crate) fn given_from(&self, segment: &Segment, i: usize) -> usize {
        let (start, stride) = segment.line;
        start + i * stride + segment.first_key
    }

    /// The dense masks of all sequences.
    pub(crate) fn all_given(&self) -> Option<&[bool]> {
        self.given.as_deref()
    }

    /// Whether query `i` of the segment sees key `key`, both counted from the segment's first.
    pub fn sees(&self, segment: &Segment, i: usize, key: usize) -> bool {
        self.visible(segment, i).contains(&key)
            && self.given(segment, i).is_none_or(|given| given[key])
    }
}

/// The block of each row: a run of equal ids within a sequence, as indices of keys.
fn block_ranges(list: &[Segment], queries: usize, ids: &[u32]) -> Result<Arc<[Range<usize>]>> {
    let mut blocks = vec![0..0; queries];
    for segment in list {
        let own = &ids[segment.queries.clone()];
        let first = segment.first_query as i64 + segment.shift;
        let mut start = 0;
        let mut seen: Vec<u32> = Vec::new();
        for run in own.chunk_by(PartialEq::eq) {
            if run[0] != 0 {
                seen.push(run[0]);
                let index = |i: usize| usize::try_from(first + i as i64).unwrap_or(0);
                let block = index(start)..index(start + run.len());
                let rows = segment.queries.start + start..segment.queries.start + start + run.len();
                blocks[rows].fill(block);
            }
            start += run.len();
        }
        let runs = seen.len();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < runs {
            return Err(Error::BadMask(format!(
                "a block of sequence {} has a hole: its tokens have to be neighbours",
                segment.sequence
            )));
        }
    }
    Ok(blocks.into())
}
