//! How tiles lie in shared memory for the tensor cores: `tile.cuh` in Rust.
//!
//! The runtime's tests run both and compare.

/// Where a byte of a tile stands whose rows are 128 bytes.
pub const fn swizzled_128(byte: u32) -> u32 {
    byte ^ (((byte >> 7) & 7) << 4)
}

/// The same for rows of 64 bytes.
pub const fn swizzled_64(byte: u32) -> u32 {
    byte ^ (((byte >> 7) & 3) << 4)
}

/// The same for rows of 32 bytes.
pub const fn swizzled_32(byte: u32) -> u32 {
    byte ^ (((byte >> 7) & 1) << 4)
}

/// How a tile is swizzled, as a descriptor says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// [`swizzled_128`].
    Rows128 = 1,
    /// [`swizzled_64`].
    Rows64 = 2,
    /// [`swizzled_32`].
    Rows32 = 3,
}

/// What the tensor cores are told of a tile: where it begins, bytes from one run of 64 values to the next and from one group of eight rows
/// to the next (PTX ISA, matrix descriptor).
pub const fn descriptor(address: u32, chunk_stride: u32, atom_stride: u32, layout: Layout) -> u64 {
    ((address & 0x3_ffff) >> 4) as u64
        | ((chunk_stride >> 4) as u64) << 16
        | ((atom_stride >> 4) as u64) << 32
        | (layout as u64) << 62
}

/// The row, and the first of the two columns, that two neighbouring accumulators of a thread hold of a result of 64 rows.
pub const fn accumulator_place(thread: u32, pair: u32) -> (u32, u32) {
    (
        thread / 32 * 16 + thread % 32 / 4 + pair % 2 * 8,
        pair / 2 * 8 + thread % 4 * 2,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_swizzle_moves_chunks_within_an_atom_and_loses_none() {
        for (swizzled, atom) in [
            (swizzled_128 as fn(u32) -> u32, 1024),
            (swizzled_64, 512),
            (swizzled_32, 256),
        ] {
            let places: BTreeSet<u32> = (0..4 * atom).map(swizzled).collect();
            assert_eq!(places.len() as u32, 4 * atom);
            for byte in 0..4 * atom {
                assert_eq!(swizzled(byte) / atom, byte / atom);
                assert_eq!(swizzled(byte) % 16, byte % 16);
                assert_eq!(swizzled(swizzled(byte)), byte);
            }
        }
    }

    #[test]
    fn eight_rows_of_a_column_meet_in_different_banks() {
        // 16-byte chunks of eight neighbouring rows cover all 32 banks
        for column in 0..8 {
            let chunks: BTreeSet<u32> = (0..8)
                .map(|row| swizzled_128(row * 128 + column * 16) / 16 % 8)
                .collect();
            assert_eq!(chunks.len(), 8);
        }
        for column in 0..4 {
            let chunks: BTreeSet<u32> = (0..8)
                .map(|row| swizzled_64(row * 64 + column * 16) / 16 % 8)
                .collect();
            assert_eq!(chunks.len(), 8);
        }
        for column in 0..2 {
            let chunks: BTreeSet<u32> = (0..8)
                .map(|row| swizzled_32(row * 32 + column * 16) / 16 % 8)
                .collect();
            assert_eq!(chunks.len(), 8);
        }
    }

    #[test]
    fn accumulators_cover_a_result_once() {
        let places: BTreeSet<(u32, u32)> = (0..128)
            .flat_map(|thread| (0..16).map(move |pair| accumulator_place(thread, pair)))
            .flat_map(|(row, column)| [(row, column), (row, column + 1)])
            .collect();
        assert_eq!(places.len(), 64 * 64);
        assert_eq!(places.last(), Some(&(63, 63)));
    }
}
