//! The gradients of softmax attention over rows with Hopper's tensor cores: what `flash_delta.cuh`, `flash_backward.cuh` and `flash_queries.cuh`
//! are told.

mod args;
mod choice;
mod cut;
mod order;
mod tables;

use super::super::super::driver::Address;
use super::super::super::grid::Grid;
use super::super::super::kernels::Kernel;
use super::super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::args::bytes;
use super::super::attention_backward::lines;
use super::super::attention_tables::Seen;
use super::super::facts::Reason;
use super::super::pointwise::narrow_to;
use super::{Bend, COLUMNS, SHARED_BYTES, rows_of};
use crate::backend::{AttentionBackward, Landing, Landings, Strided};
use crate::error::{Error, Result};
use args::{FlashBackward, FlashDelta, FlashQueries};
use order::Heads;
use tables::Tables;

pub(in super::super) use args::Gradient;
pub(in super::super) use choice::{Sizes, lands, sizes};

/// The units and their kernels.
const DELTA: &str = "flash_delta";
const BACKWARD: &str = "flash_backward";
const QUERIES: &str = "flash_queries";
/// Threads of a warpgroup.
const WARPGROUP: usize = 128;

/// Where gradients are written.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Written {
    pub(in super::super) q: Gradient,
    pub(in super::super) q_rope: Gradient,
    pub(in super::super) k: Gradient,
    pub(in super::super) v: Gradient,
    /// Accumulators, `[keys, heads of second parts, R]`, of zeros: heads add to them.
    pub(in super::super) k_rope: Address,
    /// From one key to the next.
    pub(in super::super) rope_stride: usize,
}

impl Written {
    /// Refuses places that whole vectors can't be written to.
    pub(in super::super) fn is_aligned(&self) -> std::result::Result<(), Reason> {
        let parts = [self.q, self.q_rope, self.k, self.v];
        match parts.iter().all(Gradient::is_aligned) {
            true => Ok(()),
            false => Err("gradients do not lie at multiples of 8 bytes"),
        }
    }
}

/// The gradients of all operands as they land in buffers of so many elements. What belongs to nobody is zeros.
pub(in super::super) fn gradients<T: CudaElement>(
    device: &CudaDevice,
    sizes: &Sizes,
    backward: &AttentionBackward<'_, Cuda<T>>,
    landings: &Landings,
    lens: &[usize],
) -> Result<Vec<CudaBuffer<T>>> {
    let attention = &backward.attention;
    let (q, k, k_rope, v) = (&attention.q, &attention.k, &attention.k_rope, &attention.v);
    let into: Vec<CudaBuffer<T>> = match fills(backward, landings) {
        true => lens
            .iter()
            .map(|&len| device.room(len))
            .collect::<Result<_>>()?,
        false => lens
            .iter()
            .map(|&len| device.zeros(len))
            .collect::<Result<_>>()?,
    };
    let shape = |x: &Strided<'_, Cuda<T>, T>| (x.rows, x.heads, x.width);
    let gradient = |landing, x: &Strided<'_, Cuda<T>, T>| {
        let lines = lines(&into, landing, shape(x))?;
        Ok::<_, Error>(Gradient::of_lines(lines, x.heads))
    };
    let rope = lines(&into, landings.k_rope, shape(k_rope))?;
    let sums: CudaBuffer<Accum<T>> = device.zeros(k_rope.rows * k_rope.heads * k_rope.width)?;
    let written = Written {
        q: gradient(landings.q, q)?,
        q_rope: gradient(landings.q_rope, &attention.q_rope)?,
        k: gradient(landings.k, k)?,
        v: gradient(landings.v.unwrap_or(landings.k), v)?,
        k_rope: sums.at(),
        rope_stride: k_rope.heads * k_rope.width,
    };
    write(device, sizes, backward, &written)?;
    if rope.at != 0 {
        narrow_to::<T>(device, &sums, &into[landings.k_rope.buffer])?;
    }
    Ok(into)
}

/// Whether segments have all rows and all keys, and gradients all of their lines: then nothing is left to be zeros.
fn fills<T: CudaElement>(backward: &AttentionBackward<'_, Cuda<T>>, landings: &Landings) -> bool {
    let attention = &backward.attention;
    let segments = attention.segments;
    // No key is of two segments
    let keys: usize = segments.list().iter().map(|own| own.keys.len()).sum();
    let parts = [
        (landings.q, attention.q.width),
        (landings.q_rope, attention.q_rope.width),
        (landings.k, attention.k.width),
        (landings.v.unwrap_or(landings.k), attention.v.width),
    ];
    let whole = |(landing, _): &(Landing, usize)| {
        let beside = parts
            .iter()
            .filter(|(other, _)| other.buffer == landing.buffer);
        beside.map(|(_, width)| width).sum::<usize>() == landing.line
    };
    segments.outside().is_empty()
        && keys == segments.keys()
        && parts.iter().filter(|(_, width)| *width > 0).all(whole)
}

/// Writes the gradients of all rows and keys that segments have, to where they are aligned.
pub(in super::super) fn write<T: CudaElement>(
    device: &CudaDevice,
    sizes: &Sizes,
    backward: &AttentionBackward<'_, Cuda<T>>,
    written: &Written,
) -> Result<()> {
    let tables = Tables::new(backward.attention.segments, &sizes.cut);
    let on_device = OnDevice::new(device, sizes, backward, &tables)?;
    on_device.sum(sizes, backward)?;
    on_device.multiply(sizes, backward, written, &tables)?;
    on_device.finish(sizes, backward, written)
}

/// What the kernels hand over to each other.
struct OnDevice<'a> {
    device: &'a CudaDevice,
    tiles: CudaBuffer<[i32; 2]>,
    limits: CudaBuffer<[i32; 2]>,
    seen_by: CudaBuffer<[i32; 2]>,
    sums: CudaBuffer<f32>,
    d_queries: CudaBuffer<f32>,
    turns: CudaBuffer<u32>,
    rope_turns: CudaBuffer<u32>,
    /// Tiles of all segments.
    count: usize,
    /// Tiles of all heads.
    numbers: usize,
}

impl<'a> OnDevice<'a> {
    fn new<T: CudaElement>(
        device: &'a CudaDevice,
        sizes: &Sizes,
        backward: &AttentionBackward<'_, Cuda<T>>,
        tables: &Tables,
    ) -> Result<Self> {
        let attention = &backward.attention;
        let count = tables.tiles.len();
        let numbers = attention.q.heads * count;
        let cut = &sizes.cut;
        Ok(Self {
            device,
            tiles: device.upload(&tables.tiles)?,
            limits: device.upload(&tables.limits)?,
            seen_by: device.upload(&tables.seen_by)?,
            sums: device.room(numbers * 2 * cut.queries)?,
            d_queries: device.room(numbers * 2 * (cut.columns / 8) * WARPGROUP * 4)?,
            turns: device.room(numbers * 2)?,
            rope_turns: device.room(attention.k_rope.heads * tables.blocks.len() * 2)?,
            count,
            numbers,
        })
    }

    /// What is to know of rows, and zeros where sums begin.
    fn sum<T: CudaElement>(
        &self,
        sizes: &Sizes,
        backward: &AttentionBackward<'_, Cuda<T>>,
    ) -> Result<()> {
        let args = FlashDelta {
            out: (&backward.out).into(),
            d_out: (&backward.d_out).into(),
            lse: backward.lse.at(),
            tiles: self.tiles.at(),
            seen_by: self.seen_by.at(),
            sums: self.sums.at(),
            d_queries: self.d_queries.at(),
            turns: self.turns.at(),
            rope_turns: self.rope_turns.at(),
            heads: backward.attention.q.heads as i32,
            count: self.count as i32,
            rope_counts: self.rope_turns.len() as i32,
            unused: 0,
        };
        let zeros = match sizes.deterministic {
            true => 0,
            false => self.d_queries.bytes(),
        };
        let work = Work::moving(bytes(&backward.out) + bytes(&backward.d_out) + zeros);
        let kernel = Kernel::of::<T>(DELTA, DELTA, &sizes.delta);
        self.device
            .launch(&kernel, [self.numbers, 1, 1], work, &args)
    }

    fn multiply<T: CudaElement>(
        &self,
        sizes: &Sizes,
        backward: &AttentionBackward<'_, Cuda<T>>,
        written: &Written,
        tables: &Tables,
    ) -> Result<()> {
        let attention = &backward.attention;
        let (q, k, k_rope, v) = (&attention.q, &attention.k, &attention.k_rope, &attention.v);
        let device = self.device;
        let multiprocessors = device.multiprocessors() as usize;
        let per_rope = match k_rope.width {
            0 => k.heads,
            _ => k.heads / k_rope.heads,
        };
        let heads = Heads::new(k.heads, per_rope, tables.blocks.len(), multiprocessors);
        let tasks = order::tasks(&tables.blocks, &heads, sizes.deterministic);
        let blocks = device.upload(&tables.blocks)?;
        let on_device = device.upload(&tasks)?;
        let taken = device.upload(&[0_u32; 2])?;
        let cut = &sizes.cut;
        let bend = Bend::of(&attention.softmax);
        let args = FlashBackward {
            q: rows_of(device, q, cut.queries, cut.q_tile, true)?,
            q_rope: rows_of(device, &attention.q_rope, cut.queries, cut.q_tile, true)?,
            k: rows_of(device, k, cut.keys, cut.k_tile, true)?,
            k_rope: rows_of(device, k_rope, cut.keys, cut.k_tile, true)?,
            v: rows_of(device, v, cut.keys, COLUMNS, true)?,
            d_out: rows_of(device, &backward.d_out, cut.queries, COLUMNS, true)?,
            blocks: blocks.at(),
            tasks: on_device.at(),
            sums: self.sums.at(),
            limits: self.limits.at(),
            d_queries: self.d_queries.at(),
            d_k: written.k,
            d_v: written.v,
            d_k_rope: written.k_rope,
            taken: taken.at(),
            seen_by: self.seen_by.at(),
            turns: self.turns.at(),
            rope_turns: self.rope_turns.at(),
            rope_stride: written.rope_stride as i64,
            count: tasks.len() as i32,
            tiles: self.count as i32,
            key_blocks: tables.blocks.len() as i32,
            per_key: (q.heads / k.heads) as i32,
            per_rope: per_rope as i32,
            scale: attention.softmax.scale() as f32,
            scale_log2: bend.scale_log2,
            bend: bend.bend,
            unused: [0; 2],
        };
        let thread_blocks = multiprocessors.min(tasks.len());
        let grid = Grid::sharing([thread_blocks, 1, 1], SHARED_BYTES);
        let kernel = Kernel::of::<T>(BACKWARD, BACKWARD, &sizes.gradients);
        // Those that add in turn wait for each other
        let grid = match sizes.deterministic {
            true => grid.together(),
            false => grid,
        };
        device.launch(&kernel, grid, work(backward), &args)
    }

    /// The queries' gradient as rows.
    fn finish<T: CudaElement>(
        &self,
        sizes: &Sizes,
        backward: &AttentionBackward<'_, Cuda<T>>,
        written: &Written,
    ) -> Result<()> {
        let attention = &backward.attention;
        let args = FlashQueries {
            d_queries: self.d_queries.at(),
            tiles: self.tiles.at(),
            d_q: written.q,
            d_q_rope: written.q_rope,
            count: self.count as i32,
            scale: attention.softmax.scale() as f32,
        };
        let gradient = bytes(&attention.q) + bytes(&attention.q_rope);
        let work = Work::moving(self.d_queries.bytes() + gradient);
        let kernel = Kernel::of::<T>(QUERIES, QUERIES, &sizes.queries);
        self.device
            .launch(&kernel, [self.numbers * 2, 1, 1], work, &args)
    }
}

/// Operands and gradients once, and five products of each query with the keys that it sees.
fn work<T: CudaElement>(backward: &AttentionBackward<'_, Cuda<T>>) -> Work {
    let attention = &backward.attention;
    let (k, k_rope, v) = (&attention.k, &attention.k_rope, &attention.v);
    let seen = Seen::of(attention.segments, None);
    let key = attention.q.width + attention.q_rope.width;
    let of_keys = (k.heads * (k.width + v.width) + k_rope.heads * k_rope.width) * size_of::<T>();
    let of_queries = bytes(&attention.q) + bytes(&attention.q_rope) + bytes(&backward.d_out);
    Work::moving(of_queries + 2 * seen.keys * of_keys)
        .adding(seen.pairs * attention.q.heads * (3 * key + 2 * v.width))
}
