//! A line of work that blocks share (`line.cuh`).

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::{CudaBuffer, CudaDevice};
use crate::error::Result;

/// `Line` of `line.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LineArgs {
    parts: Address,
    arrived: Address,
    pieces: i32,
    tiles: i32,
    whole: i32,
    unused: i32,
}

/// The line, and memory in which blocks leave what others add. It is used in the order of work that is queued: who has it next comes behind.
pub(super) struct Line {
    parts: CudaBuffer<f32>,
    arrived: CudaBuffer<u32>,
    tiles: usize,
    pieces: usize,
    blocks: usize,
    whole: bool,
}

impl Line {
    /// A line of so many tiles of so many pieces each, for at most so many blocks. A tile has so many numbers.
    pub(super) fn of(
        device: &CudaDevice,
        [tiles, pieces]: [usize; 2],
        blocks: usize,
        tile: usize,
    ) -> Result<Self> {
        // Blocks of a shared tile are counted by their numbers: each has a piece
        let blocks = blocks.min(tiles * pieces);
        let whole = has_whole_tiles(tiles, blocks);
        let (parts, shared) = if whole { (0, 0) } else { (2 * blocks, tiles) };
        Ok(Self {
            parts: device.room(parts * tile)?,
            // The last block of a tile leaves 0 behind: it stands there whenever the launch runs again
            arrived: device.ahead(|| device.upload(&vec![0_u32; shared]))?,
            tiles,
            pieces,
            blocks,
            whole,
        })
    }

    /// Blocks that share it.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn args(&self) -> LineArgs {
        LineArgs {
            parts: self.parts.at(),
            arrived: self.arrived.at(),
            pieces: self.pieces as i32,
            tiles: self.tiles as i32,
            whole: i32::from(self.whole),
            unused: 0,
        }
    }
}

/// Whether blocks find their places on a line of so many tiles of so many pieces in 32 bits.
pub(super) fn is_short([tiles, pieces]: [usize; 2], blocks: usize) -> bool {
    u32::try_from((tiles * pieces + 1) * (blocks + 1)).is_ok()
        && i32::try_from(tiles * pieces).is_ok()
}

/// Whether blocks have whole tiles: where they then have hardly more than when tiles are shared.
fn has_whole_tiles(tiles: usize, blocks: usize) -> bool {
    let most = tiles.div_ceil(blocks.max(1)) * blocks;
    most * 16 <= tiles * 17
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_shared_where_blocks_would_have_unequal_numbers() {
        // DeepSeek-V3's projections, in tiles of 64 rows
        let whole = [2112, 24576, 7168].map(|rows| has_whole_tiles(rows / 64, 132));
        assert_eq!(whole, [false, true, false]);
    }
}
