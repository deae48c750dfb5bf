//! Softmax attention over rows of keys and values with Hopper's tensor cores: what `flash_forward.cuh` is told. `backward` has its gradients.

pub(super) mod backward;
mod choice;
mod tables;

use bytemuck::{Pod, Zeroable};

use super::super::driver::{Address, Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaDevice, CudaElement};
use super::attention::work;
use super::output::Output;
use crate::backend::{Attention, Backend, Pages, Strided};
use crate::element::Scalar;
use crate::error::Result;
use crate::softmax::Softmax;
use choice::Sizes;
use tables::Tables;

/// The unit and its kernel.
const FORWARD: &str = "flash_forward";
/// Bytes of shared memory that a block takes: all that there are.
const SHARED_BYTES: u32 = 232_448;
/// Rows of queries of a block.
const ROWS: usize = 128;
/// What blocks count, in front of what they note down.
const COUNTERS: usize = 3;
/// Columns of a tile, which are 128 bytes.
const COLUMNS: usize = 64;
/// Bytes of keys and values that blocks read at about the same time: they are to stay in the L2, half of which is near.
const NEAR_BYTES: usize = 24 << 20;

/// `FlashForward` of `flash_tiles.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FlashForward {
    q: TensorMap,
    q_rope: TensorMap,
    k: TensorMap,
    k_rope: TensorMap,
    v: TensorMap,
    limits: Address,
    works: Address,
    table: Address,
    narrow: Address,
    wide: Address,
    lse: Address,
    max_logit: Address,
    taken: Address,
    again: Address,
    row_stride: i64,
    head_stride: i64,
    count: i32,
    heads: i32,
    at_once: i32,
    per_key: i32,
    per_rope: i32,
    per_value: i32,
    page: i32,
    keys_at_once: i32,
    scale_log2: f32,
    scale: f32,
    bend: f32,
    unused: [i32; 15],
}

// As large as the kernel takes it
const _: () = assert!(size_of::<FlashForward>() == 832);

/// Attends to all segments and writes all of the output, where the kernel can; otherwise says so and does nothing.
pub(super) fn attend<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    output: Output,
) -> Result<bool> {
    match choice::sizes(device, attention, output.tells_most) {
        Ok(sizes) => attend_by(&sizes, device, attention, output).map(|()| true),
        Err(_) => Ok(false),
    }
}

fn attend_by<T: CudaElement, E: Scalar>(
    sizes: &Sizes,
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    output: Output,
) -> Result<()> {
    let Attention {
        q,
        q_rope,
        k,
        k_rope,
        v,
        ..
    } = attention;
    let tables = Tables::new(attention.segments, attention.pages);
    let works = device.upload(&tables.works)?;
    let limits = device.upload(&tables.limits.rows)?;
    let table = device.upload(&tables.limits.table)?;

    let page = attention.pages.map_or(0, Pages::page);
    let at_once = sizes.keys_at_once(page);
    let heads = q.heads;
    // Counters, and tasks that are to be done again: kernels leave zeros
    let noted = device.upload(&vec![0_u32; COUNTERS + tables.works.len() * heads])?;
    let sharing = |keys: &Strided<'_, Cuda<T>, E>| heads / keys.heads.max(1);
    let bend = Bend::of(&attention.softmax);
    let args = FlashForward {
        q: rows_of(device, q, ROWS, COLUMNS, true)?,
        q_rope: rows_of(device, q_rope, ROWS, COLUMNS, true)?,
        k: rows_of(device, k, at_once, COLUMNS, page == 0)?,
        k_rope: rows_of(device, k_rope, at_once, COLUMNS, page == 0)?,
        v: rows_of(device, v, at_once, COLUMNS, page == 0)?,
        limits: limits.at(),
        works: works.at(),
        table: table.at(),
        narrow: output.elements,
        wide: output.accumulators,
        lse: output.lse,
        max_logit: output.max_logit,
        taken: noted.at(),
        again: noted.place(COUNTERS),
        row_stride: (heads * v.width) as i64,
        head_stride: v.width as i64,
        count: tables.works.len() as i32,
        heads: heads as i32,
        at_once: heads_at_once(attention) as i32,
        per_key: sharing(k) as i32,
        per_rope: sharing(k_rope) as i32,
        per_value: sharing(v) as i32,
        page: page as i32,
        keys_at_once: at_once as i32,
        scale_log2: bend.scale_log2,
        scale: bend.scale,
        bend: bend.bend,
        unused: [0; 15],
    };
    let kernel = Kernel::of::<T>(FORWARD, FORWARD, &sizes.dims).reading::<E>();
    let blocks = (device.multiprocessors() as usize).min(tables.works.len() * heads);
    let grid = Grid::sharing([blocks, 1, 1], SHARED_BYTES);
    let work = work(attention, output.number_bytes::<T>());
    device.launch(&kernel, grid, work, &args)
}

/// Heads whose works are taken side by side: about as many as have all their keys and values in the L2, and at least those that share them.
fn heads_at_once<T: CudaElement, E: Scalar>(attention: &Attention<'_, Cuda<T>, E>) -> usize {
    let Attention {
        q, k, k_rope, v, ..
    } = attention;
    let lists = attention.segments.list().iter();
    let keys: usize = lists.map(|segment| segment.keys.len()).sum();
    let bytes = keys * (k.width + k_rope.width + v.width) * size_of::<E>();
    let sharing = q.heads / k.heads.max(1);
    let all = k.heads.max(1);
    evenly(all, (NEAR_BYTES / bytes.max(1)).clamp(1, all)) * sharing
}

/// As many of `all` at a time as `most`, or fewer by up to a half, so that the last time has about as many as those before: few that are left over
/// leave most of the GPU idle at the end.
fn evenly(all: usize, most: usize) -> usize {
    let last = |at_a_time: usize| (all - 1) % at_a_time + 1;
    let by_fullness = |a: &usize, b: &usize| (last(*a) * b).cmp(&(last(*b) * a));
    (most.div_ceil(2)..=most).max_by(by_fullness).unwrap_or(1)
}

/// What products are multiplied by.
struct Bend {
    /// What gives logits: of what is bent to its tangent, the cap.
    scale: f32,
    /// The same, for powers of two.
    scale_log2: f32,
    /// With a cap alone: what the tangent is taken of, twice for powers of two.
    bend: f32,
}

impl Bend {
    fn of<B: Backend>(softmax: &Softmax<'_, B>) -> Self {
        let (scale, cap) = (softmax.scale(), softmax.cap());
        let log2_e = std::f64::consts::LOG2_E;
        Self {
            scale: cap.unwrap_or(scale) as f32,
            scale_log2: (cap.unwrap_or(scale) * log2_e) as f32,
            bend: cap.map_or(0.0, |cap| 2.0 * log2_e * scale / cap) as f32,
        }
    }
}

/// A window as the copy engine takes it: `at_once` rows of one head, in tiles of so many columns, all of them `together` where they are whole.
/// What is without width has no map, and no kernel asks for it.
fn rows_of<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, S>,
    at_once: usize,
    of_tile: usize,
    together: bool,
) -> Result<TensorMap> {
    if x.width == 0 || x.rows == 0 {
        return Ok(TensorMap::zeroed());
    }
    let axis = |len, stride, tile| Axis::outer(NumberType::Bf16, len, stride, tile);
    // Those that lie one behind the other, or the last of which is cut, are an axis less
    let (columns, tiles) = match together && x.width.is_multiple_of(of_tile) {
        true => (of_tile, x.width / of_tile),
        false => (x.width, 1),
    };
    device.tensor_map(&Tiling {
        at: x.buffer.place(x.offset),
        number: NumberType::Bf16,
        axes: &[
            Axis {
                len: columns,
                stride: 1,
                tile: of_tile,
            },
            axis(x.rows, x.row_stride, at_once),
            axis(x.heads, x.head_stride, 1),
            axis(tiles, of_tile, tiles),
        ],
        // A tile's rows are as long as what is swizzled
        swizzle: match of_tile {
            16 => Swizzle::Rows32,
            32 => Swizzle::Rows64,
            _ => Swizzle::Rows128,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::evenly;

    #[test]
    fn heads_are_taken_in_groups_of_about_the_same_size() {
        for (all, most, wanted) in [
            (128, 4, 4),
            (128, 5, 4),
            (16, 3, 2),
            (7, 4, 4),
            (5, 1, 1),
            (6, 6, 6),
            (1, 1, 1),
        ] {
            assert_eq!(evenly(all, most), wanted, "{all} of {most}");
        }
    }
}
