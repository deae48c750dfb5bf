//! Who meets which keys, dealt out to blocks, as `index_tiles.cuh` reads it.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::super::super::CudaDevice;
use super::super::super::limits::Limit;
use super::KEYS;
use super::choice::Sizes;

/// Neighbouring queries of a sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Row of the first.
    pub(super) row: usize,
    /// Its row of the output.
    pub(super) out_row: usize,
    /// How many there are.
    pub(super) count: usize,
    /// Row of the sight's first key, or where its list of blocks begins.
    pub(super) place: usize,
    /// The key that column 0 of the output is.
    pub(super) column: usize,
}

impl Run {
    /// The same, at most `most` queries at a time.
    pub(super) fn cut(self, most: usize) -> impl Iterator<Item = Self> {
        (0..self.count).step_by(most).map(move |first| Self {
            row: self.row + first,
            out_row: self.out_row + first,
            count: most.min(self.count - first),
            ..self
        })
    }
}

/// `Work` of `index_tiles.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Work {
    row: i32,
    out_row: i32,
    count: i32,
    place: i32,
    first: i32,
    end: i32,
    all_from: i32,
    all_to: i32,
    column: i32,
    unused: [i32; 3],
}

impl Work {
    /// All keys that one of a run's queries wants.
    fn of(run: &Run, queries: usize, limit: &impl Fn(usize) -> Limit) -> Self {
        let own = || (run.row..run.row + run.count).map(limit);
        let wanting = || own().filter(|limit| !limit.is_empty());
        // Pages and what is copied of them begin where tiles do
        let first =
            wanting().map(|limit| limit.from).min().unwrap_or(0) / KEYS as i32 * KEYS as i32;
        let all = run.count == queries;
        let all_from = own().map(|limit| limit.from).max().filter(|_| all);
        let all_to = own().map(|limit| limit.to).min().filter(|_| all);
        Self {
            row: run.row as i32,
            out_row: run.out_row as i32,
            count: run.count as i32,
            place: run.place as i32,
            first,
            end: wanting().map(|limit| limit.to).max().unwrap_or(first),
            all_from: all_from.unwrap_or(0),
            all_to: all_to.unwrap_or(0),
            column: run.column as i32,
            unused: [0; 3],
        }
    }

    fn tiles(&self) -> usize {
        ((self.end - self.first) as usize).div_ceil(KEYS)
    }

    /// Its tiles from one on, up to another.
    fn part(&self, tiles: Range<usize>) -> Self {
        let at = |tile: usize| self.first + (tile * KEYS) as i32;
        Self {
            first: at(tiles.start),
            end: self.end.min(at(tiles.end)),
            ..*self
        }
    }
}

/// Works, those of a block side by side.
#[derive(Debug)]
pub(super) struct Dealt {
    /// Where each block's begin, and behind them where all end.
    pub(super) begins: Vec<i32>,
    pub(super) works: Vec<Work>,
}

impl Dealt {
    /// About as many tiles to each of a device's multiprocessors. How long the tables are depends on the device and on `most`, the runs that
    /// there may be.
    pub(super) fn new(
        device: &CudaDevice,
        sizes: &Sizes,
        runs: &[Run],
        most: usize,
        limit: impl Fn(usize) -> Limit,
    ) -> Self {
        let runs = runs.iter();
        let works: Vec<Work> = runs
            .map(|run| Work::of(run, sizes.queries, &limit))
            .collect();
        let mut dealt = deal(&works, device.multiprocessors() as usize);
        let room = most.max(works.len()) + dealt.blocks();
        dealt.works.resize(room, Work::zeroed());
        dealt
    }

    pub(super) fn blocks(&self) -> usize {
        self.begins.len() - 1
    }
}

/// Each block has as many tiles as the others, or one more: those that follow on the tiles of the block before.
fn deal(works: &[Work], blocks: usize) -> Dealt {
    let all: usize = works.iter().map(Work::tiles).sum();
    let mut dealt = Dealt {
        begins: vec![0],
        works: Vec::new(),
    };
    let mut rest = works.iter().filter(|work| work.tiles() > 0);
    let (mut work, mut from, mut done) = (rest.next(), 0, 0);
    for block in 1..=blocks {
        let until = (all as u128 * block as u128 / blocks as u128) as usize;
        while let Some(own) = work.filter(|_| done < until) {
            let to = own.tiles().min(from + until - done);
            dealt.works.push(own.part(from..to));
            done += to - from;
            from = to;
            if to == own.tiles() {
                (work, from) = (rest.next(), 0);
            }
        }
        dealt.begins.push(dealt.works.len() as i32);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(first: i32, end: i32) -> Work {
        Work {
            first,
            end,
            ..Work::zeroed()
        }
    }

    #[test]
    fn blocks_have_as_many_tiles_as_each_other_and_miss_none() {
        let works = [
            work(0, 1000),
            work(64, 64),
            work(128, 130),
            work(0, 64),
            work(640, 6400),
        ];
        let all: usize = works.iter().map(Work::tiles).sum();
        for blocks in [1, 3, 16, 132, 500] {
            let dealt = deal(&works, blocks);
            assert_eq!(dealt.blocks(), blocks);
            assert!(dealt.works.len() <= works.len() + blocks);
            for own in dealt.begins.windows(2) {
                let own = &dealt.works[own[0] as usize..own[1] as usize];
                let tiles: usize = own.iter().map(Work::tiles).sum();
                assert!((all / blocks..=all.div_ceil(blocks)).contains(&tiles));
            }
            // Put together again, they are what they were
            let mut joined: Vec<Work> = Vec::new();
            for part in &dealt.works {
                match joined.last_mut() {
                    Some(last)
                        if last.end == part.first && part.first % 64 == 0 && part.first > 0 =>
                    {
                        last.end = part.end;
                    }
                    _ => joined.push(*part),
                }
            }
            let wanted = works.iter().filter(|work| work.tiles() > 0);
            assert!(joined.iter().eq(wanted), "{joined:?}");
        }
    }

    #[test]
    fn keys_that_all_want_are_told_where_there_are_as_many_queries_as_a_work_has() {
        let limits = [(0, 70), (65, 300), (0, 0), (3, 200)];
        let limit = |row: usize| Limit {
            from: limits[row].0,
            to: limits[row].1,
        };
        let run = Run {
            row: 0,
            out_row: 5,
            count: 2,
            place: 9,
            column: 0,
        };
        let whole = Work::of(&run, 2, &limit);
        assert_eq!([whole.first, whole.end], [0, 300]);
        assert_eq!([whole.all_from, whole.all_to], [65, 70]);
        let few = Work::of(&run, 4, &limit);
        assert_eq!([few.all_from, few.all_to], [0, 0]);
        let late = Work::of(
            &Run {
                row: 1,
                count: 1,
                ..run
            },
            4,
            &limit,
        );
        assert_eq!([late.first, late.end], [64, 300]);
        let nothing = Work::of(
            &Run {
                row: 2,
                count: 1,
                ..run
            },
            1,
            &limit,
        );
        assert_eq!(nothing.tiles(), 0);
    }
}
