//! What rows of queries see and where that stands, as kernels for Hopper's tensor cores are told.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::backend::Pages;
use crate::segments::Segments;

/// Keys that a row of queries sees, counted from its segment's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Limit {
    pub(super) from: i32,
    pub(super) to: i32,
}

impl Limit {
    /// These keys, whose numbers fit.
    pub(super) fn of(keys: &Range<usize>) -> Self {
        Self {
            from: keys.start as i32,
            to: keys.end as i32,
        }
    }

    /// Whether the row sees nothing.
    pub(super) fn is_empty(self) -> bool {
        self.to <= self.from
    }
}

/// What all rows of queries see. Counts fit their types, as the choice of the kernel has seen to.
#[derive(Debug)]
pub(super) struct Limits {
    /// Of each row of the query tensor.
    pub(super) rows: Vec<Limit>,
    /// The pages of all segments.
    pub(super) table: Vec<u32>,
    /// Rows that go together, and the row of their first key, or where their pages begin in the table: those of each segment, and behind them those of none,
    /// which see nothing.
    pub(super) places: Vec<(Range<usize>, usize)>,
}

/// What some rows see between them, and what all of them see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The first key that one of the rows sees.
    pub(super) first: i32,
    /// One past the last.
    pub(super) end: i32,
    /// The first key that all of the rows see.
    pub(super) all_first: i32,
    /// One past the last.
    pub(super) all_end: i32,
}

impl Limits {
    pub(super) fn new(segments: &Segments, pages: Option<&Pages>) -> Self {
        let mut limits = Self {
            rows: vec![Limit::zeroed(); segments.queries()],
            table: Vec::new(),
            places: Vec::new(),
        };
        for (number, segment) in segments.list().iter().enumerate() {
            for (i, row) in segment.queries.clone().enumerate() {
                let seen = segments.visible(segment, i);
                if !seen.is_empty() {
                    limits.rows[row] = Limit::of(&seen);
                }
            }
            let mut place = segment.keys.start;
            if let Some(pages) = pages {
                // What stands behind the segment's last page says nothing
                let needed = segment.keys.len().div_ceil(pages.page().max(1));
                place = limits.table.len();
                let own = pages.tables()[number].iter().take(needed);
                limits.table.extend(own);
            }
            limits.places.push((segment.queries.clone(), place));
        }
        let outside = segments.outside().into_iter();
        limits.places.extend(outside.map(|queries| (queries, 0)));
        limits
    }

    /// What some rows see.
    pub(super) fn seen_by(&self, rows: Range<usize>) -> Seen {
        let limits = &self.rows[rows];
        let seeing = limits.iter().filter(|limit| !limit.is_empty());
        Seen {
            first: seeing.map(|limit| limit.from).min().unwrap_or(0),
            end: limits.iter().map(|limit| limit.to).max().unwrap_or(0),
            all_first: limits.iter().map(|limit| limit.from).max().unwrap_or(0),
            all_end: limits.iter().map(|limit| limit.to).min().unwrap_or(0),
        }
    }
}
