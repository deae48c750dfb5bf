//! What an indexer asks: which keys score best, of whom each query sees which, and the keys of pools.

use std::ops::Range;

use super::{Accum, Backend, Pages, Rotation, Strided};
use crate::element::Scalar;

/// Some queries, and the keys of their sequence that an indexer may choose for each.
#[derive(Debug, Clone)]
pub struct Sight<'a> {
    /// Rows of the query tensor.
    pub queries: Range<usize>,
    /// Row of the key tensor that key 0 is; where keys lie in pages, those say it.
    pub first_row: usize,
    /// Position in the sequence that key 0 is.
    pub first_position: usize,
    visible: Vec<Range<usize>>,
    given: Vec<&'a [bool]>,
}

impl<'a> Sight<'a> {
    /// `visible` holds a range of keys for each query. `given` is empty, or says of each query and key whether it may be chosen.
    pub(crate) fn new(
        queries: Range<usize>,
        (first_row, first_position): (usize, usize),
        visible: Vec<Range<usize>>,
        given: Vec<&'a [bool]>,
    ) -> Self {
        debug_assert!(visible.len() == queries.len());
        Self {
            queries,
            first_row,
            first_position,
            visible,
            given,
        }
    }

    /// The keys that query `i` of the sight may choose, those aside that [`given`](Self::given) takes away.
    pub fn visible(&self, i: usize) -> Range<usize> {
        self.visible[i].clone()
    }

    /// Whether query `i` of the sight may choose each key; `None`: all that are visible.
    pub fn given(&self, i: usize) -> Option<&'a [bool]> {
        self.given.get(i).copied()
    }
}

/// An indexer's question: which keys have the largest `scale · Σ_j w_j · relu(q_j · k)`, j the heads of the query?
#[derive(Debug)]
pub struct Indexing<'a, B: Backend, E: Scalar> {
    /// `[queries, H, D]`.
    pub q: Strided<'a, B, B::Elem>,
    /// `[queries, H]`.
    pub weights: &'a B::Buffer<Accum<B>>,
    /// `[keys, 1, D]`.
    pub k: Strided<'a, B, E>,
    /// Who may choose what; no two share a query.
    pub sights: &'a [Sight<'a>],
    /// Where keys lie in a cache, a list of blocks per sight; `None` where they are rows.
    pub pages: Option<&'a Pages>,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether products below 0 count as 0.
    pub relu: bool,
    /// So many of the first keys that a query sees are chosen whatever their scores.
    pub initial: usize,
    /// So many of the last ones as well.
    pub local: usize,
}

/// The same question of keys in a cache of bytes.
#[derive(Debug)]
pub struct BytesIndexing<'a, B: Backend> {
    /// `[queries, H, D]`.
    pub q: Strided<'a, B, B::Elem>,
    /// `[queries, H]`.
    pub weights: &'a B::Buffer<Accum<B>>,
    /// Who may choose what; no two share a query.
    pub sights: &'a [Sight<'a>],
    /// Where keys lie in the cache, a list of blocks per sight.
    pub pages: &'a Pages,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether products below 0 count as 0.
    pub relu: bool,
    /// So many of the first keys that a query sees are chosen whatever their scores.
    pub initial: usize,
    /// So many of the last ones as well.
    pub local: usize,
    /// What queries are rounded by, as the cache rounds keys; `None`: they stay what they are.
    pub rounding: Option<QueryRounding<'a, B>>,
}

/// What is done to an indexer's queries before they are rounded.
#[derive(Debug)]
pub struct QueryRounding<'a, B: Backend> {
    /// How a part of each head is rotated first.
    pub rotation: Option<&'a Rotation<'a, B>>,
    /// Whether heads are times the normalised Hadamard matrix then.
    pub transformed: bool,
}

/// Keys of pools of neighbouring tokens: for each channel the softmax of `gates + positions` over a pool's tokens weighs their keys.
#[derive(Debug)]
pub struct Pooling<'a, B: Backend> {
    /// `[tokens, 1, D]`.
    pub k: Strided<'a, B, B::Elem>,
    /// `[tokens, 1, D]`.
    pub gates: Strided<'a, B, B::Elem>,
    /// `[size, D]`.
    pub positions: &'a B::Buffer<B::Elem>,
    /// Tokens of a pool.
    pub size: usize,
    /// The row of each pool's first token.
    pub first_rows: &'a [usize],
}
