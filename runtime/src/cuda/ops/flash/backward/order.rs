//! Who does what, and in which order.

use std::collections::VecDeque;

use bytemuck::{Pod, Zeroable};

use super::tables::KeyBlock;

/// A block of keys of one head, and all tiles that meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Task {
    block: i32,
    head: i32,
    /// Whether tiles are met from the last to the first.
    down: i32,
    /// Tasks that add to the same keys' rotated part before it.
    rope_turn: i32,
}

/// Heads of keys, and how they are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    /// That share a rotated part.
    pub(super) per_rope: usize,
    /// Side by side.
    pub(super) at_once: usize,
}

impl Heads {
    /// As many side by side as make so many blocks of keys about as many as there are multiprocessors.
    pub(super) fn new(
        count: usize,
        per_rope: usize,
        blocks: usize,
        multiprocessors: usize,
    ) -> Self {
        let blocks = blocks.max(1);
        Self {
            count,
            per_rope: per_rope.max(1),
            at_once: ((multiprocessors + blocks / 2) / blocks).clamp(1, count.max(1)),
        }
    }
}

/// Every block for every head of keys. Any order is right, the longest first best, if blocks may add as they come.
///
/// Where they add one after the other, a task may only wait for such as stand before it. Of some heads, blocks are met from the last on, and
/// tiles upwards: if all begin at the same time, the block before is always ahead. Of as many others it is the other way round, so that tasks
/// get shorter where those got longer, and each begins later than the one before.
pub(super) fn tasks(blocks: &[KeyBlock], heads: &Heads, deterministic: bool) -> Vec<Task> {
    let [up, down] = match deterministic {
        true => [merged(blocks, Way::Up), merged(blocks, Way::Down)],
        false => [merged(blocks, Way::Longest), Vec::new()],
    };
    let all: Vec<usize> = (0..heads.count).collect();
    let mut turns = vec![0; blocks.len() * heads.count.div_ceil(heads.per_rope)];
    let mut tasks = Vec::with_capacity(blocks.len() * heads.count);
    for (group, side_by_side) in all.chunks(heads.at_once).enumerate() {
        let downwards = deterministic && group % 2 == 1;
        for &block in if downwards { &down } else { &up } {
            for &head in side_by_side {
                let turn = &mut turns[head / heads.per_rope * blocks.len() + block];
                tasks.push(Task {
                    block: block as i32,
                    head: head as i32,
                    down: i32::from(downwards),
                    rope_turn: *turn,
                });
                *turn += 1;
            }
        }
    }
    tasks
}

/// In which order blocks of a segment are met, and blocks of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the last on, the shortest first.
    Up,
    /// From the first on, the longest first.
    Down,
    /// The longest first.
    Longest,
}

/// Blocks of all segments.
fn merged(blocks: &[KeyBlock], way: Way) -> Vec<usize> {
    let length = |i: usize| blocks[i].end - blocks[i].first;
    if way == Way::Longest {
        let mut all: Vec<usize> = (0..blocks.len()).collect();
        all.sort_by_key(|&i| -length(i));
        return all;
    }
    let own: Vec<usize> = (0..blocks.len()).collect();
    let of_segments = own.chunk_by(|_, &next| blocks[next].number > 0);
    let mut segments: Vec<VecDeque<usize>> = of_segments
        .map(|segment| match way {
            Way::Up => segment.iter().rev().copied().collect(),
            _ => segment.iter().copied().collect(),
        })
        .collect();
    let mut all = Vec::with_capacity(blocks.len());
    loop {
        let fronts = segments.iter_mut().filter(|blocks| !blocks.is_empty());
        let next = fronts.min_by_key(|blocks| match way {
            Way::Up => length(blocks[0]),
            _ => -length(blocks[0]),
        });
        let Some(block) = next.and_then(VecDeque::pop_front) else {
            return all;
        };
        all.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of causal segments of so many each.
    fn blocks(segments: &[i32]) -> Vec<KeyBlock> {
        let of = |&count: &i32| {
            (0..count).map(move |number| {
                let mut block = KeyBlock::zeroed();
                (block.first, block.end, block.number) = (number, count, number);
                block
            })
        };
        segments.iter().flat_map(of).collect()
    }

    /// `[block, head, down, rope_turn]`.
    fn listed(blocks: &[KeyBlock], heads: Heads, deterministic: bool) -> Vec<[i32; 4]> {
        let of = |task: &Task| [task.block, task.head, task.down, task.rope_turn];
        let tasks = tasks(blocks, &heads, deterministic);
        tasks.iter().map(of).collect()
    }

    const PAIR: Heads = Heads {
        count: 2,
        per_rope: 2,
        at_once: 1,
    };

    #[test]
    fn heads_go_up_and_down_in_turn() {
        let wanted = [
            [1, 0, 0, 0],
            [2, 0, 0, 0],
            [0, 0, 0, 0],
            [0, 1, 1, 1],
            [1, 1, 1, 1],
            [2, 1, 1, 1],
        ];
        assert_eq!(listed(&blocks(&[2, 1]), PAIR, true), wanted);
    }

    #[test]
    fn the_longest_come_first_where_any_may_add() {
        let wanted = [
            [1, 0, 0, 0],
            [2, 0, 0, 0],
            [0, 0, 0, 0],
            [3, 0, 0, 0],
            [1, 1, 0, 1],
            [2, 1, 0, 1],
            [0, 1, 0, 1],
            [3, 1, 0, 1],
        ];
        assert_eq!(listed(&blocks(&[1, 3]), PAIR, false), wanted);
    }

    #[test]
    fn as_many_heads_side_by_side_as_fill_the_device() {
        let side_by_side = |blocks| Heads::new(128, 128, blocks, 132).at_once;
        assert_eq!([64, 32, 1000, 0].map(side_by_side), [2, 4, 1, 128]);
        assert_eq!(size_of::<Task>(), 16);
    }
}
