//! What the host tells `flash_backward.cuh`: who sees whom, in tiles and blocks, and who does what in which order.

use std::collections::VecDeque;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

/// How a kernel for some widths cuts its work: `flash_cut.cuh`, and the tiles of columns of `flash_backward_tiles.cuh`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) queries: usize,
    /// Columns of a half of a tile's gradient of queries.
    pub(super) columns: usize,
    /// Keys of a block.
    pub(super) keys: usize,
    /// Columns of a tile of queries and of keys.
    pub(super) q_tile: usize,
    pub(super) k_tile: usize,
}

impl Cut {
    pub(super) fn new([nope, rope, value]: [usize; 3], queries: usize) -> Self {
        let width = nope + rope;
        let half = width.div_ceil(32) * 16;
        let columns = if queries == 64 { half } else { width };
        let held = (width + value) / 2 + (columns / 2).max(queries * 3 / 4);
        let tile = |edges: usize| {
            [64, 32, 16]
                .into_iter()
                .find(|&tile| edges.is_multiple_of(tile))
        };
        let edge = if rope > 0 { nope } else { 0 };
        let of_keys = if queries == 64 { edge | half } else { edge };
        Self {
            queries,
            columns,
            keys: if held <= 208 { 128 } else { 64 },
            q_tile: tile(edge).expect("widths are multiples of 16"),
            k_tile: tile(of_keys).expect("widths are multiples of 16"),
        }
    }
}

/// Queries and keys that belong together, and which of the keys each of the queries sees.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Rows.
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    /// Of each query, counted from the first key.
    pub(super) limits: Vec<Range<usize>>,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct KeyBlock {
    key_row: i32,
    keys: i32,
    first_key: i32,
    row: i32,
    rows: i32,
    place: i32,
    first: i32,
    end: i32,
    all_first: i32,
    all_end: i32,
    number: i32,
    unused: i32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Task {
    block: i32,
    head: i32,
    down: i32,
    rope_turn: i32,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The first row of each tile, and how many it has.
    pub(super) tiles: Vec<[i32; 2]>,
    /// Of each row of each tile: the first key that it sees, and how many.
    pub(super) limits: Vec<[i32; 2]>,
    /// The first and the last block that meets each tile.
    pub(super) seen_by: Vec<[i32; 2]>,
    pub(super) blocks: Vec<KeyBlock>,
    pub(super) tasks: Vec<Task>,
}

impl Tables {
    pub(super) fn new(segments: &[Seen], cut: Cut) -> Self {
        let mut tables = Self::default();
        for segment in segments {
            tables.add(segment, cut);
        }
        tables
    }

    fn add(&mut self, seen: &Seen, cut: Cut) {
        let place = self.tiles.len();
        let rows = seen.queries.len();
        let count = rows.div_ceil(cut.queries);
        let of_tile =
            |tile: usize| &seen.limits[tile * cut.queries..rows.min((tile + 1) * cut.queries)];
        for tile in 0..count {
            let own = of_tile(tile);
            let row = seen.queries.start + tile * cut.queries;
            self.tiles.push([row as i32, own.len() as i32]);
            let lines = own
                .iter()
                .map(|keys| [keys.start as i32, keys.len() as i32]);
            self.limits
                .extend(lines.chain(std::iter::repeat([0; 2])).take(cut.queries));
        }
        let blocks: Vec<Range<usize>> = (0..seen.keys.len())
            .step_by(cut.keys)
            .map(|first| first..seen.keys.len().min(first + cut.keys))
            .collect();
        let meets = Meetings::new(blocks.len(), count, |block, tile| {
            let keys = &blocks[block];
            let sees = |limit: &Range<usize>| limit.start.max(keys.start) < limit.end.min(keys.end);
            of_tile(tile).iter().any(sees)
        });
        for tile in 0..count {
            let by = meets.of_tile(tile);
            self.seen_by.push([by.start as i32, by.end as i32 - 1]);
        }
        for (number, keys) in blocks.iter().enumerate() {
            let met = meets.of_block(number);
            let all = |&tile: &usize| {
                let own = of_tile(tile);
                let sees =
                    |limit: &Range<usize>| limit.start <= keys.start && limit.end >= keys.end;
                keys.len() == cut.keys && own.len() == cut.queries && own.iter().all(sees)
            };
            let all_first = met.clone().find(all).unwrap_or(met.end);
            let all_end = (all_first..met.end)
                .find(|tile| !all(tile))
                .unwrap_or(met.end);
            let [first, end, all_first, all_end] =
                [met.start, met.end, all_first, all_end].map(|tile| tile as i32);
            self.blocks.push(KeyBlock {
                key_row: (seen.keys.start + keys.start) as i32,
                keys: keys.len() as i32,
                first_key: keys.start as i32,
                row: seen.queries.start as i32,
                rows: rows as i32,
                place: place as i32,
                first,
                end,
                all_first,
                all_end,
                number: number as i32,
                unused: 0,
            });
        }
    }

    /// Every block for every head of keys, `at_once` heads side by side. Any order is right, the longest first best, if blocks may add as they come.
    ///
    /// Where they add one after the other, a task may only wait for such as stand before it. Of some heads, blocks are met from the last on, and tiles upwards: if all
    /// begin at the same time, the block before is always ahead. Of as many others it is the other way round, so that tasks get shorter where those got longer, and each
    /// begins later than the one before.
    pub(super) fn order(
        &mut self,
        heads: usize,
        per_rope: usize,
        at_once: usize,
        deterministic: bool,
    ) {
        let heads: Vec<usize> = (0..heads).collect();
        let mut lists: Vec<(bool, usize, usize)> = Vec::new();
        for (group, heads) in heads.chunks(at_once).enumerate() {
            let down = deterministic && group % 2 == 1;
            for block in self.merged(down, deterministic) {
                lists.extend(heads.iter().map(|&head| (down, block, head)));
            }
        }
        let mut turns = vec![0; self.blocks.len() * heads.len().div_ceil(per_rope)];
        for (down, block, head) in lists {
            let turn = &mut turns[head / per_rope * self.blocks.len() + block];
            self.tasks.push(Task {
                block: block as i32,
                head: head as i32,
                down: i32::from(down),
                rope_turn: *turn,
            });
            *turn += 1;
        }
    }

    /// Blocks of all segments: short ones first where they are met from a segment's last on, otherwise long ones first.
    fn merged(&self, down: bool, deterministic: bool) -> Vec<usize> {
        let length = |i: usize| self.blocks[i].end - self.blocks[i].first;
        let mut segments: Vec<VecDeque<usize>> = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            if block.number == 0 {
                segments.push(VecDeque::new());
            }
            segments
                .last_mut()
                .expect("a segment's first block is its block 0")
                .push_back(i);
        }
        if !down && deterministic {
            segments
                .iter_mut()
                .for_each(|blocks| blocks.make_contiguous().reverse());
        }
        let mut all = Vec::new();
        loop {
            let fronts = segments.iter_mut().filter(|blocks| !blocks.is_empty());
            let longest_first = down || !deterministic;
            let next = fronts.min_by_key(|blocks| {
                if longest_first {
                    -length(blocks[0])
                } else {
                    length(blocks[0])
                }
            });
            let Some(block) = next.and_then(VecDeque::pop_front) else {
                return all;
            };
            all.push(block);
        }
    }
}

/// Which blocks of keys meet which tiles: of each block neighbouring tiles, and of each tile neighbouring blocks.
struct Meetings {
    tiles: usize,
    pairs: Vec<bool>,
}

impl Meetings {
    fn new(blocks: usize, tiles: usize, meet: impl Fn(usize, usize) -> bool) -> Self {
        let pairs = (0..blocks * tiles).map(|i| meet(i / tiles, i % tiles));
        let mut all = Self {
            tiles,
            pairs: pairs.collect(),
        };
        loop {
            let before = all.pairs.clone();
            for block in 0..blocks {
                for tile in all.of_block(block) {
                    all.pairs[block * tiles + tile] = true;
                }
            }
            for tile in 0..tiles {
                for block in all.of_tile(tile) {
                    all.pairs[block * tiles + tile] = true;
                }
            }
            if all.pairs == before {
                return all;
            }
        }
    }

    fn of_block(&self, block: usize) -> Range<usize> {
        hull((0..self.tiles).filter(|tile| self.pairs[block * self.tiles + tile]))
    }

    fn of_tile(&self, tile: usize) -> Range<usize> {
        let blocks = self.pairs.len() / self.tiles.max(1);
        hull((0..blocks).filter(|block| self.pairs[block * self.tiles + tile]))
    }
}

/// From the first to the last.
fn hull(mut numbers: impl Iterator<Item = usize>) -> Range<usize> {
    let Some(first) = numbers.next() else {
        return 0..0;
    };
    first..numbers.last().unwrap_or(first) + 1
}
