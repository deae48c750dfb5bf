//! The gradients of keys and values that were chosen for each query: a block walks over the queries that chose a key.

use bytemuck::{Pod, Zeroable};

use super::super::super::driver::Address;
use super::super::super::kernels::Kernel;
use super::super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::choosers::Choosers;
use super::{Backward, Pass};
use crate::backend::Chosen;
use crate::error::Result;

/// Rows of a piece of a list at least: with fewer, it costs as much to begin as to go on.
const LEAST_ROWS: usize = 128;
/// How much longer than a list is on average a piece may be: so pieces' sums take no more than a part of the gradients' own memory.
const LONGER: usize = 4;

/// `ChosenBackward` of `backward_chosen.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ChosenBackward {
    of: Backward,
    first: Address,
    choosers: Address,
    piece: i64,
    slots: i64,
    pieces: Address,
}

/// How lists are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pieces {
    /// Most queries of one.
    queries: usize,
    /// Those that are no list's first, at most.
    slots: usize,
}

impl Pieces {
    /// Of lists of `keys` keys, of so many queries together at most, each of which has `group` rows that read a head of keys.
    fn of(pairs: usize, keys: usize, group: usize) -> Self {
        let queries = (LONGER * pairs.div_ceil(keys)).max(LEAST_ROWS.div_ceil(group));
        Self {
            queries,
            slots: pairs / queries,
        }
    }
}

impl<T: CudaElement> Pass<T> {
    /// Adds the gradients of keys and values to where they land, which takes so much work.
    pub(super) fn keys_of_choosers(
        &self,
        device: &CudaDevice,
        chosen: Chosen<'_, Cuda<T>>,
        [queries, keys]: [usize; 2],
        work: Work,
    ) -> Result<()> {
        let choosers = Choosers::of(device, chosen, &self.tables, [queries, keys])?;
        let [heads, key_heads, _, a, r, v] = self.dims;
        let pieces = Pieces::of(queries * chosen.width, keys, heads / key_heads);
        let sums: CudaBuffer<Accum<T>> = device.room(pieces.slots * key_heads * (a + r + v))?;
        let args = ChosenBackward {
            of: self.args,
            first: choosers.first.at(),
            choosers: choosers.queries.at(),
            piece: pieces.queries as i64,
            slots: pieces.slots as i64,
            pieces: sums.at(),
        };
        let launch = |entry, blocks: usize, work| {
            let kernel = Kernel::of::<T>("backward_chosen", entry, &self.dims);
            device.launch(&kernel, [blocks, 1, 1], work, &args)
        };
        launch("backward_chosen", (pieces.slots + keys) * key_heads, work)?;
        if pieces.slots == 0 {
            return Ok(());
        }
        // Whether there is any, only the device knows
        let work = Work::moving(choosers.first.bytes());
        launch("add_pieces", keys * key_heads, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_a_few_times_as_long_as_lists_are() {
        let pieces = |queries, slots| Pieces { queries, slots };
        assert_eq!(Pieces::of(4096 * 2048, 4096, 128), pieces(8192, 1024));
        assert_eq!(Pieces::of(4096 * 64, 32768, 1), pieces(128, 2048));
        assert_eq!(Pieces::of(3, 500, 16), pieces(8, 0));
    }
}
