//! Products of few rows with a weight by `skinny.cuh`, which reads the weight ahead of the rows.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::super::CudaDevice;
use super::super::driver::{
    Address, Axis, Matmul, NumberType, Operand, Swizzle, TensorMap, Tiling,
};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::line::{Line, LineArgs, is_short};
use crate::error::Result;

/// The unit and its kernel.
const UNIT: &str = "skinny";
/// Rows that kernels are made for.
const COLUMNS: [usize; 2] = [16, 32];
/// Numbers of a row of a weight in a step, and rows of a weight in a tile.
pub(super) const STEP: usize = 64;
/// Numbers that a weight has at least.
const LEAST: usize = 1 << 22;
/// Bytes of shared memory of a block: stages and their barriers.
const SHARED_BYTES: u32 = (200 << 10) + 1024;

/// `Skinny` of `skinny.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    w: TensorMap,
    x: TensorMap,
    out: Address,
    line: LineArgs,
    rows: i32,
    n: i32,
    unused: [i32; 4],
}

// As large as the kernel takes it
const _: () = assert!(size_of::<Args>() == 320);

/// How a product is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Columns that the kernel is made for: rows of x.
    columns: usize,
    /// Steps of a piece.
    steps: usize,
    blocks: usize,
}

/// Steps of a piece of a weight `[out, input]`, where there is a kernel for it.
fn steps([out, input]: [usize; 2]) -> Option<usize> {
    let fits = |steps: &usize| input > 0 && input.is_multiple_of(STEP * steps);
    let largest = [4, 2, 1].into_iter().find(fits);
    largest.filter(|_| out * input >= LEAST)
}

impl Cut {
    fn of(device: &CudaDevice, matmul: &Matmul) -> Option<Self> {
        let columns = COLUMNS.into_iter().find(|&columns| matmul.m <= columns)?;
        let cut = Self {
            columns,
            steps: steps([matmul.n, matmul.k])?,
            blocks: device.multiprocessors() as usize,
        };
        let line = [matmul.n.div_ceil(STEP), matmul.k / STEP / cut.steps];
        let has_kernel = || device.shared.kernels.has(UNIT, &cut.dims());
        (is_short(line, cut.blocks) && has_kernel()).then_some(cut)
    }

    fn dims(&self) -> [usize; 2] {
        [self.columns, self.steps]
    }
}

/// Whether a device may have kernels of few rows: rows of a larger batch are multiplied otherwise, and rounded otherwise.
pub(super) fn may_read_ahead(device: &CudaDevice) -> bool {
    device.is_hopper() && !device.is_checked() && !device.is_batch_invariant()
}

/// Whether the kernel may do it: how matrices lie, and what the device promises.
fn takes(device: &CudaDevice, matmul: &Matmul) -> bool {
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
    let in_bf16 = [a, b, c]
        .iter()
        .all(|operand| operand.number == NumberType::Bf16);
    let aligned = a.at.is_multiple_of(16)
        && b.at.is_multiple_of(16)
        && (m < 2 || a.row_stride.is_multiple_of(8));
    let lie = [
        a.column_stride,
        b.row_stride,
        b.column_stride,
        c.row_stride,
        c.column_stride,
    ];
    may_read_ahead(device)
        && in_bf16
        && aligned
        && batch == 1
        && !accumulate
        && m > 0
        && lie == [1, 1, k, n, 1]
        && i32::try_from(n).is_ok()
}

/// Queues the product where there is a kernel for it; otherwise says so and does nothing.
pub(super) fn multiply(device: &CudaDevice, matmul: &Matmul) -> Result<bool> {
    if !takes(device, matmul) {
        return Ok(false);
    }
    match Cut::of(device, matmul) {
        Some(cut) => launch(device, matmul, cut).map(|()| true),
        None => Ok(false),
    }
}

fn launch(device: &CudaDevice, matmul: &Matmul, cut: Cut) -> Result<()> {
    let Matmul { m, n, k, a, b, .. } = *matmul;
    let (tiles, pieces) = (n.div_ceil(STEP), k / STEP / cut.steps);
    let line = Line::of(device, [tiles, pieces], cut.blocks, cut.columns * STEP)?;
    let args = Args {
        w: map(device, &b, [n, k, b.column_stride], [STEP, cut.steps])?,
        x: map(device, &a, [m, k, a.row_stride], [cut.columns, cut.steps])?,
        out: matmul.c.at,
        line: line.args(),
        rows: m as i32,
        n: n as i32,
        unused: [0; 4],
    };
    let dims = cut.dims();
    let kernel = Kernel::of::<bf16>(UNIT, UNIT, &dims);
    let grid = Grid::sharing([line.blocks(), 1, 1], SHARED_BYTES).reading_ahead();
    device.launch(&kernel, grid, matmul.work(), &args)
}

/// `[rows, width]` as the copy engine takes it: some rows and steps at a time, a step's rows one behind the other.
pub(super) fn map(
    device: &CudaDevice,
    matrix: &Operand,
    [rows, width, stride]: [usize; 3],
    [rows_at_once, steps]: [usize; 2],
) -> Result<TensorMap> {
    let number = NumberType::Bf16;
    let of_step = Axis {
        len: STEP,
        stride: 1,
        tile: STEP,
    };
    device.tensor_map(&Tiling {
        at: matrix.at,
        number,
        axes: &[
            of_step,
            Axis::outer(number, rows, stride, rows_at_once),
            Axis::outer(number, width / STEP, STEP, steps),
        ],
        swizzle: Swizzle::Rows128,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::driver::{Begins, Command};
    use super::super::super::tests::{Dice, Shape, hopper_for};
    use super::super::super::{CudaBuffer, CudaGraph};
    use super::super::products::linear;
    use super::*;

    #[test]
    fn the_compiler_knows_the_same_sizes() {
        use mla_codegen::plan::few_rows;
        assert_eq!(COLUMNS, few_rows::COLUMNS);
        for out in [1, 64, 2112, 7168, 65536] {
            for input in [0, 63, 64, 100, 192, 512, 1536, 7168, 16384] {
                assert_eq!(steps([out, input]), few_rows::steps([out, input]));
            }
        }
    }

    /// Rows, columns and rows of a weight, steps of a piece, blocks, columns of the kernel; and numbers between rows of x.
    type Size = ([usize; 3], usize, usize, usize, usize);

    fn check(dice: &mut Dice, i: usize, &([m, n, k], steps, blocks, columns, gap): &Size) {
        let device = hopper_for(i);
        let mut draw = |len: usize| -> Vec<bf16> {
            let numbers = (0..len).map(|_| dice.below(2001) as f64 / 1000.0 - 1.0);
            numbers.map(bf16::from_f64).collect()
        };
        let (x, weight) = (draw(m * (k + gap)), draw(n * k));
        let upload = |values: &[bf16]| device.upload(values).expect("room");
        let (x_there, weight_there) = (upload(&x), upload(&weight));
        let out = upload(&vec![bf16::NAN; m * n]);
        let of = |buffer: &CudaBuffer<bf16>, [row_stride, column_stride]: [usize; 2]| Operand {
            at: buffer.at(),
            number: NumberType::Bf16,
            row_stride,
            column_stride,
            batch_stride: 0,
        };
        let matmul = Matmul {
            m,
            n,
            k,
            batch: 1,
            a: of(&x_there, [k + gap, 1]),
            b: of(&weight_there, [1, k]),
            c: of(&out, [n, 1]),
            accumulate: false,
        };
        assert!(takes(&device, &matmul));
        let cut = Cut {
            columns,
            steps,
            blocks,
        };
        let run = || {
            launch(&device, &matmul, cut).expect("runs");
            device.download(&out).expect("values")
        };
        let found = run();
        for (at, found) in found.iter().enumerate() {
            let (x, weight) = (&x[at / n * (k + gap)..], &weight[at % n * k..]);
            let products = x
                .iter()
                .zip(weight)
                .take(k)
                .map(|(x, w)| x.to_f64() * w.to_f64());
            let wanted: f64 = products.sum();
            let off = (found.to_f64() - wanted).abs();
            let most = wanted.abs() / 200.0 + 1e-3;
            assert!(off <= most, "{at}: {found}, wanted {wanted}");
        }
        assert!(run() == found, "other bits");
    }

    #[test]
    fn products_are_right_however_tiles_are_shared() {
        let sizes: [Size; 8] = [
            ([1, 130, 512], 4, 3, 16, 0),
            ([16, 192, 256], 1, 5, 16, 8),
            // A tile of more than two blocks
            ([7, 64, 1024], 2, 6, 16, 64),
            ([3, 100, 256], 4, 4, 16, 0),
            ([17, 256, 512], 4, 4, 32, 0),
            ([32, 200, 640], 2, 7, 32, 16),
            // More blocks than pieces
            ([1, 640, 256], 2, 132, 16, 0),
            // Whole tiles, and more of them than stages
            ([5, 256, 384], 1, 2, 16, 0),
        ];
        let dice = &mut Dice::new();
        for (i, size) in sizes.iter().enumerate() {
            check(dice, i, size);
        }
    }

    /// Two in a row, of a layer's size: in a graph the second is queued while the first one runs, and reads what that one writes.
    #[test]
    fn a_graph_of_products_gives_what_they_give_one_by_one() {
        let (device, dice) = (hopper_for(0), &mut Dice::new());
        let [rows, input, inner] = [3, 4096, 1088];
        let mut draw = |len: usize| {
            let numbers = (0..len).map(|_| dice.below(2001) as f64 / 1000.0 - 1.0);
            let numbers: Vec<_> = numbers.map(bf16::from_f64).collect();
            device.upload(&numbers).expect("room")
        };
        let (x, down, up) = (draw(rows * input), draw(inner * input), draw(input * inner));
        let apply = |x: &CudaBuffer<bf16>, weight, [width, out]: [usize; 2]| {
            let shape = Shape {
                rows,
                heads: 1,
                width,
                head_stride: width,
                row_stride: width,
                offset: 0,
            };
            linear::<bf16, bf16>(&device, &shape.of(x), weight, None, out)
        };
        let step = || {
            let between = apply(&x, &down, [input, inner])?;
            apply(&between, &up, [inner, input])
        };
        let wanted = device.download(&step().expect("runs")).expect("values");
        let mut graph = CudaGraph::new(&device);
        for _ in 0..2 {
            let found = graph.run(step).expect("runs");
            assert!(device.download(&found).expect("values") == wanted);
        }
        assert_eq!(graph.recordings(), 1);
        let is_ours = |command: &Command| match command {
            Command::Launch(launch) => {
                launch.function.name.starts_with(UNIT) && launch.begins == Begins::Ahead
            }
            _ => false,
        };
        let commands = graph.commands().expect("a step");
        assert!(
            commands.len() == 2 && commands.iter().all(is_ours),
            "{commands:?}"
        );
    }
}
