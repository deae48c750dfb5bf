//! Which keys a query sees, by the definition of each mask (features 1.F).

use mla_spec::{AttnMask, MaskKind};

/// Where a query stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Query {
    /// Which of the call's sequences it belongs to.
    pub(super) sequence: usize,
    /// Its index in that sequence, cached tokens included.
    pub(super) index: usize,
    /// The key that it stands at: its own, or among the keys of another sequence the one that puts the last query at the last key.
    pub(super) at: i64,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Which of the call's sequences sees it.
    pub(super) sequence: usize,
    /// Its index in its sequence, cached tokens included.
    pub(super) index: usize,
    /// Which row of the call it is; `None` where it was cached before or is of another sequence.
    pub(super) row: Option<usize>,
}

/// A mask and what comes with the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) mask: AttnMask,
    /// For each row of the call, which keys of its sequence it sees.
    pub(super) given: Option<&'a [Vec<bool>]>,
    /// For each row of the call its block; 0 is none.
    pub(super) blocks: Option<&'a [u32]>,
}

impl Sight<'_> {
    /// Whether the query in row `row` sees a key.
    pub(super) fn sees(&self, row: usize, query: Query, key: Key) -> bool {
        query.sequence == key.sequence
            && (self.rule(row, query.at, key.index) || self.same_block(row, key.row))
    }

    fn rule(&self, row: usize, at: i64, index: usize) -> bool {
        let key = index as i64;
        let kind = match self.mask.kind {
            MaskKind::Causal | MaskKind::CausalBottomRight => key <= at,
            MaskKind::Full => true,
            MaskKind::Arbitrary => self
                .given
                .and_then(|given| given.get(row)?.get(index).copied())
                .unwrap_or(false),
        };
        let near = self.mask.window.is_none_or(|window| {
            let left = window.left.is_none_or(|left| at - key <= i64::from(left));
            let right = window
                .right
                .is_none_or(|right| key - at <= i64::from(right));
            left && right
        });
        let same_chunk = self.mask.chunk.is_none_or(|tokens| {
            let chunk = |token: i64| token.div_euclid(i64::from(tokens));
            chunk(key) == chunk(at)
        });
        kind && near && same_chunk
    }

    /// Blocks are of the call's own tokens: a cached token has none.
    fn same_block(&self, row: usize, key_row: Option<usize>) -> bool {
        let block = |row: usize| {
            self.blocks
                .and_then(|blocks| blocks.get(row).copied())
                .filter(|block| self.mask.bidirectional_blocks && *block != 0)
        };
        block(row).is_some_and(|own| key_row.and_then(block) == Some(own))
    }
}
