//! Who attends to what, as `decoding.cuh` reads it.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::super::CudaBuffer;
use super::super::super::driver::Address;
use super::super::facts::most_queries;
use super::super::limits::Limits;
use crate::backend::Pages;
use crate::segments::Segments;

/// Blocks of queries of one segment that run side by side and read the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Group {
    /// The segment's first query.
    query: i32,
    /// Queries that the segment has.
    queries: i32,
    /// Where its pages begin in the table; of keys that have none, their first row.
    table: i32,
    /// The first key that one of the group's queries sees.
    first: i32,
    /// One past the last.
    end: i32,
    /// The first of its blocks, of the segment's.
    block: i32,
    /// The first key that all of the group's queries see. Where keys are chosen: where in its sequence the segment's first key stands.
    all_first: i32,
    /// One past the last. Where keys are chosen: one past the list's last entry, whether it counts or not.
    all_end: i32,
}

/// How rows of queries are cut into blocks, and blocks into groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Heads of a query.
    heads: usize,
    /// Rows of a block.
    rows: usize,
    /// Queries of a block that has all their heads.
    pub(super) at_once: usize,
    /// Blocks of a group.
    pub(super) team: usize,
}

impl Blocks {
    /// Blocks of `rows` rows, where the longest segment has so many queries.
    fn new(heads: usize, rows: usize, most_queries: usize) -> Self {
        let at_once = (rows / heads.max(1)).clamp(1, most_queries.max(1));
        let mut blocks = Self {
            heads,
            rows,
            at_once,
            team: 1,
        };
        // As many as leave none of the longest segment's groups with too few
        let most = blocks.of(most_queries);
        let whole = [4, 3, 2]
            .into_iter()
            .find(|team| most.is_multiple_of(*team));
        blocks.team = whole.filter(|_| most > 0).unwrap_or(1);
        blocks
    }

    /// Whether a block has heads of one query only.
    fn shares_queries(&self) -> bool {
        self.heads >= self.rows
    }

    /// Blocks of a segment with so many queries.
    fn of(&self, queries: usize) -> usize {
        if self.shares_queries() {
            queries * self.heads.div_ceil(self.rows)
        } else {
            queries.div_ceil(self.at_once)
        }
    }

    /// The queries, of a segment's, that some of its blocks have.
    fn queries(&self, blocks: Range<usize>, queries: usize) -> Range<usize> {
        let (first, end) = if self.shares_queries() {
            let each = self.heads.div_ceil(self.rows);
            (blocks.start / each, blocks.end.div_ceil(each))
        } else {
            (blocks.start * self.at_once, blocks.end * self.at_once)
        };
        first..end.min(queries)
    }
}

/// What the kernels of a step are told by the host.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) blocks: Blocks,
    pub(super) groups: Vec<Group>,
    pub(super) limits: Limits,
    /// Where it stands how many entries of each query's list count; `None`: all do.
    pub(super) counts: Option<Address>,
}

impl Tables {
    /// Those of `heads` heads in blocks of `rows` rows.
    pub(super) fn new(
        segments: &Segments,
        pages: Option<&Pages>,
        heads: usize,
        rows: usize,
    ) -> Self {
        let blocks = Blocks::new(heads, rows, most_queries(segments));
        let limits = Limits::new(segments, pages);
        let of = |(queries, place): &(Range<usize>, usize)| {
            groups(&blocks, &limits, queries.clone(), *place)
        };
        let groups = limits.places.iter().flat_map(of).collect();
        Self {
            blocks,
            groups,
            limits,
            counts: None,
        }
    }

    /// Those of queries that each have a list of up to `width` keys: a group is one query's, and keys are the entries of its list.
    pub(super) fn of_lists(
        segments: &Segments,
        pages: Option<&Pages>,
        heads: usize,
        rows: usize,
        width: usize,
    ) -> Self {
        let blocks = Blocks::new(heads, rows, 1);
        let limits = Limits::new(segments, pages);
        let first_keys = segments.list().iter().map(|segment| segment.first_key);
        // Rows that belong to no segment see nothing
        let first_keys = first_keys.chain(std::iter::repeat(0));
        let lists = limits.places.iter().zip(first_keys);
        let groups = lists
            .flat_map(|((queries, place), first_key)| {
                queries.clone().map(move |query| (query, *place, first_key))
            })
            .flat_map(|(query, place, first_key)| {
                let seen = limits.rows[query];
                // Of a list that ascends, no entry behind as many as there are positions up to the last that the query sees is one that it sees
                let entries = match seen.is_empty() {
                    true => 0,
                    false => width.min(first_key + seen.to as usize),
                };
                let group = move |block: usize| Group {
                    query: query as i32,
                    queries: 1,
                    table: place as i32,
                    first: 0,
                    end: entries as i32,
                    block: block as i32,
                    all_first: first_key as i32,
                    all_end: entries as i32,
                };
                (0..blocks.of(1)).step_by(blocks.team).map(group)
            })
            .collect();
        Self {
            blocks,
            groups,
            limits,
            counts: None,
        }
    }

    /// The same, where lists end before entries that do not count.
    pub(super) fn counting(self, counts: Option<&CudaBuffer<i32>>) -> Self {
        Self {
            counts: counts.map(CudaBuffer::at),
            ..self
        }
    }
}

/// The groups of a segment, or of rows that belong to none.
fn groups(blocks: &Blocks, limits: &Limits, queries: Range<usize>, place: usize) -> Vec<Group> {
    let count = blocks.of(queries.len());
    let group = |block: usize| {
        let own = blocks.queries(block..count.min(block + blocks.team), queries.len());
        let seen = limits.seen_by(queries.start + own.start..queries.start + own.end);
        Group {
            query: queries.start as i32,
            queries: queries.len() as i32,
            table: place as i32,
            first: seen.first,
            end: seen.end,
            block: block as i32,
            all_first: seen.all_first,
            all_end: seen.all_end,
        }
    };
    (0..count).step_by(blocks.team).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::limits::Limit;
    use super::*;
    use crate::Visibility;
    use crate::segments::Segment;

    /// Requests of a cache: lengths, and new tokens; rows before, between and behind them belong to none.
    fn requests(list: &[(usize, usize)], visibility: Visibility) -> Segments {
        let mut row = 1;
        let of = |(sequence, &(length, new)): (usize, &(usize, usize))| {
            let queries = row..row + new;
            row = queries.end;
            Segment {
                queries,
                keys: 0..length,
                first_query: length - new,
                first_key: 0,
                sequence,
                shift: 0,
                line: (0, 0),
            }
        };
        let segments: Vec<Segment> = list.iter().enumerate().map(of).collect();
        Segments::new(segments, visibility, row + 2, 1000)
    }

    fn limits(tables: &Tables) -> Vec<[i32; 2]> {
        let limits = tables.limits.rows.iter();
        limits.map(|limit| [limit.from, limit.to]).collect()
    }

    /// `[query, queries, table, block]`, what some see, and what all see.
    fn groups(tables: &Tables) -> Vec<([i32; 4], [i32; 2], [i32; 2])> {
        let of = |group: &Group| {
            (
                [group.query, group.queries, group.table, group.block],
                [group.first, group.end],
                [group.all_first, group.all_end],
            )
        };
        tables.groups.iter().map(of).collect()
    }

    #[test]
    fn blocks_of_many_heads_are_parts_of_one_query() {
        let pages = Pages::new(4, vec![vec![5, 6, 7, u32::MAX], vec![9]]);
        let segments = requests(&[(10, 3), (2, 1)], Visibility::CAUSAL);
        let tables = Tables::new(&segments, Some(&pages), 128, 64);
        // Six blocks of the longest
        assert_eq!((tables.blocks.team, tables.blocks.at_once), (3, 1));
        assert_eq!(tables.limits.table, [5, 6, 7, 9]);
        assert_eq!(
            limits(&tables),
            [[0, 0], [0, 8], [0, 9], [0, 10], [0, 2], [0, 0], [0, 0]]
        );
        assert_eq!(
            groups(&tables),
            [
                ([1, 3, 0, 0], [0, 9], [0, 8]),
                ([1, 3, 0, 3], [0, 10], [0, 9]),
                ([4, 1, 3, 0], [0, 2], [0, 2]),
                ([0, 1, 0, 0], [0, 0], [0, 0]),
                ([5, 2, 0, 0], [0, 0], [0, 0]),
                ([5, 2, 0, 3], [0, 0], [0, 0]),
            ]
        );
    }

    #[test]
    fn blocks_of_few_heads_have_several_queries() {
        let visibility = Visibility::CAUSAL.window(Some(1), None);
        let segments = requests(&[(9, 5), (0, 0), (3, 2)], visibility);
        let tables = Tables::new(&segments, None, 16, 64);
        assert_eq!((tables.blocks.team, tables.blocks.at_once), (2, 4));
        assert_eq!(limits(&tables)[1..5], [[3, 5], [4, 6], [5, 7], [6, 8]]);
        assert_eq!(
            groups(&tables)[..2],
            [
                ([1, 5, 0, 0], [3, 9], [7, 5]),
                ([6, 2, 0, 0], [0, 3], [1, 2]),
            ]
        );
        // Fewer queries than a block could have
        let segments = requests(&[(9, 2), (5, 1)], visibility);
        let tables = Tables::new(&segments, None, 16, 64);
        assert_eq!((tables.blocks.team, tables.blocks.at_once), (1, 2));
        // Heads that do not fill a block, and those that fill more than one
        for (heads, queries, team, count) in [
            (40, 3, 3, 3),
            (40, 4, 4, 4),
            (96, 1, 2, 2),
            (192, 1, 3, 3),
            (128, 2, 4, 4),
            (64, 5, 1, 5),
            (64, 7, 1, 7),
        ] {
            let blocks = Blocks::new(heads, 64, queries);
            assert_eq!((blocks.team, blocks.of(queries)), (team, count), "{heads}");
        }
    }

    #[test]
    fn a_query_that_sees_nothing_widens_nothing() {
        // The first two of five queries stand before the first of three keys
        let segment = Segment {
            queries: 0..5,
            keys: 7..10,
            first_query: 0,
            first_key: 0,
            sequence: 0,
            shift: -2,
            line: (0, 0),
        };
        let segments = Segments::new(vec![segment], Visibility::CAUSAL, 5, 10);
        let tables = Tables::new(&segments, None, 8, 64);
        assert_eq!(limits(&tables), [[0, 0], [0, 0], [0, 1], [0, 2], [0, 3]]);
        assert_eq!(groups(&tables), [([0, 5, 7, 0], [0, 3], [0, 0])]);
    }

    #[test]
    fn each_query_has_a_list_of_its_own() {
        let mut segments = requests(&[(10, 3), (2, 1)], Visibility::CAUSAL);
        let tables = Tables::of_lists(&segments, None, 128, 64, 9);
        assert_eq!((tables.blocks.team, tables.blocks.at_once), (2, 1));
        let lists = |tables: &Tables| -> Vec<[i32; 3]> {
            let groups = tables.groups.iter();
            groups
                .map(|group| [group.query, group.block, group.end])
                .collect()
        };
        assert_eq!(
            lists(&tables),
            [
                [1, 0, 8],
                [2, 0, 9],
                [3, 0, 9],
                [4, 0, 2],
                [0, 0, 0],
                [5, 0, 0],
                [6, 0, 0]
            ]
        );
        // A block for each five heads of 320; of those four side by side
        let tables = Tables::of_lists(&segments, None, 320, 64, 9);
        assert_eq!(
            lists(&tables)[..5]
                .iter()
                .map(|one| one[1])
                .collect::<Vec<_>>(),
            [0, 1, 2, 3, 4]
        );
        // A sequence of which earlier keys lie elsewhere
        segments = Segments::new(
            vec![Segment {
                first_key: 5,
                ..segments.list()[1].clone()
            }],
            Visibility::FULL,
            7,
            1000,
        );
        let tables = Tables::of_lists(&segments, None, 16, 16, 9);
        let group = tables.groups[0];
        assert_eq!((group.query, group.end, group.all_first), (4, 7, 5));
    }

    #[test]
    fn structs_are_as_large_as_kernels_take_them() {
        assert_eq!((size_of::<Limit>(), size_of::<Group>()), (8, 32));
    }
}
