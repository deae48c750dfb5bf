//! How a kernel for some widths cuts its work: `flash_cut.cuh`, and the tiles of columns of `flash_backward_tiles.cuh`.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Rows of a tile of queries.
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
    /// For both parts of keys and for values, all multiples of 16.
    pub(super) fn new([key, rope, value]: [usize; 3]) -> Self {
        let width = key + rope;
        let queries = queries_of_tile([key, rope, value]);
        let half = width.div_ceil(32) * 16;
        let (columns, halved) = match queries {
            64 => (half, half),
            _ => (width, 0),
        };
        // Both parts begin with a tile, and what each half multiplies of the keys
        let edge = if rope > 0 { key } else { 0 };
        Self {
            queries,
            columns,
            keys: if held([key, rope, value]) <= REGISTERS {
                128
            } else {
                64
            },
            q_tile: tile_between(edge),
            k_tile: tile_between(edge | halved),
        }
    }
}

/// Registers of a thread that hold accumulators.
const REGISTERS: usize = 208;

/// Registers that the gradients of 128 keys and their values take, beside what a tile does.
fn held([key, rope, value]: [usize; 3]) -> usize {
    let width = key + rope;
    let (columns, of_tile) = match queries_of_tile([key, rope, value]) {
        64 => (width.div_ceil(32) * 16, 48),
        _ => (width, 96),
    };
    (width + value) / 2 + of_tile.max(columns / 2)
}

/// Rows of a tile of queries. Products of more columns take less of shared memory, where there are registers for them.
fn queries_of_tile([key, rope, value]: [usize; 3]) -> usize {
    if key + rope <= 96 && value <= 64 {
        128
    } else {
        64
    }
}

/// The widest tiles that these columns are an edge of.
fn tile_between(edges: usize) -> usize {
    match edges {
        _ if edges.is_multiple_of(64) => 64,
        _ if edges.is_multiple_of(32) => 32,
        _ => 16,
    }
}

/// Whether there is a kernel for both parts of keys and for values of these widths.
pub(super) fn takes(widths: [usize; 3], capped: bool) -> bool {
    let [key, rope, value] = widths;
    let whole = widths.iter().all(|width| width.is_multiple_of(16));
    // The slope of a cap takes registers too: there are enough beside narrow heads, and of blocks of fewer keys
    const CAPPED: usize = 176;
    let room = !capped || !(CAPPED + 1..=REGISTERS).contains(&held(widths));
    whole && key > 0 && value > 0 && key + rope <= 256 && value <= 256 && room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_heads_have_blocks_of_fewer_keys() {
        let cut = |widths| {
            let Cut {
                queries,
                columns,
                keys,
                q_tile,
                k_tile,
            } = Cut::new(widths);
            [queries, columns, keys, q_tile, k_tile]
        };
        assert_eq!(cut([128, 64, 128]), [64, 96, 128, 64, 32]);
        assert_eq!(cut([64, 0, 64]), [128, 64, 128, 64, 64]);
        assert_eq!(cut([64, 32, 64]), [128, 96, 128, 64, 64]);
        assert_eq!(cut([80, 0, 80]), [64, 48, 128, 64, 16]);
        assert_eq!(cut([192, 64, 256]), [64, 128, 64, 64, 64]);
    }

    #[test]
    fn the_compiler_knows_the_same_widths() {
        use mla_codegen::plan::flash;
        let widths = || (0..=40).map(|width| width * 8);
        for key in widths() {
            for rope in [0, 16, 32, 64, 72, 128] {
                for value in widths() {
                    let sizes = [key, rope, value];
                    for capped in [false, true] {
                        let wanted = takes(sizes, capped).then(|| queries_of_tile(sizes));
                        let found = flash::tile_of_backward(sizes, capped);
                        assert_eq!(found, wanted, "{sizes:?}");
                    }
                }
            }
        }
    }
}
