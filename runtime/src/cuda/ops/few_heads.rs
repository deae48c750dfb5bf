//! Products of few rows of heads with a matrix of each head's own by `skinny_heads.cuh`, which reads the matrices ahead of the rows.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::super::CudaDevice;
use super::super::driver::{
    Address, Axis, Matmul, NumberType, Operand, Swizzle, TensorMap, Tiling,
};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::few_rows::{STEP, map, may_read_ahead};
use crate::error::Result;

/// The unit and its kernel.
const UNIT: &str = "skinny_heads";
/// Rows that kernels are made for: those are a product's columns.
const COLUMNS: [usize; 2] = [16, 32];
/// Bytes of shared memory of a block for rows and matrices, and with barriers.
const ROOM: usize = 208 << 10;
const SHARED_BYTES: u32 = ROOM as u32 + 1024;
/// Numbers of k at most where they lie one below the other: the copy engine takes no more rows at once.
const MOST_TURNED: usize = 256;

/// `SkinnyHeads` of `skinny_heads.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    w: TensorMap,
    x: TensorMap,
    out: Address,
    rows: i32,
    heads: i32,
    n: i32,
    head_rows: i32,
    x_step: i32,
    parts: i32,
    unused: [i32; 8],
}

// As large as the kernel takes it
const _: () = assert!(size_of::<Args>() == 320);

/// A kernel, and how heads are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    columns: usize,
    k: usize,
    /// Whether a matrix's numbers of n lie side by side, and those of k one below the other.
    turned: bool,
    /// Blocks of a head.
    parts: usize,
}

/// Tiles of a head of so many k that a block has room for, beside so many rows.
fn most_tiles(columns: usize, k: usize) -> usize {
    ROOM.saturating_sub(columns * k * 2) / (STEP * k * 2)
}

/// Whether there is a kernel for matrices `[k, n]`.
fn fits([k, n]: [usize; 2], turned: bool) -> bool {
    let whole = k > 0 && k.is_multiple_of(STEP) && n > 0 && n.is_multiple_of(STEP);
    whole && (!turned || k <= MOST_TURNED) && most_tiles(COLUMNS[1], k) > 0
}

/// Blocks of a head: as few as have room, and so many that every multiprocessor has work.
fn parts([heads, tiles]: [usize; 2], most: usize, multiprocessors: usize) -> Option<usize> {
    let divides = |parts: &usize| tiles.is_multiple_of(*parts);
    let has_room = |parts: &usize| tiles / parts <= most;
    // Nine tenths of the multiprocessors are as good as all of them
    let suffices = |parts: &usize| heads * parts * 10 >= multiprocessors * 9 || *parts == tiles;
    (1..=tiles).filter(divides).filter(has_room).find(suffices)
}

/// How it is done, where there is a kernel for it and it may be used.
fn cut(device: &CudaDevice, matmul: &Matmul) -> Option<Cut> {
    let Matmul {
        m,
        n,
        k,
        batch,
        a,
        b,
        c,
        accumulate,
    } = *matmul;
    let turned = b.column_stride == 1;
    let length = if turned {
        b.row_stride
    } else {
        b.column_stride
    };
    let in_bf16 = [a, b, c]
        .iter()
        .all(|operand| operand.number == NumberType::Bf16);
    let lies = (turned || b.row_stride == 1)
        && a.column_stride == 1
        && [c.row_stride, c.column_stride, c.batch_stride] == [batch * n, 1, n]
        && length > 0
        && b.batch_stride.is_multiple_of(length)
        && length.is_multiple_of(8)
        && a.batch_stride.is_multiple_of(STEP)
        && a.row_stride.is_multiple_of(8)
        && a.at.is_multiple_of(16)
        && b.at.is_multiple_of(16);
    let wanted = batch > 1 && m > 0 && !accumulate && in_bf16 && lies && fits([k, n], turned);
    let columns = COLUMNS.into_iter().find(|&columns| m <= columns)?;
    if !wanted || !may_read_ahead(device) || i32::try_from(batch * n.max(b.batch_stride)).is_err() {
        return None;
    }
    let multiprocessors = device.multiprocessors() as usize;
    let cut = Cut {
        columns,
        k,
        turned,
        parts: parts([batch, n / STEP], most_tiles(columns, k), multiprocessors)?,
    };
    device.shared.kernels.has(UNIT, &cut.dims()).then_some(cut)
}

impl Cut {
    fn dims(&self) -> [usize; 3] {
        [self.columns, self.k, usize::from(self.turned)]
    }
}

/// Queues the product where there is a kernel for it; otherwise says so and does nothing.
pub(super) fn multiply(device: &CudaDevice, matmul: &Matmul) -> Result<bool> {
    match cut(device, matmul) {
        Some(cut) => launch(device, matmul, cut).map(|()| true),
        None => Ok(false),
    }
}

fn launch(device: &CudaDevice, matmul: &Matmul, cut: Cut) -> Result<()> {
    let Matmul {
        m,
        n,
        k,
        batch,
        a,
        b,
        ..
    } = *matmul;
    let length = if cut.turned {
        b.row_stride
    } else {
        b.column_stride
    };
    let head_rows = b.batch_stride / length;
    let columns = (batch - 1) * a.batch_stride + k;
    let args = Args {
        w: matrices(device, &b, [n, k, batch], [length, head_rows], cut)?,
        x: map(
            device,
            &a,
            [m, columns, a.row_stride],
            [cut.columns, k / STEP],
        )?,
        out: matmul.c.at,
        rows: m as i32,
        heads: batch as i32,
        n: n as i32,
        head_rows: head_rows as i32,
        x_step: (a.batch_stride / STEP) as i32,
        parts: cut.parts as i32,
        unused: [0; 8],
    };
    let dims = cut.dims();
    let kernel = Kernel::of::<bf16>(UNIT, UNIT, &dims);
    let grid = Grid::sharing([batch * cut.parts, 1, 1], SHARED_BYTES).reading_ahead();
    device.launch(&kernel, grid, matmul.work(), &args)
}

/// All heads' matrices as the copy engine takes them, a tile's numbers at a time.
fn matrices(
    device: &CudaDevice,
    b: &Operand,
    [n, k, heads]: [usize; 3],
    [length, head_rows]: [usize; 2],
    cut: Cut,
) -> Result<TensorMap> {
    let before_last = (heads - 1) * head_rows;
    if !cut.turned {
        return map(device, b, [before_last + n, k, length], [STEP, k / STEP]);
    }
    let of_tile = Axis {
        len: n,
        stride: 1,
        tile: STEP,
    };
    device.tensor_map(&Tiling {
        at: b.at,
        number: NumberType::Bf16,
        axes: &[
            of_tile,
            Axis::outer(NumberType::Bf16, before_last + k, length, k),
        ],
        swizzle: Swizzle::Rows128,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{Dice, Shape, hopper_for};
    use super::super::products::head_product;
    use super::*;
    use crate::backend::{Backend, HeadMatrices};
    use crate::cpu::{Cpu, CpuDevice};

    #[test]
    fn the_compiler_knows_the_same_sizes() {
        use mla_codegen::plan::few_rows;
        for k in [0, 64, 128, 192, 256, 320, 512, 1024, 1600] {
            for n in [0, 32, 64, 128, 512] {
                for turned in [false, true] {
                    assert_eq!(fits([k, n], turned), few_rows::heads_fit([k, n], turned));
                }
            }
        }
    }

    #[test]
    fn every_multiprocessor_has_work_and_no_block_too_much() {
        // DeepSeek-V3's queries and values, with all heads and with an eighth of them
        assert_eq!(parts([128, 8], 12, 132), Some(1));
        assert_eq!(parts([128, 2], 2, 132), Some(1));
        assert_eq!(parts([16, 8], 12, 132), Some(8));
        assert_eq!(parts([16, 2], 2, 132), Some(2));
        // No room for all of a head
        assert_eq!(parts([256, 16], 3, 132), Some(8));
        assert_eq!(parts([2, 3], 0, 132), None);
    }

    /// Rows, heads, k and n; rows of the weight from head to head, the first one of a matrix, columns of x from head to head.
    type Size = ([usize; 4], [usize; 3], bool);

    fn check(
        dice: &mut Dice,
        i: usize,
        &([rows, heads, k, n], [step, first, x_step], turned): &Size,
    ) {
        let device = hopper_for(i);
        let length = if turned { n } else { k };
        let mut draw = |len: usize| -> Vec<bf16> {
            let numbers = (0..len).map(|_| dice.below(2001) as f64 / 1000.0 - 1.0);
            numbers.map(bf16::from_f64).collect()
        };
        let (x, weight) = (draw(rows * heads * x_step), draw(heads * step * length));
        let shape = Shape {
            rows,
            heads,
            width: k,
            head_stride: x_step,
            row_stride: heads * x_step,
            offset: 0,
        };
        let matrices = HeadMatrices {
            offset: first * length,
            head_stride: step * length,
            k_stride: if turned { length } else { 1 },
            n_stride: if turned { 1 } else { length },
            columns: n,
        };
        let wide = |values: &[bf16]| values.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
        let (x_wide, weight_wide) = (wide(&x), wide(&weight));
        let device_of_cpu = CpuDevice::default();
        let wanted =
            Cpu::<f64>::head_product(&device_of_cpu, shape.of(&x_wide), &weight_wide, matrices);
        let wanted = wanted.expect("computed");
        let (x, weight) = (device.upload(&x), device.upload(&weight));
        let (x, weight) = (x.expect("room"), weight.expect("room"));
        let run = || {
            let y = head_product::<bf16>(&device, &shape.of(&x), &weight, matrices);
            device.download(&y.expect("computed")).expect("values")
        };
        let found = run();
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let off = (found.to_f64() - wanted).abs();
            assert!(
                off <= wanted.abs() / 200.0 + 1e-3,
                "{at} of {rows} x {heads} x {k} x {n}: {found}, wanted {wanted}"
            );
        }
        assert!(run() == found, "other bits");
    }

    #[test]
    fn products_of_heads_are_right_whichever_way_their_matrices_lie() {
        let sizes: [Size; 7] = [
            // Queries, of heads with a rotated part; values
            ([1, 4, 128, 512], [256, 0, 192], true),
            ([3, 4, 512, 128], [256, 128, 512], false),
            ([16, 3, 64, 128], [128, 0, 64], true),
            ([17, 2, 128, 64], [128, 64, 128], false),
            ([32, 5, 192, 256], [448, 0, 256], true),
            ([20, 2, 256, 192], [448, 192, 256], false),
            // No kernel
            ([2, 3, 40, 72], [96, 8, 48], true),
        ];
        let dice = &mut Dice::new();
        for (i, size) in sizes.iter().enumerate() {
            check(dice, i, size);
        }
    }
}
