//! Weights as codes of e4m3 in blocks, each half of a block with a scale, as they lie in memory on every backend.
//!
//! A block has 128 rows and 128 columns, codes of which lie in one piece in the order in which a product on Hopper reads them; `fp8_blocks.cuh` says which.
//! Blocks follow each other along the columns, then down the rows; what a weight lacks of its last ones is zeros. Behind all codes stand the scales, four
//! numbers for each block, of which the first two are those of its rows' halves.

use rayon::prelude::*;

use super::coded::CodedRows;
use crate::error::{Error, Result, product};
use crate::narrow::E4m3;

/// Rows and columns of a block.
pub(crate) const BLOCK: usize = 128;
/// Rows of a block that have a scale of their own.
pub(crate) const SCALED_ROWS: usize = 64;
/// Bytes of a block's codes.
pub(crate) const BLOCK_CODES: usize = BLOCK * BLOCK;
/// Bytes of a block's scales.
pub(crate) const BLOCK_SCALES: usize = 16;
/// Rows that lie side by side: a block can be read by so many.
pub(crate) const STRIP: usize = 8;

/// Where in a block a code is.
const fn code_at(row: usize, column: usize) -> usize {
    let run = row / 16 * 4 + column / 64 * 2 + row / 8 % 2;
    let lane = row % 8 * 4 + column % 8 / 2;
    run * 512 + lane * 16 + column / 16 % 4 * 4 + column % 2 * 2 + column / 8 % 2
}

/// Bytes that a weight of so many rows and columns takes.
///
/// # Errors
/// They are more than this machine can address.
pub(crate) fn bytes_of(rows: usize, columns: usize) -> Result<usize> {
    let each = BLOCK_CODES + BLOCK_SCALES;
    let blocks = [rows.div_ceil(BLOCK), columns.div_ceil(BLOCK), each];
    product("a weight in blocks", &blocks)
}

/// The codes of blocks, and their scales.
fn parts(blocks: &[u8]) -> (&[u8], &[u8]) {
    blocks.split_at(codes_of(blocks.len()))
}

/// Bytes of the codes of blocks that take so many.
pub(crate) const fn codes_of(bytes: usize) -> usize {
    bytes / (BLOCK_CODES + BLOCK_SCALES) * BLOCK_CODES
}

/// The blocks of a weight.
///
/// # Errors
/// A number is none, or has no end; there is no room for the blocks.
pub(super) fn pack(weight: &CodedRows) -> Result<Vec<u8>> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let mut bytes = vec![0; bytes_of(rows, columns)?];
    let across = columns.div_ceil(BLOCK);
    if across == 0 {
        return Ok(bytes);
    }
    let blocks_of_codes = codes_of(bytes.len());
    let (codes, scales) = bytes.split_at_mut(blocks_of_codes);
    let codes = codes.par_chunks_exact_mut(BLOCK_CODES);
    let blocks = codes.zip(scales.par_chunks_exact_mut(BLOCK_SCALES));
    blocks.enumerate().try_for_each(|(at, (block, scales))| {
        let (row, column) = (at / across * BLOCK, at % across * BLOCK);
        for half in 0..BLOCK / SCALED_ROWS {
            let first = row + half * SCALED_ROWS;
            let here = first.min(rows)..(first + SCALED_ROWS).min(rows);
            let part = weight.part(here, column..(column + BLOCK).min(columns))?;
            for (i, codes) in part.codes.chunks(part.columns.max(1)).enumerate() {
                for (j, &code) in codes.iter().enumerate() {
                    block[code_at(half * SCALED_ROWS + i, j)] = code;
                }
            }
            let own = half * size_of::<f32>()..(half + 1) * size_of::<f32>();
            scales[own].copy_from_slice(&part.scale.to_le_bytes());
        }
        Ok::<_, Error>(())
    })?;
    Ok(bytes)
}

/// The numbers of up to [`STRIP`] rows from `first` on, a multiple of it: `code · scale` in f32. `strip` has a whole number of rows of `columns` numbers.
pub(crate) fn widen_strip(blocks: &[u8], columns: usize, first: usize, strip: &mut [f32]) {
    let before = first / BLOCK * columns.div_ceil(BLOCK);
    let (codes, scales) = parts(blocks);
    let in_tile = first % BLOCK;
    let scale_at = in_tile / SCALED_ROWS * size_of::<f32>();
    for (row, out) in strip.chunks_mut(columns).enumerate() {
        let codes = codes[before * BLOCK_CODES..].chunks_exact(BLOCK_CODES);
        let scales = scales[before * BLOCK_SCALES..].chunks_exact(BLOCK_SCALES);
        for ((block, scales), out) in codes.zip(scales).zip(out.chunks_mut(BLOCK)) {
            let scale = f32::from_le_bytes([0, 1, 2, 3].map(|i| scales[scale_at + i]));
            for (column, out) in out.iter_mut().enumerate() {
                *out = E4m3(block[code_at(in_tile + row, column)]).decode() * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_place_of_its_own() {
        let mut taken = vec![false; BLOCK * BLOCK];
        for row in 0..BLOCK {
            for column in 0..BLOCK {
                assert!(!std::mem::replace(&mut taken[code_at(row, column)], true));
            }
        }
    }

    /// Registers of a left operand of 64 rows and 16 columns, as `tile.cuh` has them: `left_row` and `left_column`.
    #[test]
    fn a_thread_of_a_product_reads_its_operand_in_one_run() {
        for thread in 0..128 {
            let at = |row, column| code_at(row, column) % 512;
            let own = thread % 32 * 16;
            for part in 0..4 {
                let row = thread / 32 * 16 + thread % 32 / 4 + part % 2 * 8;
                for product in 0..4 {
                    let column = product * 16 + part / 2 * 8 + thread % 4 * 2;
                    // Bytes of a word: the lower half's two columns are its first and third
                    let byte = own + product * 4 + part / 2;
                    assert_eq!([at(row, column), at(row, column + 1)], [byte, byte + 2]);
                }
            }
        }
    }
}
