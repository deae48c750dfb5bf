//! The gradients of attention.

mod chosen;

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{THREADS, Window, blocks, bytes, len};
use super::attention_tables::{QueryRows, RowsOnDevice, Seen, Spans};
use super::flash::backward as flash;
use super::pointwise::place;
use crate::attention::narrowed;
use crate::backend::{AttentionBackward, Landing, Landings, Strided, summed_gradients};
use crate::element::Scalar;
use crate::error::{Error, Result};
use crate::softmax::Softmax;

/// Lines that a block adds up, as `attend_backward.cuh` has it.
const OUTER: usize = 16;
/// Threads of a warp.
const WARP: usize = 32;

/// `Softmax` of `attend_backward.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Probabilities {
    scale: f64,
    cap: f64,
    per_cap: f64,
    drop: f64,
    kept: f64,
    seed: u64,
    bias: Address,
    bias_heads: i64,
    bias_queries: i64,
    bias_keys: i64,
}

impl<T: CudaElement> From<&Softmax<'_, Cuda<T>>> for Probabilities {
    fn from(softmax: &Softmax<'_, Cuda<T>>) -> Self {
        let (bias, dropout) = (softmax.added(), softmax.dropped());
        let [bias_heads, bias_queries, bias_keys] = bias.map_or([0; 3], |bias| bias.shape());
        Self {
            scale: softmax.scale(),
            cap: softmax.cap().unwrap_or(0.0),
            per_cap: softmax.cap().map_or(0.0, |cap| 1.0 / cap),
            drop: dropout.map_or(-1.0, |dropout| dropout.probability),
            kept: dropout.map_or(1.0, |dropout| 1.0 / (1.0 - dropout.probability)),
            seed: dropout.map_or(0, |dropout| dropout.seed),
            bias: bias.map_or(0, |bias| bias.values().at()),
            bias_heads: bias_heads as i64,
            bias_queries: bias_queries as i64,
            bias_keys: bias_keys as i64,
        }
    }
}

/// `Landing` of `attend_backward.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Lines {
    pub(super) at: Address,
    pub(super) line: i64,
}

/// `Backward` of `attend_backward.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Backward {
    q: Window,
    q_rope: Window,
    k: Window,
    k_rope: Window,
    v: Window,
    d_out: Window,
    lse: Address,
    delta: Address,
    rows: Address,
    given: Address,
    indices: Address,
    chosen: i64,
    spans: Address,
    visits: Address,
    d_q: Lines,
    d_q_rope: Lines,
    d_k: Lines,
    d_k_rope: Lines,
    d_v: Lines,
    d_bias: Address,
    softmax: Probabilities,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RopeSums {
    of_heads: Address,
    sums: Lines,
    keys: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Delta {
    out: Window,
    d_out: Window,
    delta: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SinkBackward {
    sinks: Address,
    lse: Address,
    delta: Address,
    into: Address,
    rows: i64,
}

/// `d_out · out` of each row and head.
fn delta<T: CudaElement>(
    device: &CudaDevice,
    out: &Strided<'_, Cuda<T>, T>,
    d_out: &Strided<'_, Cuda<T>, T>,
) -> Result<CudaBuffer<Accum<T>>> {
    let lines = out.rows * out.heads;
    let delta = device.room(lines)?;
    let args = Delta {
        out: out.into(),
        d_out: d_out.into(),
        delta: delta.at(),
    };
    let grid = [lines.div_ceil(THREADS / WARP), 1, 1];
    let work = Work::moving(bytes(out) + bytes(d_out));
    device.launch(&of_deltas::<T>("delta"), grid, work, &args)?;
    Ok(delta)
}

fn of_deltas<T: CudaElement>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("attend_delta", entry, &[])
}

/// How rows are cut, as `Cut` of `attend_backward.cuh` has it.
struct Cut {
    /// Queries of a block.
    queries: usize,
    /// Blocks that share the heads of queries.
    chunks: usize,
}

/// What all kernels of a backward pass are told, and what that speaks of.
struct Pass<T: CudaElement> {
    args: Backward,
    dims: [usize; 6],
    rows: QueryRows,
    cut: Cut,
    _delta: CudaBuffer<Accum<T>>,
    tables: RowsOnDevice,
}

impl<T: CudaElement> Pass<T> {
    /// `None` where there are no rows, or no keys.
    fn new(device: &CudaDevice, backward: &AttentionBackward<'_, Cuda<T>>) -> Result<Option<Self>> {
        let attention = &backward.attention;
        let (q, k, k_rope, v) = (&attention.q, &attention.k, &attention.k_rope, &attention.v);
        if v.heads != k.heads || !(k_rope.width == 0 || [1, k.heads].contains(&k_rope.heads)) {
            return Err(Error::Device(
                "keys have other heads than values, or their second part neither as many nor one"
                    .to_owned(),
            ));
        }
        if [q.rows, q.heads, k.rows, k.heads].contains(&0) {
            return Ok(None);
        }
        if i32::try_from(k.rows).is_err() {
            return Err(Error::Device(format!("{} keys are too many", k.rows)));
        }
        let rows = QueryRows::new(attention.segments, q.rows)?;
        let tables = rows.upload(device)?;
        let delta = delta(device, &backward.out, &backward.d_out)?;
        let none = Lines { at: 0, line: 0 };
        let args = Backward {
            q: q.into(),
            q_rope: (&attention.q_rope).into(),
            k: k.into(),
            k_rope: k_rope.into(),
            v: v.into(),
            d_out: (&backward.d_out).into(),
            lse: backward.lse.at(),
            delta: delta.at(),
            rows: tables.0.at(),
            given: tables.1.as_ref().map_or(0, CudaBuffer::at),
            indices: attention.selection.map_or(0, |chosen| chosen.indices.at()),
            chosen: attention.selection.map_or(0, |chosen| chosen.width as i64),
            spans: 0,
            visits: 0,
            d_q: none,
            d_q_rope: none,
            d_k: none,
            d_k_rope: none,
            d_v: none,
            d_bias: 0,
            softmax: (&attention.softmax).into(),
        };
        let group = q.heads / k.heads;
        let heads = group.min(OUTER);
        let most_queries = OUTER / heads;
        Ok(Some(Self {
            args,
            dims: [
                q.heads,
                k.heads,
                k_rope.heads,
                q.width,
                attention.q_rope.width,
                v.width,
            ],
            rows,
            cut: Cut {
                queries: attention.selection.map_or(most_queries, |_| 1),
                chunks: k.heads * group.div_ceil(heads),
            },
            _delta: delta,
            tables,
        }))
    }

    fn launch<A: Pod>(
        &self,
        device: &CudaDevice,
        entry: &'static str,
        blocks: usize,
        work: Work,
        args: &A,
    ) -> Result<()> {
        let kernel = Kernel::of::<T>("attend_backward", entry, &self.dims);
        device.launch(&kernel, [blocks, 1, 1], work, args)
    }
}

/// Where the gradient of a window with so many heads goes.
pub(super) fn lines<A>(
    into: &[CudaBuffer<A>],
    landing: Landing,
    (rows, heads, width): (usize, usize, usize),
) -> Result<Lines> {
    if width == 0 {
        return Ok(Lines { at: 0, line: 0 });
    }
    let buffer = into.get(landing.buffer).filter(|buffer| {
        buffer.len() == rows * heads * landing.line && landing.offset + width <= landing.line
    });
    let buffer = buffer.ok_or_else(|| {
        Error::Device("gradients of attention land beside their buffers".to_owned())
    })?;
    Ok(Lines {
        at: buffer.place(landing.offset),
        line: landing.line as i64,
    })
}

/// Whether values are the window that keys are.
pub(super) fn values_are_keys<T: CudaElement, E: Scalar>(
    k: &Strided<'_, Cuda<T>, E>,
    v: &Strided<'_, Cuda<T>, E>,
) -> bool {
    k.buffer.place(k.offset) == v.buffer.place(v.offset)
        && (k.width, k.row_stride, k.head_stride) == (v.width, v.row_stride, v.head_stride)
}

/// The gradients of all operands, rounded, in buffers of so many values.
pub(super) fn gradients<T: CudaElement>(
    device: &CudaDevice,
    backward: &AttentionBackward<'_, Cuda<T>>,
    landings: &Landings,
    lens: &[usize],
) -> Result<Vec<CudaBuffer<T>>> {
    let lands = flash::lands(landings, backward.attention.k_rope.width);
    let sizes = || flash::sizes(device, backward, device.adds_in_order());
    match lands.and_then(|()| sizes()) {
        Ok(sizes) => flash::gradients(device, &sizes, backward, landings, lens),
        Err(_) => summed_gradients::<Cuda<T>>(device, backward, landings, lens),
    }
}

/// Where an operation by itself wants gradients: those of queries with both parts in one.
pub(crate) struct Wanted<'a, T: CudaElement> {
    pub(crate) q: Strided<'a, Cuda<T>, T>,
    pub(crate) k: Strided<'a, Cuda<T>, T>,
    pub(crate) v: Strided<'a, Cuda<T>, T>,
    /// `[keys, heads, R]`, where keys have a second part.
    pub(crate) k_rope: Option<&'a CudaBuffer<Accum<T>>>,
}

/// Writes the gradients of all operands, in a fixed order or in whatever is fastest.
pub(crate) fn gradients_to<T: CudaElement>(
    device: &CudaDevice,
    backward: &AttentionBackward<'_, Cuda<T>>,
    wanted: &Wanted<'_, T>,
    deterministic: bool,
) -> Result<()> {
    let attention = &backward.attention;
    let (key, rope) = (attention.k.width, attention.k_rope.width);
    let written = flash::Written {
        q: (&narrowed(wanted.q, 0, key)).into(),
        q_rope: (&narrowed(wanted.q, key, rope)).into(),
        k: (&wanted.k).into(),
        v: (&wanted.v).into(),
        k_rope: wanted.k_rope.map_or(0, CudaBuffer::at),
        rope_stride: attention.k_rope.heads * rope,
    };
    let sizes = || flash::sizes(device, backward, deterministic);
    if let Ok(sizes) = written.is_aligned().and_then(|()| sizes()) {
        if let Some(sums) = wanted.k_rope {
            device.fill(sums, 0)?;
        }
        return flash::write(device, &sizes, backward, &written);
    }
    let at = Landing::new;
    let landings = Landings {
        q: at(0, key + rope, 0),
        q_rope: at(0, key + rope, key),
        k: at(1, key, 0),
        v: Some(at(2, attention.v.width, 0)),
        k_rope: at(3, rope, 0),
    };
    let windows = [&wanted.q, &wanted.k, &wanted.v];
    let [q, k, v] = windows.map(|window| device.zeros(len(window)));
    let sums = device.zeros(len(&attention.k_rope))?;
    let mut into = [q?, k?, v?, sums];
    attend_backward(device, backward, &landings, &mut into)?;
    for (sums, window) in into.iter().zip(windows) {
        place(device, sums, window)?;
    }
    match wanted.k_rope {
        Some(k_rope) => device.copy_to(&into[3], k_rope),
        None => Ok(()),
    }
}

/// Writes the gradients of all operands: of rows first, then of keys and values.
pub(super) fn attend_backward<T: CudaElement>(
    device: &CudaDevice,
    backward: &AttentionBackward<'_, Cuda<T>>,
    landings: &Landings,
    into: &mut [CudaBuffer<Accum<T>>],
) -> Result<()> {
    let Some(mut pass) = Pass::new(device, backward)? else {
        return Ok(());
    };
    let attention = &backward.attention;
    let (q, k, k_rope, v) = (&attention.q, &attention.k, &attention.k_rope, &attention.v);
    let shape = |x: &Strided<'_, Cuda<T>, T>| (x.rows, x.heads, x.width);
    pass.args.d_q = lines(into, landings.q, shape(q))?;
    pass.args.d_q_rope = lines(into, landings.q_rope, shape(&attention.q_rope))?;
    pass.args.d_k = lines(into, landings.k, shape(k))?;
    let d_k_rope = lines(into, landings.k_rope, shape(k_rope))?;
    match landings.v {
        Some(landing) => pass.args.d_v = lines(into, landing, shape(v))?,
        None if values_are_keys(k, v) => {}
        None => {
            return Err(Error::Device(
                "values that are no keys have no place for their gradient".to_owned(),
            ));
        }
    }
    let row_blocks = q.rows.div_ceil(pass.cut.queries) * pass.cut.chunks;
    let seen = Seen::of(
        attention.segments,
        attention.selection.map(|chosen| chosen.width),
    );
    let both = q.width + attention.q_rope.width;
    let of_queries = bytes(q) + bytes(&attention.q_rope);
    let of_keys = (k.heads * (k.width + v.width) + k_rope.heads * k_rope.width) * size_of::<T>();
    let read = of_queries + bytes(&backward.d_out) + seen.keys * of_keys;
    // Logits, gradients of probabilities, and one product more for what is written
    let pairs = seen.pairs * q.heads;
    let work = Work::moving(read + of_queries).adding(pairs * (2 * both + v.width));
    pass.launch(device, "backward_queries", row_blocks, work, &pass.args)?;

    // Heads that share a second part each have sums of their own, which are added up in order
    let mut of_heads: Option<CudaBuffer<Accum<T>>> = None;
    pass.args.d_k_rope = d_k_rope;
    if k_rope.width > 0 && k_rope.heads < k.heads {
        let sums = device.zeros(k.rows * k.heads * k_rope.width)?;
        pass.args.d_k_rope = Lines {
            at: sums.at(),
            line: k_rope.width as i64,
        };
        of_heads = Some(sums);
    }
    let work = Work::moving(read + k.rows * of_keys).adding(pairs * (2 * both + 2 * v.width));
    match attention.selection {
        Some(chosen) => pass.keys_of_choosers(device, chosen, [q.rows, k.rows], work)?,
        None => {
            let spans = Spans::of_keys(attention.segments, &pass.rows, OUTER);
            let (on_device, visits) = spans.upload(device)?;
            pass.args.spans = on_device.at();
            pass.args.visits = visits.at();
            let blocks = spans.len() * k.heads;
            pass.launch(device, "backward_keys", blocks, work, &pass.args)?;
        }
    }
    let Some(of_heads) = of_heads else {
        return Ok(());
    };
    let args = RopeSums {
        of_heads: of_heads.at(),
        sums: d_k_rope,
        keys: k.rows as i64,
    };
    let grid = blocks(k.rows * k_rope.width);
    let work = Work::moving(of_heads.bytes());
    pass.launch(device, "backward_rope_sums", grid[0], work, &args)
}

/// Adds the gradient of the bias, where there is one.
pub(super) fn bias_backward<T: CudaElement>(
    device: &CudaDevice,
    backward: &AttentionBackward<'_, Cuda<T>>,
    into: &CudaBuffer<Accum<T>>,
) -> Result<()> {
    let Some(bias) = backward.attention.softmax.added() else {
        return Ok(());
    };
    let Some(mut pass) = Pass::new(device, backward)? else {
        return Ok(());
    };
    let [heads, queries, keys] = bias.shape();
    if into.len() != heads * queries * keys {
        return Err(Error::Device(
            "the gradient of a bias has another shape than the bias".to_owned(),
        ));
    }
    let spans = Spans::of_queries(backward.attention.segments, queries, pass.cut.queries);
    let (on_device, visits) = spans.upload(device)?;
    pass.args.spans = on_device.at();
    pass.args.visits = visits.at();
    pass.args.d_bias = into.at();
    let chunks = if heads == 1 { 1 } else { pass.cut.chunks };
    let attention = &backward.attention;
    let seen = Seen::of(
        attention.segments,
        attention.selection.map(|chosen| chosen.width),
    );
    let each = attention.q.width + attention.q_rope.width + attention.v.width;
    let work = Work::moving(into.bytes()).adding(seen.pairs * attention.q.heads * each);
    pass.launch(
        device,
        "backward_bias",
        spans.len() * chunks,
        work,
        &pass.args,
    )
}

/// Adds the gradient of sinks.
pub(super) fn sink_backward<T: CudaElement>(
    device: &CudaDevice,
    sinks: &CudaBuffer<Accum<T>>,
    out: &Strided<'_, Cuda<T>, T>,
    lse: &CudaBuffer<Accum<T>>,
    d_out: &Strided<'_, Cuda<T>, T>,
    into: &CudaBuffer<Accum<T>>,
) -> Result<()> {
    let delta = delta(device, out, d_out)?;
    let args = SinkBackward {
        sinks: sinks.at(),
        lse: lse.at(),
        delta: delta.at(),
        into: into.at(),
        rows: out.rows as i64,
    };
    let kernel = of_deltas::<T>("sink_backward");
    let work = Work::moving(lse.bytes() + delta.bytes());
    device.launch(&kernel, [out.heads, 1, 1], work, &args)
}
