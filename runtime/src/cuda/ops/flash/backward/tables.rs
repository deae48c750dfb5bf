//! Who sees whom, in tiles of queries and blocks of keys, as `flash_backward_tiles.cuh` reads it.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::cut::Cut;
use crate::segments::{Segment, Segments};

/// Some keys of a segment, and the tiles of queries that see any of them. Each head of keys has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct KeyBlock {
    /// Row of its first key.
    key_row: i32,
    /// How many there are.
    keys: i32,
    /// The first, counted from its segment's first.
    first_key: i32,
    /// The segment's first query's row.
    row: i32,
    /// Queries of the segment.
    rows: i32,
    /// Number of the segment's first tile.
    place: i32,
    /// The first tile, counted from the segment's first, of which a row sees one of the keys.
    pub(super) first: i32,
    /// One past the last.
    pub(super) end: i32,
    /// The first of those of which every row sees every key; none of a block that is not whole.
    all_first: i32,
    /// One past the last.
    all_end: i32,
    /// Of the segment's blocks, this one's.
    pub(super) number: i32,
    unused: i32,
}

/// `Pair` of `prelude.cuh`.
type Pair = [i32; 2];

/// What all heads have in common.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The first row of each tile, and how many it has.
    pub(super) tiles: Vec<Pair>,
    /// Of each row of each tile: the first key that it sees, counted from its segment's first, and how many.
    pub(super) limits: Vec<Pair>,
    /// The first and the last block of its segment that meets each tile.
    pub(super) seen_by: Vec<Pair>,
    pub(super) blocks: Vec<KeyBlock>,
}

/// Rows of a tile, and what they see.
struct Sight {
    /// Keys that some row sees, and perhaps others between them.
    some: Range<usize>,
    /// Keys that all rows see, of a tile that is whole.
    all: Range<usize>,
}

impl Tables {
    /// Counts fit their types, as the choice of the kernel has seen to.
    pub(super) fn new(segments: &Segments, cut: &Cut) -> Self {
        let mut tables = Self::default();
        for segment in segments.list() {
            tables.add(segments, segment, cut);
        }
        tables
    }

    fn add(&mut self, segments: &Segments, segment: &Segment, cut: &Cut) {
        let place = self.tiles.len();
        let seen: Vec<Range<usize>> = (0..segment.queries.len())
            .map(|i| segments.visible(segment, i))
            .collect();
        let mut sights = Vec::new();
        for (tile, own) in seen.chunks(cut.queries).enumerate() {
            let row = segment.queries.start + tile * cut.queries;
            self.tiles.push([row as i32, own.len() as i32]);
            let lines = own
                .iter()
                .map(|keys| [keys.start as i32, keys.len() as i32]);
            let nobody = std::iter::repeat([0; 2]);
            self.limits.extend(lines.chain(nobody).take(cut.queries));
            sights.push(Sight::of(own, cut.queries));
        }
        let blocks: Vec<Range<usize>> = (0..segment.keys.len())
            .step_by(cut.keys)
            .map(|first| first..segment.keys.len().min(first + cut.keys))
            .collect();
        let meetings = Meetings::new(&sights, blocks.len(), cut.keys);
        let by = meetings.of_tiles.iter();
        self.seen_by
            .extend(by.map(|by| [by.start as i32, by.end as i32 - 1]));
        for (number, keys) in blocks.iter().enumerate() {
            let met = meetings.of_blocks[number].clone();
            let all = match keys.len() == cut.keys {
                true => first_run(met.clone(), |tile| sights[tile].all_see(keys)),
                false => met.end..met.end,
            };
            self.blocks.push(KeyBlock {
                key_row: (segment.keys.start + keys.start) as i32,
                keys: keys.len() as i32,
                first_key: keys.start as i32,
                row: segment.queries.start as i32,
                rows: segment.queries.len() as i32,
                place: place as i32,
                first: met.start as i32,
                end: met.end as i32,
                all_first: all.start as i32,
                all_end: all.end as i32,
                number: number as i32,
                unused: 0,
            });
        }
    }
}

impl Sight {
    /// What the rows of a tile see, which has so many where it is whole.
    fn of(rows: &[Range<usize>], whole: usize) -> Self {
        let seeing = || rows.iter().filter(|keys| !keys.is_empty());
        let some = seeing().map(|keys| keys.start).min().unwrap_or(0)
            ..seeing().map(|keys| keys.end).max().unwrap_or(0);
        let all = rows.iter().map(|keys| keys.start).max().unwrap_or(0)
            ..rows.iter().map(|keys| keys.end).min().unwrap_or(0);
        Self {
            some,
            all: if rows.len() == whole { all } else { 0..0 },
        }
    }

    fn all_see(&self, keys: &Range<usize>) -> bool {
        self.all.start <= keys.start && keys.end <= self.all.end
    }
}

/// The first neighbours that something holds for; behind all of them where there are none.
fn first_run(among: Range<usize>, holds: impl Fn(usize) -> bool) -> Range<usize> {
    let first = among.clone().find(|&i| holds(i)).unwrap_or(among.end);
    let end = (first..among.end).find(|&i| !holds(i)).unwrap_or(among.end);
    first..end
}

/// Which blocks of keys meet which tiles: of each block neighbouring tiles, and of each tile neighbouring blocks.
struct Meetings {
    of_tiles: Vec<Range<usize>>,
    of_blocks: Vec<Range<usize>>,
}

impl Meetings {
    fn new(sights: &[Sight], blocks: usize, keys: usize) -> Self {
        let met = |sight: &Sight| match sight.some.end {
            0 => 0..0,
            _ => sight.some.start / keys..sight.some.end.div_ceil(keys),
        };
        let mut of_tiles: Vec<_> = sights.iter().map(met).collect();
        loop {
            let of_blocks = hulls(&of_tiles, blocks);
            let again = hulls(&of_blocks, of_tiles.len());
            if again == of_tiles {
                return Self {
                    of_tiles,
                    of_blocks,
                };
            }
            of_tiles = again;
        }
    }
}

/// Of each of `count` numbers, from the first range that has it to the last.
fn hulls(ranges: &[Range<usize>], count: usize) -> Vec<Range<usize>> {
    let mut hulls = vec![0..0; count];
    for (i, range) in ranges.iter().enumerate() {
        for hull in &mut hulls[range.clone()] {
            let first = if hull.end == 0 { i } else { hull.start };
            *hull = first..i + 1;
        }
    }
    hulls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Visibility;

    const CUT: Cut = Cut {
        queries: 4,
        columns: 64,
        keys: 8,
        q_tile: 64,
        k_tile: 64,
    };

    /// So many queries, from row 2 on, of the last of so many keys, from row 5 on.
    fn tables(queries: usize, keys: usize, visibility: Visibility) -> Tables {
        let segment = Segment {
            queries: 2..2 + queries,
            keys: 5..5 + keys,
            first_query: 0,
            first_key: 0,
            sequence: 0,
            shift: keys as i64 - queries as i64,
            line: (0, 0),
        };
        let segments = Segments::new(vec![segment], visibility, queries + 2, keys + 5);
        Tables::new(&segments, &CUT)
    }

    /// `[key_row, keys]`, tiles that see some, and tiles that see all.
    fn blocks(tables: &Tables) -> Vec<([i32; 2], [i32; 2], [i32; 2])> {
        let of = |block: &KeyBlock| {
            (
                [block.key_row, block.keys],
                [block.first, block.end],
                [block.all_first, block.all_end],
            )
        };
        tables.blocks.iter().map(of).collect()
    }

    #[test]
    fn blocks_are_met_from_the_diagonal_on() {
        let tables = tables(18, 18, Visibility::CAUSAL);
        assert_eq!(tables.tiles, [[2, 4], [6, 4], [10, 4], [14, 4], [18, 2]]);
        assert_eq!(tables.limits[17], [0, 18]);
        assert_eq!(tables.limits[18..], [[0, 0], [0, 0]]);
        assert_eq!(tables.seen_by, [[0, 0], [0, 0], [0, 1], [0, 1], [0, 2]]);
        assert_eq!(
            blocks(&tables),
            [
                ([5, 8], [0, 5], [2, 4]),
                ([13, 8], [2, 5], [5, 5]),
                ([21, 2], [4, 5], [5, 5]),
            ]
        );
    }

    #[test]
    fn windows_leave_keys_to_nobody() {
        let tables = tables(5, 21, Visibility::CAUSAL.window(Some(2), None));
        assert_eq!(tables.seen_by, [[1, 2], [2, 2]]);
        assert_eq!(
            blocks(&tables),
            [
                ([5, 8], [0, 0], [0, 0]),
                ([13, 8], [0, 1], [1, 1]),
                ([21, 5], [0, 2], [2, 2]),
            ]
        );
    }

    #[test]
    fn neighbours_meet_where_those_beside_them_do() {
        // Tiles 0 and 2 meet block 1, so tile 1 does
        let all = hulls(&hulls(&[1..2, 0..1, 1..2], 2), 3);
        assert_eq!(all, [1..2, 0..2, 1..2]);
    }

    #[test]
    fn nothing_to_see_is_told_too() {
        let none = tables(3, 0, Visibility::CAUSAL);
        assert_eq!((none.seen_by, none.blocks.len()), (vec![[0, -1]], 0));
        let unread = tables(0, 9, Visibility::CAUSAL);
        let nobody = |row, keys| ([row, keys], [0, 0], [0, 0]);
        assert_eq!(blocks(&unread), [nobody(5, 8), nobody(13, 1)]);
        assert_eq!(size_of::<KeyBlock>(), 48);
    }
}
