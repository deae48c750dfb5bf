//! Attention: what each row sees is put into tables here, the rest is kernels.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{THREADS, Window, bytes};
use super::attention_backward::values_are_keys;
use super::attention_cut::{Cut, rows_at_once};
use super::attention_tables::Seen;
use super::decode::{self, Codes};
use super::flash;
use super::output::Output;
use super::widened::Widened;
use crate::backend::{Attention, AttentionParts, BytesAttention, Parts, PartsMut, Strided};
use crate::cache::{ByteFormat, EntryShape};
use crate::element::Scalar;
use crate::error::Result;

/// What a row of queries sees, as `attend.cuh` lays it out. Keys count from the segment's first. Nothing in its place: no keys.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sight {
    first: i64,
    last: i64,
    base: i64,
    blocks: i64,
    first_key: i64,
    query: i64,
    given: i64,
    stream: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Attending {
    q: Window,
    q_rope: Window,
    k: Window,
    k_rope: Window,
    v: Window,
    out: Address,
    lse: Address,
    max_logit: Address,
    sights: Address,
    table: Address,
    given: Address,
    chosen: Address,
    bias: Address,
    splits: i64,
    page: i64,
    width: i64,
    bias_heads: i64,
    bias_queries: i64,
    bias_keys: i64,
    scale: f64,
    cap: f64,
    drop: f64,
}

/// Attention over all segments.
pub(super) fn attend<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
) -> Result<AttentionParts<Cuda<T>>> {
    let lines = attention.q.rows * attention.q.heads;
    let whole = room::<T>(device, lines, attention.v.width)?;
    if lines > 0 && !by_tensor_cores(device, attention, Output::parts::<T>(&whole))? {
        by_any_gpu(
            device,
            attention,
            [&whole.out, &whole.lse, &whole.max_logit],
        )?;
    }
    Ok(whole)
}

/// Attention by a kernel for Hopper's tensor cores, where one of them can; otherwise says so and does nothing.
pub(super) fn by_tensor_cores<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    output: Output,
) -> Result<bool> {
    Ok(decode::attend(device, attention, output)? || flash::attend(device, attention, output)?)
}

/// Absorbed attention over a cache of bytes, where there is a kernel that reads them.
pub(super) fn attend_bytes<T: CudaElement, F: ByteFormat>(
    device: &CudaDevice,
    format: F,
    bytes: &CudaBuffer<u8>,
    shape: EntryShape,
    attention: &BytesAttention<'_, Cuda<T>>,
) -> Result<Option<AttentionParts<Cuda<T>>>> {
    let lines = attention.q.rows * attention.q.heads;
    let Some(codes) = Codes::of(format.coding(), bytes, shape).filter(|_| lines > 0) else {
        return Ok(None);
    };
    if let Some(widened) = Widened::of(device, format, bytes, shape, attention)? {
        return attend(device, &widened.asked(attention)).map(Some);
    }
    decode::attend_codes(device, &codes, attention, None, || {
        let parts = room::<T>(device, lines, shape.latent)?;
        let output = Output::parts::<T>(&parts);
        Ok((parts, output))
    })
}

/// Attention by the kernel for every GPU and every layer, which writes the output, the log-sum-exp and the largest logits to buffers of as many.
pub(super) fn by_any_gpu<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    whole: [&CudaBuffer<Accum<T>>; 3],
) -> Result<()> {
    let (rows, heads, width) = (attention.q.rows, attention.q.heads, attention.v.width);
    let dims = dims(attention);
    let groups = head_groups::<Accum<T>>(&dims);
    let cut = Cut {
        batch_invariant: device.is_batch_invariant(),
        paged: attention.pages.is_some(),
        selected: attention.selection.map(|chosen| chosen.width),
        keys: attention.k.rows,
    };
    let splits = cut.splits(rows, groups);

    let (sights, table) = sights(attention);
    let (sights, table) = (device.upload(&sights)?, device.upload(&table)?);
    let given = attention.segments.all_given();
    let given = given
        .map(|given| device.upload::<u8>(bytemuck::cast_slice(given)))
        .transpose()?;
    let kernel = Kernel::of::<T>("attend", "attend", &dims).reading::<E>();

    // Where rows come some at a time, the first launch stands for all of them
    let mut work = Some(work(attention, size_of::<Accum<T>>()));
    let softmax = attention.softmax;
    let [bias_heads, bias_queries, bias_keys] = softmax.added().map_or([0; 3], |bias| bias.shape());
    for own in rows_at_once(rows, splits, heads * width * size_of::<Accum<T>>()) {
        let lines = own.len() * heads;
        let parts = match splits {
            1 => None,
            _ => Some(room::<T>(device, splits * lines, width)?),
        };
        let into = Lines::of(whole, own.start * heads, lines, width);
        let written = parts.as_ref().map_or(into, |parts| {
            let parts = [&parts.out, &parts.lse, &parts.max_logit];
            Lines::of(parts, 0, splits * lines, width)
        });
        let chosen = attention
            .selection
            .map(|chosen| chosen.indices.place(own.start * chosen.width));
        let args = Attending {
            q: (&rows_of(attention.q, &own)).into(),
            q_rope: (&rows_of(attention.q_rope, &own)).into(),
            k: (&attention.k).into(),
            k_rope: (&attention.k_rope).into(),
            v: (&attention.v).into(),
            out: written.out,
            lse: written.lse,
            max_logit: written.max_logit,
            sights: sights.place(own.start),
            table: table.at(),
            given: given.as_ref().map_or(0, CudaBuffer::at),
            chosen: chosen.unwrap_or(0),
            bias: softmax.added().map_or(0, |bias| bias.values().at()),
            splits: splits as i64,
            page: attention.pages.map_or(0, |pages| pages.page() as i64),
            width: attention.selection.map_or(0, |chosen| chosen.width as i64),
            bias_heads: bias_heads as i64,
            bias_queries: bias_queries as i64,
            bias_keys: bias_keys as i64,
            scale: softmax.scale(),
            cap: softmax.cap().unwrap_or(0.0),
            drop: softmax.dropped().map_or(0.0, |dropout| dropout.probability),
        };
        device.launch(
            &kernel,
            [own.len() * groups * splits, 1, 1],
            work.take().unwrap_or_default(),
            &args,
        )?;
        if parts.is_some() {
            join::<T>(device, &written, &into, splits)?;
        }
    }
    Ok(())
}

/// Queries and results, whose numbers have so many bytes, once, each key that is seen once in its segment, and the products of each query with
/// the keys that it sees.
pub(super) fn work<T: CudaElement, E: Scalar>(
    attention: &Attention<'_, Cuda<T>, E>,
    result: usize,
) -> Work {
    let Attention {
        q,
        q_rope,
        k,
        k_rope,
        v,
        ..
    } = attention;
    let seen = Seen::of(
        attention.segments,
        attention.selection.map(|chosen| chosen.width),
    );
    // Keys that are values too are read once
    let values = if values_are_keys(k, v) {
        0
    } else {
        v.heads * v.width
    };
    let entry = (k.heads * k.width + k_rope.heads * k_rope.width + values) * size_of::<E>();
    work_of([q, q_rope], &seen, entry, [v.width, result])
}

/// The same of absorbed attention over a cache of bytes, of so many for each entry.
pub(super) fn work_over_bytes<T: CudaElement>(
    attention: &BytesAttention<'_, Cuda<T>>,
    latent: usize,
    entry: usize,
    result: usize,
) -> Work {
    let width = attention.selection.map(|chosen| chosen.width);
    let seen = Seen::of(attention.segments, width);
    work_of(
        [&attention.q, &attention.q_rope],
        &seen,
        entry,
        [latent, result],
    )
}

/// Work over keys of so many bytes each, whose values are so wide, and the numbers of whose results have so many bytes.
fn work_of<T: CudaElement>(
    queries: [&Strided<'_, Cuda<T>, T>; 2],
    seen: &Seen,
    entry: usize,
    [value, result]: [usize; 2],
) -> Work {
    let [q, q_rope] = queries;
    let results = q.rows * q.heads * value * result;
    Work::moving(bytes(q) + bytes(q_rope) + results + seen.keys * entry)
        .adding(seen.pairs * q.heads * (q.width + q_rope.width + value))
}

/// Some rows of a window.
fn rows_of<'a, T: CudaElement>(
    x: Strided<'a, Cuda<T>, T>,
    rows: &Range<usize>,
) -> Strided<'a, Cuda<T>, T> {
    Strided {
        offset: x.offset + rows.start * x.row_stride,
        rows: rows.len(),
        ..x
    }
}

/// Where some lines of attention's parts are.
#[derive(Debug, Clone, Copy)]
struct Lines {
    out: Address,
    lse: Address,
    max_logit: Address,
    lines: usize,
    width: usize,
}

impl Lines {
    fn of<A>(
        [out, lse, max_logit]: [&CudaBuffer<A>; 3],
        first: usize,
        lines: usize,
        width: usize,
    ) -> Self {
        Self {
            out: out.place(first * width),
            lse: lse.place(first),
            max_logit: max_logit.place(first),
            lines,
            width,
        }
    }
}

fn room<T: CudaElement>(
    device: &CudaDevice,
    lines: usize,
    width: usize,
) -> Result<AttentionParts<Cuda<T>>> {
    Ok(AttentionParts {
        out: device.room(lines * width)?,
        lse: device.room(lines)?,
        max_logit: device.room(lines)?,
    })
}

/// Heads of queries, of the three parts of keys, and the parts' widths. A part without width has any number of heads: one.
fn dims<T: CudaElement, E: Scalar>(attention: &Attention<'_, Cuda<T>, E>) -> [usize; 7] {
    let Attention { k, k_rope, v, .. } = attention;
    let heads = |part: &Strided<'_, Cuda<T>, E>| match part.width {
        0 => 1,
        _ => part.heads,
    };
    [
        attention.q.heads,
        heads(k),
        heads(k_rope),
        heads(v),
        k.width,
        k_rope.width,
        v.width,
    ]
}

/// Blocks for all heads of a row, by the rules of `Lie` in `attend.cuh`.
fn head_groups<A>(&[heads, k, k_rope, v, _, _, width]: &[usize; 7]) -> usize {
    const MOST_HEADS: usize = 16;
    let room = 256 / size_of::<A>();
    let sharing = [heads / k_rope, heads / v]
        .into_iter()
        .fold(heads / k, divisor_of_both);
    let column_threads = width.max(1).next_power_of_two().min(THREADS);
    let (lines, columns) = (
        THREADS / column_threads,
        width.max(1).div_ceil(column_threads),
    );
    let mut at_once = sharing.next_power_of_two().min(MOST_HEADS);
    while at_once > 1 && at_once.div_ceil(lines) * columns > room {
        at_once /= 2;
    }
    heads / sharing * sharing.div_ceil(at_once)
}

fn divisor_of_both(a: usize, b: usize) -> usize {
    if b == 0 { a } else { divisor_of_both(b, a % b) }
}

/// What each row sees, and the blocks of all segments.
fn sights<T: CudaElement, E: Scalar>(
    attention: &Attention<'_, Cuda<T>, E>,
) -> (Vec<Sight>, Vec<u32>) {
    let segments = attention.segments;
    let mut sights = vec![Sight::zeroed(); attention.q.rows];
    let mut table = Vec::new();
    for (number, segment) in segments.list().iter().enumerate() {
        let mut sight = Sight {
            base: segment.keys.start as i64,
            first_key: segment.first_key as i64,
            ..Sight::zeroed()
        };
        if let Some(pages) = attention.pages {
            // What stands behind the segment's last block says nothing
            let blocks = &pages.tables()[number];
            let needed = segment.keys.len().div_ceil(pages.page().max(1));
            let blocks = &blocks[..needed.min(blocks.len())];
            sight.base = table.len() as i64;
            sight.blocks = blocks.len() as i64;
            table.extend_from_slice(blocks);
        }
        if let Some(dropout) = attention.softmax.dropped() {
            sight.stream = dropout.of_sequence(segment.sequence);
        }
        for (i, row) in segment.queries.clone().enumerate() {
            let visible = segments.visible(segment, i);
            sights[row] = Sight {
                first: visible.start as i64,
                last: visible.end as i64,
                query: (segment.first_query + i) as i64,
                given: segments.given_from(segment, i) as i64,
                ..sight
            };
        }
    }
    (sights, table)
}

fn merging<T: CudaElement>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("merge", entry, &[])
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Joining {
    parts: Address,
    part_lse: Address,
    part_max_logit: Address,
    out: Address,
    lse: Address,
    max_logit: Address,
    splits: i64,
    lines: i64,
    width: i64,
}

/// The parts that keys were split into as one.
fn join<T: CudaElement>(
    device: &CudaDevice,
    parts: &Lines,
    whole: &Lines,
    splits: usize,
) -> Result<()> {
    let args = Joining {
        parts: parts.out,
        part_lse: parts.lse,
        part_max_logit: parts.max_logit,
        out: whole.out,
        lse: whole.lse,
        max_logit: whole.max_logit,
        splits: splits as i64,
        lines: whole.lines as i64,
        width: whole.width as i64,
    };
    let values = (parts.lines * parts.width + whole.lines * whole.width) * size_of::<Accum<T>>();
    device.launch(
        &merging::<T>("merge_splits"),
        [whole.lines, 1, 1],
        Work::moving(values),
        &args,
    )
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Merging {
    out: Address,
    lse: Address,
    max_logit: Address,
    other_out: Address,
    other_lse: Address,
    other_max_logit: Address,
    width: i64,
}

/// Merges `other` into `into`, row by row and head by head.
#[allow(clippy::needless_pass_by_value, reason = "as the trait hands them")]
pub(super) fn merge<T: CudaElement>(
    device: &CudaDevice,
    into: PartsMut<'_, Cuda<T>>,
    other: Parts<'_, Cuda<T>>,
    width: usize,
) -> Result<()> {
    let args = Merging {
        out: into.out.at(),
        lse: into.lse.at(),
        max_logit: into.max_logit.at(),
        other_out: other.out.at(),
        other_lse: other.lse.at(),
        other_max_logit: other.max_logit.at(),
        width: width as i64,
    };
    let work = Work::moving(2 * into.out.bytes() + other.out.bytes());
    device.launch(&merging::<T>("merge"), [into.lse.len(), 1, 1], work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sinking {
    out: Address,
    lse: Address,
    sinks: Address,
    heads: i64,
    width: i64,
}

/// Multiplies by what a sink of each head leaves, and adds the sink to the log-sum-exp; no sinks are sinks of 0.
pub(super) fn sink<T: CudaElement>(
    device: &CudaDevice,
    out: &CudaBuffer<Accum<T>>,
    lse: &CudaBuffer<Accum<T>>,
    sinks: Option<&CudaBuffer<Accum<T>>>,
    width: usize,
) -> Result<()> {
    let args = Sinking {
        out: out.at(),
        lse: lse.at(),
        sinks: sinks.map_or(0, CudaBuffer::at),
        heads: sinks.map_or(1, CudaBuffer::len).max(1) as i64,
        width: width as i64,
    };
    let work = Work::moving(2 * out.bytes());
    device.launch(&merging::<T>("sink"), [lse.len(), 1, 1], work, &args)
}
