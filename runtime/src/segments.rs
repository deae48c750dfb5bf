//! Which queries see which keys, as ranges: attention never builds a matrix of queries by keys.

use std::ops::Range;

use crate::mask::Visibility;

/// Some rows of queries and the rows of keys that they see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the query tensor.
    pub queries: Range<usize>,
    /// Rows of the key tensor, or positions in the request's cache.
    pub keys: Range<usize>,
}

impl Segment {
    /// How many keys, from the start of the range, query `i` of the segment sees. When causal the last query sees all of them, the one
    /// before one less, and so on (bottom-right aligned).
    pub fn visible(&self, visibility: Visibility, i: usize) -> usize {
        match visibility {
            Visibility::Full => self.keys.len(),
            Visibility::Causal => (self.keys.len() + i + 1)
                .saturating_sub(self.queries.len())
                .min(self.keys.len()),
        }
    }
}

/// Segments that share no query, and the sizes of the tensors that they speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    list: Vec<Segment>,
    visibility: Visibility,
    queries: usize,
    keys: usize,
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
        }
    }

    /// The segments.
    pub fn list(&self) -> &[Segment] {
        &self.list
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
}
