//! Who attends to what, as `flash_tiles.cuh` reads it.

use std::cmp::Reverse;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::limits::Limits;
use super::ROWS;
use crate::backend::Pages;
use crate::segments::Segments;

/// Some rows of a segment's queries, and what they see. Each head has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Work {
    /// The first.
    row: i32,
    /// How many there are.
    rows: i32,
    /// Row of the segment's first key, or where its pages begin in the table.
    place: i32,
    /// The first key that one of the rows sees.
    first: i32,
    /// One past the last.
    end: i32,
    /// The first key that all of the rows see.
    all_first: i32,
    /// One past the last.
    all_end: i32,
    unused: i32,
}

/// What the kernel is told by the host.
#[derive(Debug)]
pub(super) struct Tables {
    /// Those with the most keys first: blocks that take one late are not alone for long.
    pub(super) works: Vec<Work>,
    pub(super) limits: Limits,
}

impl Tables {
    pub(super) fn new(segments: &Segments, pages: Option<&Pages>) -> Self {
        let limits = Limits::new(segments, pages);
        let of = |(queries, place): &(Range<usize>, usize)| works(&limits, queries.clone(), *place);
        let mut works: Vec<Work> = limits.places.iter().flat_map(of).collect();
        let keys = |work: &Work| i64::from(work.end) - i64::from(work.first);
        works.sort_by_key(|work| Reverse(keys(work)));
        Self { works, limits }
    }
}

/// The works of a segment, or of rows that belong to none.
fn works(limits: &Limits, queries: Range<usize>, place: usize) -> Vec<Work> {
    let work = |row: usize| {
        let end = queries.end.min(row + ROWS);
        let seen = limits.seen_by(row..end);
        Work {
            row: row as i32,
            rows: (end - row) as i32,
            place: place as i32,
            first: seen.first,
            end: seen.end,
            all_first: seen.all_first,
            all_end: seen.all_end,
            unused: 0,
        }
    };
    queries.clone().step_by(ROWS).map(work).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::limits::Limit;
    use super::*;
    use crate::Visibility;
    use crate::segments::Segment;

    /// Segments of so many queries over so many keys, one behind the other, with a row of nobody before and behind each.
    fn segments(list: &[(usize, usize)], visibility: Visibility) -> Segments {
        let (mut row, mut key) = (1, 0);
        let of = |(sequence, &(new, length)): (usize, &(usize, usize))| {
            let (queries, keys) = (row..row + new, key..key + length);
            (row, key) = (queries.end + 1, keys.end);
            Segment {
                queries,
                keys,
                first_query: length - new,
                first_key: 0,
                sequence,
                shift: 0,
                line: (0, 0),
            }
        };
        let all: Vec<Segment> = list.iter().enumerate().map(of).collect();
        Segments::new(all, visibility, row, key)
    }

    /// `[row, rows, place]`, what some see, and what all see.
    fn works(tables: &Tables) -> Vec<([i32; 3], [i32; 2], [i32; 2])> {
        let of = |work: &Work| {
            (
                [work.row, work.rows, work.place],
                [work.first, work.end],
                [work.all_first, work.all_end],
            )
        };
        tables.works.iter().map(of).collect()
    }

    #[test]
    fn the_longest_come_first_and_rows_of_nobody_see_nothing() {
        let segments = segments(&[(200, 300), (3, 3)], Visibility::CAUSAL);
        let tables = Tables::new(&segments, None);
        assert_eq!(
            works(&tables),
            [
                ([129, 72, 0], [0, 300], [0, 229]),
                ([1, 128, 0], [0, 228], [0, 101]),
                ([202, 3, 300], [0, 3], [0, 1]),
                ([0, 1, 0], [0, 0], [0, 0]),
                ([201, 1, 0], [0, 0], [0, 0]),
                ([205, 1, 0], [0, 0], [0, 0]),
            ]
        );
        assert_eq!(tables.limits.rows[200], Limit { from: 0, to: 300 });
        assert_eq!(tables.limits.rows[201], Limit::zeroed());
    }

    #[test]
    fn windows_and_pages_are_told() {
        let visibility = Visibility::CAUSAL.window(Some(3), None);
        let segments = segments(&[(5, 20), (1, 4)], visibility);
        let pages = Pages::new(8, vec![vec![7, 1, 4, u32::MAX], vec![2]]);
        let tables = Tables::new(&segments, Some(&pages));
        assert_eq!(tables.limits.table, [7, 1, 4, 2]);
        assert_eq!(
            works(&tables)[..2],
            [([1, 5, 0], [12, 20], [16, 16]), ([7, 1, 3], [0, 4], [0, 4]),]
        );
    }

    #[test]
    fn structs_are_as_large_as_the_kernel_takes_them() {
        assert_eq!((size_of::<Limit>(), size_of::<Work>()), (8, 32));
    }
}
