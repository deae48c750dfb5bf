//! The three kernels, one after the other.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::super::super::driver::{Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::super::grid::Grid;
use super::super::super::kernels::Kernel;
use super::super::super::{CudaBuffer, CudaDevice, Work};
use super::Question;
use super::reference::Gradients;
use super::tables::{Cut, Tables};

/// Bytes of shared memory that a block has.
const SHARED_BYTES: u32 = 232_448;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Source {
    at: u64,
    row_stride: i64,
    head_stride: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FlashDelta {
    out: Source,
    d_out: Source,
    lse: u64,
    tiles: u64,
    seen_by: u64,
    sums: u64,
    d_queries: u64,
    turns: u64,
    rope_turns: u64,
    delta: u64,
    heads: i32,
    count: i32,
    rope_counts: i32,
    unused: i32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gradient {
    narrow: u64,
    wide: u64,
    row_stride: i64,
    head_stride: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FlashBackward {
    q: TensorMap,
    q_rope: TensorMap,
    k: TensorMap,
    k_rope: TensorMap,
    v: TensorMap,
    d_out: TensorMap,
    blocks: u64,
    tasks: u64,
    sums: u64,
    limits: u64,
    d_queries: u64,
    d_k: Gradient,
    d_v: Gradient,
    d_k_rope: u64,
    taken: u64,
    seen_by: u64,
    turns: u64,
    rope_turns: u64,
    rope_stride: i64,
    count: i32,
    tiles: i32,
    key_blocks: i32,
    per_key: i32,
    per_rope: i32,
    scale: f32,
    scale_log2: f32,
    bend: f32,
    unused: [i32; 2],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FlashQueries {
    d_queries: u64,
    tiles: u64,
    d_q: Gradient,
    d_q_rope: Gradient,
    count: i32,
    scale: f32,
}

/// Some columns of a tensor of rows and heads.
#[derive(Clone, Copy)]
struct Columns<'a, S> {
    of: &'a CudaBuffer<S>,
    first: usize,
    width: usize,
    rows: usize,
    heads: usize,
    head_stride: usize,
}

impl<S> Columns<'_, S> {
    fn at(&self) -> u64 {
        self.of.place(self.first)
    }

    /// Tiles of some rows of a head, and of so many columns.
    fn map(&self, device: &CudaDevice, rows: usize, columns: usize) -> TensorMap {
        if self.width == 0 {
            return TensorMap::zeroed();
        }
        let axis = |len, stride, tile| Axis { len, stride, tile };
        let whole = self.width.is_multiple_of(columns);
        let (inner, tiles) = if whole {
            (columns, self.width / columns)
        } else {
            (self.width, 1)
        };
        // Of what there is one there is no next, and the engine wants a stride all the same
        let stride = |len, stride| if len > 1 { stride } else { 64 };
        let axes = [
            axis(inner, 1, columns),
            axis(self.rows, self.heads * self.head_stride, rows),
            axis(self.heads, stride(self.heads, self.head_stride), 1),
            axis(tiles, stride(tiles, columns), tiles),
        ];
        let tiling = Tiling {
            at: self.at(),
            number: NumberType::Bf16,
            axes: &axes,
            swizzle: match columns {
                64 => Swizzle::Rows128,
                32 => Swizzle::Rows64,
                _ => Swizzle::Rows32,
            },
        };
        device.tensor_map(&tiling).expect("it has such tiles")
    }

    fn strides(&self) -> [i64; 2] {
        [self.heads * self.head_stride, self.head_stride].map(|stride| stride as i64)
    }
}

impl Columns<'_, bf16> {
    fn source(&self) -> Source {
        let [row_stride, head_stride] = self.strides();
        Source {
            at: self.at(),
            row_stride,
            head_stride,
        }
    }

    fn gradient(&self) -> Gradient {
        let [row_stride, head_stride] = self.strides();
        Gradient {
            narrow: self.at(),
            wide: 0,
            row_stride,
            head_stride,
        }
    }
}

fn launch<A: Pod>(device: &CudaDevice, unit: &'static str, dims: &[usize], grid: Grid, args: &A) {
    let kernel = Kernel {
        unit,
        entry: unit,
        dims,
        elem: "bf16",
        key: "bf16",
    };
    device
        .launch(&kernel, grid, Work::default(), args)
        .expect(unit);
}

/// The gradients that the kernels find, on so many thread blocks. `wanted` has what comes of the forward pass.
pub(super) fn found(
    device: &CudaDevice,
    question: &Question,
    wanted: &Gradients,
    thread_blocks: usize,
) -> Gradients {
    let Question {
        case,
        seen,
        rows,
        keys,
        ..
    } = question;
    let (rows, keys) = (*rows, *keys);
    let [nope, rope, value] = case.widths;
    let [heads, key_heads, rope_heads] = case.heads;
    let dims = case.dims();
    let cut = Cut::new(case.widths, case.queries);
    let mut tables = Tables::new(seen, cut);
    tables.order(key_heads, key_heads / rope_heads, 2, case.deterministic);
    let count = tables.tiles.len();
    let upload = |values: &[bf16]| device.upload(values).expect("room");
    let [q, kv, k_rope, d_out, out] = [
        &question.q,
        &question.kv,
        &question.k_rope,
        &question.d_out,
        &wanted.out,
    ]
    .map(|x| upload(x));
    let lse = device.upload(&wanted.lse).expect("room");
    let [tiles, limits, seen_by] =
        [&tables.tiles, &tables.limits, &tables.seen_by].map(|x| device.upload(x).expect("room"));
    let blocks = device.upload(&tables.blocks).expect("room");
    let tasks = device.upload(&tables.tasks).expect("room");
    let numbers = heads * count;
    let sums = device
        .room::<f32>(numbers * 2 * case.queries)
        .expect("room");
    let d_queries = device
        .room::<f32>(numbers * 2 * cut.columns * 64)
        .expect("room");
    let turns = device.room::<u32>(numbers * 2).expect("room");
    let rope_counts = rope_heads * tables.blocks.len() * 2;
    let rope_turns = device.room::<u32>(rope_counts).expect("room");
    let taken = device.upload(&[0_u32; 2]).expect("room");
    let delta = device.upload(&vec![f32::NAN; rows * heads]).expect("room");
    let d_k_rope = device
        .upload(&vec![0.0_f32; (keys * rope_heads * rope).max(1)])
        .expect("room");
    let nothing = |len: usize| upload(&vec![bf16::NAN; len]);
    let (d_q, d_kv) = (nothing(question.q.len()), nothing(question.kv.len()));
    let of_rows = |of, first, width, head_stride| Columns {
        of,
        first,
        width,
        rows,
        heads,
        head_stride,
    };
    let of_keys = |of, first, width, heads, head_stride| Columns {
        of,
        first,
        width,
        rows: keys,
        heads,
        head_stride,
    };
    let (q_width, kv_width) = (nope + rope, nope + value);
    let d_out = of_rows(&d_out, 0, value, value);
    let args = FlashDelta {
        out: of_rows(&out, 0, value, value).source(),
        d_out: d_out.source(),
        lse: lse.at(),
        tiles: tiles.at(),
        seen_by: seen_by.at(),
        sums: sums.at(),
        d_queries: d_queries.at(),
        turns: turns.at(),
        rope_turns: rope_turns.at(),
        delta: delta.at(),
        heads: heads as i32,
        count: count as i32,
        rope_counts: rope_counts as i32,
        unused: 0,
    };
    let [.., deterministic] = dims;
    let sizes = [nope, rope, value, case.queries, deterministic];
    launch(device, "flash_delta", &sizes, [numbers, 1, 1].into(), &args);
    let bent = if case.cap > 0.0 {
        case.cap
    } else {
        case.scale()
    };
    let args = FlashBackward {
        q: of_rows(&q, 0, nope, q_width).map(device, case.queries, cut.q_tile),
        q_rope: of_rows(&q, nope, rope, q_width).map(device, case.queries, cut.q_tile),
        k: of_keys(&kv, 0, nope, key_heads, kv_width).map(device, cut.keys, cut.k_tile),
        k_rope: of_keys(&k_rope, 0, rope, rope_heads, rope).map(device, cut.keys, cut.k_tile),
        v: of_keys(&kv, nope, value, key_heads, kv_width).map(device, cut.keys, 64),
        d_out: d_out.map(device, case.queries, 64),
        blocks: blocks.at(),
        tasks: tasks.at(),
        sums: sums.at(),
        limits: limits.at(),
        d_queries: d_queries.at(),
        d_k: of_keys(&d_kv, 0, nope, key_heads, kv_width).gradient(),
        d_v: of_keys(&d_kv, nope, value, key_heads, kv_width).gradient(),
        d_k_rope: d_k_rope.at(),
        taken: taken.at(),
        seen_by: seen_by.at(),
        turns: turns.at(),
        rope_turns: rope_turns.at(),
        rope_stride: (rope_heads * rope) as i64,
        count: tables.tasks.len() as i32,
        tiles: count as i32,
        key_blocks: tables.blocks.len() as i32,
        per_key: (heads / key_heads) as i32,
        per_rope: (key_heads / rope_heads) as i32,
        scale: case.scale() as f32,
        scale_log2: (bent * std::f64::consts::LOG2_E) as f32,
        bend: if case.cap > 0.0 {
            (2.0 * case.scale() * std::f64::consts::LOG2_E / case.cap) as f32
        } else {
            0.0
        },
        unused: [0; 2],
    };
    let grid = Grid::sharing([thread_blocks, 1, 1], SHARED_BYTES).together();
    launch(device, "flash_backward", &dims, grid, &args);
    let args = FlashQueries {
        d_queries: d_queries.at(),
        tiles: tiles.at(),
        d_q: of_rows(&d_q, 0, nope, q_width).gradient(),
        d_q_rope: of_rows(&d_q, nope, rope, q_width).gradient(),
        count: count as i32,
        scale: case.scale() as f32,
    };
    launch(
        device,
        "flash_queries",
        &dims[..4],
        [numbers * 2, 1, 1].into(),
        &args,
    );
    assert_eq!(
        device.download(&taken).expect("values"),
        [0; 2],
        "as they were found"
    );
    let values = |x: &CudaBuffer<bf16>| {
        device
            .download(x)
            .expect("values")
            .iter()
            .map(|x| f64::from(*x))
            .collect()
    };
    let wide = |x: &CudaBuffer<f32>| {
        device
            .download(x)
            .expect("values")
            .iter()
            .map(|x| f64::from(*x))
            .collect::<Vec<_>>()
    };
    let mut d_k_rope = wide(&d_k_rope);
    d_k_rope.truncate(keys * rope_heads * rope);
    Gradients {
        out: wanted.out.clone(),
        lse: wanted.lse.clone(),
        delta: wide(&delta),
        d_q: values(&d_q),
        d_kv: values(&d_kv),
        d_k_rope,
    }
}
