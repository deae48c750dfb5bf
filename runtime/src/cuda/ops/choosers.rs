//! Which queries chose each key: what `choosers.cuh` makes of a selection.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::blocks;
use super::attention_tables::RowsOnDevice;
use crate::backend::Chosen;
use crate::error::{Error, Result};

/// Most chunks that queries are cut into: enough blocks for any device, and each has a counter for every key.
const MOST_CHUNKS: usize = 1024;

/// `Turning` of `choosers.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Turning {
    rows: Address,
    given: Address,
    indices: Address,
    queries: i64,
    chosen: i64,
    keys: i64,
    per_chunk: i64,
    chunks: i64,
    places: Address,
    first: Address,
    choosers: Address,
}

/// Who chose each key, on the device.
pub(super) struct Choosers {
    /// Where each key's list begins, and behind the last where that ends.
    pub(super) first: CudaBuffer<i64>,
    /// The lists: queries, ascending.
    pub(super) queries: CudaBuffer<i32>,
}

impl Choosers {
    /// Those of so many queries and rows of keys, whose rows say what they see.
    ///
    /// # Errors
    /// When there are more queries than 31 bits count, or the device refuses.
    pub(super) fn of<T: CudaElement>(
        device: &CudaDevice,
        chosen: Chosen<'_, Cuda<T>>,
        (rows, given): &RowsOnDevice,
        [queries, keys]: [usize; 2],
    ) -> Result<Self> {
        if i32::try_from(queries).is_err() {
            return Err(Error::Device(format!("{queries} queries are too many")));
        }
        let pairs = queries * chosen.width;
        // Counters are no more than entries of lists, where there is more than one chunk
        let most = pairs / keys.max(1);
        let per_chunk = queries.div_ceil(most.clamp(1, MOST_CHUNKS)).max(1);
        let chunks = queries.div_ceil(per_chunk);
        let places: CudaBuffer<i32> = device.zeros(chunks * keys)?;
        let lists = Self {
            first: device.room(keys + 1)?,
            queries: device.room(pairs)?,
        };
        let args = Turning {
            rows: rows.at(),
            given: given.as_ref().map_or(0, CudaBuffer::at),
            indices: chosen.indices.at(),
            queries: queries as i64,
            chosen: chosen.width as i64,
            keys: keys as i64,
            per_chunk: per_chunk as i64,
            chunks: chunks as i64,
            places: places.at(),
            first: lists.first.at(),
            choosers: lists.queries.at(),
        };
        let entries = Work::moving(chosen.indices.bytes());
        let of_lists = Work::moving(chosen.indices.bytes() + lists.queries.bytes());
        for (entry, blocks, work) in [
            ("count_choosers", queries, entries),
            ("add_chunks", blocks(keys)[0], Work::moving(places.bytes())),
            ("begin_lists", 1, Work::moving(lists.first.bytes())),
            ("list_choosers", chunks, of_lists),
        ] {
            let kernel = Kernel::of::<T>("choosers", entry, &[]);
            device.launch(&kernel, [blocks, 1, 1], work, &args)?;
        }
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention_tables::QueryRows;
    use super::*;
    use crate::Visibility;
    use crate::cuda::tests::{Dice, device, segment};
    use crate::segments::{Segment, Segments};

    /// Queries of each key, by looking at every pair.
    fn wanted(segments: &Segments, lists: &[i32], width: usize) -> Vec<Vec<i32>> {
        let mut choosers = vec![Vec::new(); segments.keys()];
        for query in 0..segments.queries() {
            let list = &lists[query * width..][..width];
            for segment in segments.list() {
                if !segment.queries.contains(&query) {
                    continue;
                }
                let own = query - segment.queries.start;
                for key in segment.keys.clone() {
                    let key_of_segment = key - segment.keys.start;
                    let index = (segment.first_key + key_of_segment) as i32;
                    if list.contains(&index) && segments.sees(segment, own, key_of_segment) {
                        choosers[key].push(query as i32);
                    }
                }
            }
        }
        choosers
    }

    fn check(segments: &Segments, width: usize, end: usize) {
        let dice = &mut Dice::new();
        let [queries, keys] = [segments.queries(), segments.keys()];
        let mut lists = Vec::new();
        for _ in 0..queries {
            let mut list: Vec<i32> = (0..dice.below(width + 1))
                .map(|_| dice.below(end) as i32)
                .collect();
            list.sort_unstable();
            list.dedup();
            list.resize(width, -1);
            lists.extend(list);
        }
        let device = device();
        let rows = QueryRows::new(segments, queries).expect("no query twice");
        let tables = rows.upload(&device).expect("room");
        let indices = device.upload(&lists).expect("room");
        let chosen = Chosen {
            indices: &indices,
            width,
        };
        let found =
            Choosers::of::<f32>(&device, chosen, &tables, [queries, keys]).expect("it runs");
        let first = device.download(&found.first).expect("values");
        let of_keys = device.download(&found.queries).expect("values");
        let wanted = wanted(segments, &lists, width);
        let ends: Vec<i64> = wanted
            .iter()
            .scan(0, |end, list| {
                *end += list.len() as i64;
                Some(*end)
            })
            .collect();
        assert_eq!(first[0], 0);
        assert_eq!(first[1..], ends);
        assert_eq!(of_keys[..first[keys] as usize], wanted.concat());
    }

    #[test]
    fn each_key_has_the_queries_that_chose_it_in_ascending_order() {
        // The last two segments share keys
        let few = vec![
            segment(0, 0..50, 0..50),
            segment(50, 50..63, 40..113),
            Segment {
                first_key: 5,
                ..segment(2, 64..90, 100..126)
            },
        ];
        check(&Segments::new(few, Visibility::CAUSAL, 91, 130), 31, 140);
        // More keys than entries of lists, and than the block that scans them takes at a time
        let many = vec![
            segment(2000, 0..40, 0..2040),
            segment(0, 40..70, 2100..2130),
        ];
        check(&Segments::new(many, Visibility::CAUSAL, 70, 2600), 20, 2100);
        // Each query a chunk of its own
        let same = vec![segment(0, 0..9, 0..4)];
        check(&Segments::new(same, Visibility::FULL, 9, 4), 64, 4);
    }
}
