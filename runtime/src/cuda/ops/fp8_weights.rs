//! Products with weights in blocks of codes: of few rows by `skinny_fp8.cuh`, which reads codes; of many by products of numbers that codes are made before.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::super::driver::{Address, NumberType, Operand, TensorMap};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::few_rows::{STEP, map, may_read_ahead};
use super::line::{Line, LineArgs, is_short};
use super::products;
use crate::backend::Strided;
use crate::error::Result;
use crate::weights::blocks::{BLOCK, BLOCK_CODES, codes_of};

/// The unit and its kernel.
const UNIT: &str = "skinny_fp8";
/// Rows that kernels are made for: those are a product's columns.
const COLUMNS: [usize; 4] = [16, 32, 64, 128];
/// Rows up to which reading codes once for each 128 of them costs less than to write and read them as numbers.
const MOST_ROWS: usize = 256;
/// Bytes of shared memory of a block: stages, their barriers, and what a block is told.
const SHARED_BYTES: u32 = (200 << 10) + 1024;

/// `SkinnyFp8` of `skinny_fp8.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: TensorMap,
    w: Address,
    scales: Address,
    out: Address,
    line: LineArgs,
    rows: i32,
    n: i32,
}

// As large as the kernel takes it
const _: () = assert!(size_of::<Args>() == 192);

/// `WidenWeight` of `fp8_weight.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Widening {
    codes: Address,
    scales: Address,
    out: Address,
    rows: i64,
    columns: i64,
}

/// `x Wᵀ + b`, the weight of `out` rows in blocks of codes.
pub(super) fn linear<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    weight: &CudaBuffer<u8>,
    bias: Option<&CudaBuffer<T>>,
    out: usize,
) -> Result<CudaBuffer<T>> {
    if bias.is_none() && takes(device, x, out) {
        let y = device.room_of_product(x.rows * out)?;
        for first in (0..x.rows).step_by(COLUMNS[3]) {
            let rows = Rows {
                at: x.buffer.place(x.offset + first * x.row_stride),
                stride: x.row_stride,
                rows: COLUMNS[3].min(x.rows - first),
                width: x.width,
            };
            multiply(device, rows, weight, y.place(first * out), out)?;
        }
        return Ok(y);
    }
    let numbers = widened(device, weight, [out, x.width])?;
    products::linear(device, x, &numbers, bias, out)
}

/// Rows of x in memory, and numbers from one to the next.
#[derive(Debug, Clone, Copy)]
struct Rows {
    at: Address,
    stride: usize,
    rows: usize,
    width: usize,
}

/// Whether there is a kernel for it, and it may be used.
fn takes<T: CudaElement>(device: &CudaDevice, x: &Strided<'_, Cuda<T>, T>, out: usize) -> bool {
    let at = x.buffer.place(x.offset);
    may_read_ahead(device)
        && T::NAME == NumberType::Bf16.name()
        && (1..=MOST_ROWS).contains(&x.rows)
        && x.width > 0
        && x.width.is_multiple_of(BLOCK)
        && at.is_multiple_of(16)
        && (x.rows < 2 || x.row_stride.is_multiple_of(8))
        && out > 0
        && i32::try_from(out).is_ok()
        && is_short(
            [out.div_ceil(BLOCK), x.width / BLOCK],
            device.multiprocessors() as usize,
        )
        && COLUMNS
            .iter()
            .all(|&columns| device.shared.kernels.has(UNIT, &[columns]))
}

/// Up to 128 rows.
fn multiply(
    device: &CudaDevice,
    x: Rows,
    weight: &CudaBuffer<u8>,
    to: Address,
    out: usize,
) -> Result<()> {
    let columns = COLUMNS.into_iter().find(|&columns| x.rows <= columns);
    let columns = columns.unwrap_or(COLUMNS[3]);
    let (tiles, pieces) = (out.div_ceil(BLOCK), x.width / BLOCK);
    let blocks = device.multiprocessors() as usize;
    let line = Line::of(device, [tiles, pieces], blocks, columns * BLOCK)?;
    let operand = Operand {
        at: x.at,
        number: NumberType::Bf16,
        row_stride: x.stride,
        column_stride: 1,
        batch_stride: 0,
    };
    let args = Args {
        x: map(
            device,
            &operand,
            [x.rows, x.width, x.stride],
            [columns, BLOCK / STEP],
        )?,
        w: weight.at(),
        scales: weight.place(codes_of(weight.len())),
        out: to,
        line: line.args(),
        rows: x.rows as i32,
        n: out as i32,
    };
    let dims = [columns];
    let kernel = Kernel::of::<bf16>(UNIT, UNIT, &dims);
    let grid = Grid::sharing([line.blocks(), 1, 1], SHARED_BYTES).reading_ahead();
    let moved = weight.len() + 2 * x.rows * (x.width + out);
    let work = Work::moving(moved).adding(x.rows * x.width * out);
    device.launch(&kernel, grid, work, &args)
}

/// A weight `[rows, columns]` as numbers, row by row.
fn widened<T: CudaElement>(
    device: &CudaDevice,
    weight: &CudaBuffer<u8>,
    [rows, columns]: [usize; 2],
) -> Result<CudaBuffer<T>> {
    let numbers: CudaBuffer<T> = device.room(rows * columns)?;
    let args = Widening {
        codes: weight.at(),
        scales: weight.place(codes_of(weight.len())),
        out: numbers.at(),
        rows: rows as i64,
        columns: columns as i64,
    };
    let kernel = Kernel::of::<T>("fp8_weight", "widen_fp8_weight", &[]);
    let grid = [codes_of(weight.len()) / BLOCK_CODES, 1, 1];
    let work = Work::moving(weight.len() + numbers.bytes());
    device.launch(&kernel, grid, work, &args)?;
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{Dice, Shape, device, hopper_for};
    use super::*;
    use crate::backend::Backend;
    use crate::cpu::{Cpu, CpuDevice};
    use crate::narrow::E4m3;
    use crate::weights::blocks::bytes_of;

    /// A weight of any codes but NaN's, with any scales.
    fn weight(dice: &mut Dice, [out, input]: [usize; 2]) -> Vec<u8> {
        let mut bytes = vec![0; bytes_of(out, input).expect("small")];
        let of_codes = codes_of(bytes.len());
        let (codes, scales) = bytes.split_at_mut(of_codes);
        for code in codes {
            // Small ones and subnormal ones too
            let finite = [dice.below(127) as u8, dice.below(12) as u8][dice.below(2)];
            *code = finite | (dice.below(2) as u8) << 7;
        }
        for scale in scales.chunks_exact_mut(4) {
            let number = (dice.below(1000) + 1) as f32 / 1e6;
            scale.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn numbers(dice: &mut Dice, len: usize) -> Vec<f64> {
        (0..len)
            .map(|_| dice.below(2001) as f64 / 1000.0 - 1.0)
            .collect()
    }

    /// What the CPU makes of it in f64.
    fn wanted(x: &[f64], bytes: &[u8], [rows, out, input]: [usize; 3]) -> Vec<f64> {
        let x = x.to_vec();
        let shape = Shape {
            rows,
            heads: 1,
            width: input,
            head_stride: input,
            row_stride: input,
            offset: 0,
        };
        Cpu::<f64>::fp8_linear(
            &CpuDevice::default(),
            shape.of(&x),
            &bytes.to_vec(),
            None,
            out,
        )
        .expect("computed")
    }

    fn check(dice: &mut Dice, i: usize, [rows, out, input]: [usize; 3]) {
        let device = hopper_for(i);
        let bytes = weight(dice, [out, input]);
        let x: Vec<bf16> = numbers(dice, rows * input)
            .into_iter()
            .map(bf16::from_f64)
            .collect();
        let wide: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
        let wanted = wanted(&wide, &bytes, [rows, out, input]);
        let there = (device.upload(&x), device.upload(&bytes));
        let (x, bytes) = (there.0.expect("room"), there.1.expect("room"));
        let shape = Shape {
            rows,
            heads: 1,
            width: input,
            head_stride: input,
            row_stride: input,
            offset: 0,
        };
        let run = || {
            let y = linear(&device, &shape.of(&x), &bytes, None, out).expect("computed");
            device.download(&y).expect("values")
        };
        let found = run();
        // Elsewhere a weight is rounded to bf16 before
        let slack = match takes(&device, &shape.of(&x), out) {
            true => 1e-5,
            false => 1e-2,
        };
        let largest = wanted
            .iter()
            .fold(0.0_f64, |largest, x| largest.max(x.abs()));
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let off = (found.to_f64() - wanted).abs();
            assert!(
                off <= wanted.abs() / 200.0 + largest * slack,
                "{at} of {rows} x {out} x {input}: {found}, wanted {wanted}"
            );
        }
        assert!(run() == found, "other bits");
    }

    #[test]
    fn the_compiler_knows_the_same_sizes() {
        assert_eq!(COLUMNS, mla_codegen::plan::few_rows::FP8_COLUMNS);
    }

    #[test]
    fn products_of_codes_are_right_whatever_their_sizes() {
        let dice = &mut Dice::new();
        let sizes = [
            [1, 130, 256],
            [16, 128, 128],
            [7, 64, 1024],
            [17, 320, 384],
            [32, 200, 512],
            [64, 136, 256],
            [100, 256, 384],
            [128, 72, 128],
            // By 128 and the rest
            [140, 130, 128],
            // No kernel of few rows
            [3, 40, 100],
            [300, 33, 128],
        ];
        for (i, size) in sizes.into_iter().enumerate() {
            check(dice, i, size);
        }
    }

    #[test]
    fn a_weight_is_widened_as_the_cpu_does() {
        let (device, dice) = (device(), &mut Dice::new());
        let [out, input] = [201, 333];
        let bytes = weight(dice, [out, input]);
        let there = device.upload(&bytes).expect("room");
        let mut wanted = vec![0.0; out * input];
        for (strip, wanted) in wanted.chunks_mut(8 * input).enumerate() {
            crate::weights::blocks::widen_strip(&bytes, input, strip * 8, wanted);
        }
        let found = widened::<f32>(&device, &there, [out, input]).expect("room");
        assert!(device.download(&found).expect("values") == wanted);
        let found = widened::<bf16>(&device, &there, [out, input]).expect("room");
        let rounded: Vec<bf16> = wanted.iter().map(|&x| bf16::from_f32(x)).collect();
        assert!(device.download(&found).expect("values") == rounded);
        assert!(
            wanted
                .iter()
                .any(|&x| x != 0.0 && x.abs() < E4m3(8).decode() / 1e3)
        );
    }
}
