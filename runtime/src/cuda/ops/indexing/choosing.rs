//! The best scores of each row: how rows are spread over blocks of `topk.cuh` and `topk_few.cuh`.

use bytemuck::{Pod, Zeroable};

use super::super::super::driver::Address;
use super::super::super::grid::Grid;
use super::super::super::kernels::Kernel;
use super::super::super::{Accum, CudaBuffer, CudaDevice, CudaElement, Work};
use super::tables::Sights;
use crate::error::Result;

/// Keys up to which few rows may have, and many rows have, a block each whose multiprocessor has others too.
const SHORT: usize = 8192;
const LONG: usize = 1 << 17;
/// Keys that a block of several of one row has at least.
const KEYS_EACH: usize = 32_768;
/// Blocks of one row, as `topk_list.cuh` has it.
const MOST_SPLIT: usize = 32;
/// Candidates that a block has room for, where few are wanted of not too many keys, and where it is more.
const ROOM: [usize; 2] = [4096, 8192];
/// Most that are wanted, and most keys, where the smaller room has enough beside what is wanted for what a guess adds.
const FEW_WANTED: usize = 2048;
const FEW_KEYS: usize = 1 << 16;
/// Keys whose choice a block writes at a time.
const PIECE: [usize; 2] = [1 << 10, 1 << 18];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Choosing {
    sights: Sights,
    scores: Address,
    out: Address,
    candidates: Address,
    counts: Address,
    arrived: Address,
    most: i64,
    width: i64,
    first_group: i64,
    per_group: i64,
    split: i32,
    room: u32,
    piece: u32,
    slots: i32,
}

/// How rows are spread over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super::super) struct Spread {
    /// Whether blocks have multiprocessors of their own.
    pub(in super::super::super) few: bool,
    /// Blocks of a row.
    pub(in super::super::super) split: usize,
    /// Candidates that a block has room for.
    pub(in super::super::super) room: usize,
}

/// Scores of which the best are chosen.
pub(super) struct Rows {
    pub(super) sights: Sights,
    /// `[groups, per_group, width]`.
    pub(super) scores: Address,
    pub(super) out: Address,
    pub(super) most: usize,
    pub(super) width: usize,
    pub(super) first_group: usize,
    pub(super) groups: usize,
    pub(super) per_group: usize,
    /// Queries, each with a key that is scored for it.
    pub(super) pairs: usize,
    /// Whether rows of keys are wanted, as lists of blocks have them, instead of positions.
    pub(super) slots: bool,
}

impl Spread {
    /// Of so many rows of `width` scores, of which `most` are wanted.
    pub(in super::super::super) fn of(
        rows: usize,
        width: usize,
        most: usize,
        multiprocessors: usize,
    ) -> Self {
        let few = (rows <= multiprocessors && width > SHORT) || width > LONG;
        let split = match few {
            true => (multiprocessors / rows.max(1)).min(width / KEYS_EACH),
            false => 1,
        };
        let small = most <= FEW_WANTED && width <= FEW_KEYS;
        Self {
            few,
            split: split.clamp(1, MOST_SPLIT),
            room: ROOM[usize::from(!small)],
        }
    }
}

impl Rows {
    /// Queues the choice, spread as is good for the device.
    pub(super) fn choose<T: CudaElement>(&self, device: &CudaDevice) -> Result<()> {
        let multiprocessors = device.multiprocessors() as usize;
        let rows = self.groups * self.per_group;
        let spread = Spread::of(rows, self.width, self.most, multiprocessors);
        self.choose_spread::<T>(device, spread)
    }

    /// The same, spread as is wanted.
    pub(super) fn choose_spread<T: CudaElement>(
        &self,
        device: &CudaDevice,
        spread: Spread,
    ) -> Result<()> {
        let Spread { few, split, room } = spread;
        let rows = self.groups * self.per_group;
        let piece = self.width.next_power_of_two().clamp(PIECE[0], PIECE[1]);
        // A score and a key
        let candidate = 2 * size_of::<Accum<T>>();
        let handed_on = if split > 1 { rows * split } else { 0 };
        let candidates: CudaBuffer<u8> = device.room(handed_on * room * candidate)?;
        let counts: CudaBuffer<u32> = device.room(handed_on)?;
        // The last block of a row leaves 0 behind: it stands there whenever the launch runs again
        let arrived = device.upload(&vec![0_u32; if split > 1 { rows } else { 0 }])?;
        let choosing = Choosing {
            sights: self.sights,
            scores: self.scores,
            out: self.out,
            candidates: candidates.at(),
            counts: counts.at(),
            arrived: arrived.at(),
            most: self.most as i64,
            width: self.width as i64,
            first_group: self.first_group as i64,
            per_group: self.per_group as i64,
            split: split as i32,
            room: room as u32,
            piece: piece as u32,
            slots: i32::from(self.slots),
        };
        let name = if few { "topk_few" } else { "topk" };
        let kernel = Kernel::of::<T>(name, name, &[]);
        let shared = room * candidate + piece / 8;
        let grid = Grid::sharing([rows * split, 1, 1], shared as u32);
        let work = Work::moving(self.pairs * size_of::<Accum<T>>());
        device.launch(&kernel, grid, work, &choosing)
    }
}
