//! Absorbed attention over a cache of latents with Hopper's tensor cores: what `decode_wide.cuh` and its like are told.
//!
//! Rows of queries are cut into blocks, and blocks of one segment that read the same keys into groups (`tables`). A scheduler shares the
//! groups' keys among the device's multiprocessors, once for all layers of a step (`schedule`). Then one kernel attends, whose blocks wait for
//! each other where several have parts of one group.

mod choice;
mod codes;
mod maps;
mod measure;
mod schedule;
mod tables;
mod variant;

use bytemuck::{Pod, Zeroable};

use super::super::driver::{Address, TensorMap};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::attention::{work, work_over_bytes};
use super::output::Output;
use crate::backend::{Attention, BytesAttention, Chosen, Pages, Strided};
use crate::cache::EntryShape;
use crate::element::Scalar;
use crate::error::Result;
use schedule::{Places, Schedule};
use tables::Tables;
use variant::Variant;

pub(super) use codes::Codes;
use codes::Maps;
pub(in super::super) use schedule::Schedules;

/// The scheduler's unit and kernel.
const SCHEDULE: &str = "decode_schedule";
/// Teams that the scheduler knows, at most.
const MOST_TEAMS: usize = 256;
/// Keys of a tile.
const KEYS: usize = 64;
/// Units that columns of a row count in where a team has left a part of it: `UNITS` of `decode_parts.cuh`, of both halves.
const UNITS: usize = 8;

/// `Decoding` of `decoding.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Decoding {
    q: TensorMap,
    q_rope: TensorMap,
    k: TensorMap,
    k_rope: TensorMap,
    k_scales: TensorMap,
    limits: Address,
    groups: Address,
    items: Address,
    starts: Address,
    table: Address,
    narrow: Address,
    out: Address,
    lse: Address,
    max_logit: Address,
    part_out: Address,
    part_sums: Address,
    part_units: Address,
    spare: Address,
    arrived: Address,
    scale: f32,
    scale_log2: f32,
    team: i32,
    page: i32,
    keys_at_once: i32,
    at_once: i32,
    k_scale: f32,
    lists: Lists,
}

/// The last members of it: where keys are chosen for each query, and where they lie.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Lists {
    width: i32,
    chosen: [u32; 2],
    entries: [u32; 2],
    rotated: [u32; 2],
    entry_bytes: i32,
    rotated_bytes: i32,
    rows: i32,
    unused: [i32; 3],
}

// As large as kernels take it
const _: () = assert!(size_of::<Decoding>() == 832);

impl Lists {
    /// Of `rows` entries, which and whose rotated parts stand at two places, so many bytes apart each.
    fn of<T: CudaElement>(
        chosen: &Chosen<'_, Cuda<T>>,
        [entries, rotated]: [Address; 2],
        apart: [usize; 2],
        rows: usize,
    ) -> Self {
        let [entry_bytes, rotated_bytes] = apart.map(|bytes| bytes as i32);
        Self {
            width: chosen.width as i32,
            chosen: words(chosen.indices.at()),
            entries: words(entries),
            rotated: words(rotated),
            entry_bytes,
            rotated_bytes,
            rows: rows as i32,
            unused: [0; 3],
        }
    }
}

/// Attends to all segments and writes all of the output, where one of these kernels can; otherwise says so and does nothing.
pub(super) fn attend<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    output: Output,
) -> Result<bool> {
    if attention.selection.is_some() {
        return attend_to_lists(device, attention, None, output);
    }
    match choice::variant(device, attention) {
        Ok(variant) => attend_by(variant, device, attention, output).map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Attends to all segments by a kernel, which the device and the layer have.
fn attend_by<T: CudaElement, E: Scalar>(
    variant: Variant,
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    output: Output,
) -> Result<()> {
    let (segments, pages, heads) = (attention.segments, attention.pages, attention.q.heads);
    let tables = Tables::new(segments, pages, heads, variant.rows());
    let question = Question::of(attention, tables);
    let at_once = keys_at_once(question.page);
    let tiles = variant.key_tiles(attention.k.width, at_once);
    let keys = Keys {
        k: maps::keys(device, &attention.k, at_once, tiles)?,
        k_rope: maps::rotated_keys(device, &attention.k_rope, at_once)?,
        k_scale: 1.0,
        ..Keys::zeroed()
    };
    let dims = dims(variant, heads, &attention.k, &attention.k_rope);
    let kernel = Kernel::of::<T>(variant.unit(), variant.unit(), &dims).reading::<E>();
    let work = work(attention, output.number_bytes::<T>());
    run(variant, device, &kernel, &question, &keys, work, output)
}

/// Whether one of these kernels attends to the keys that are chosen for each query.
pub(super) fn reads_chosen<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
) -> bool {
    choice::variant_for_chosen(device, attention).is_ok()
}

/// Attends to the keys that are chosen for each query, where one of these kernels can; otherwise says so and does nothing. `counts`: entries of each list that
/// count.
pub(super) fn attend_to_lists<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    counts: Option<&CudaBuffer<i32>>,
    output: Output,
) -> Result<bool> {
    let (Some(selection), Ok(variant)) = (
        attention.selection,
        choice::variant_for_chosen(device, attention),
    ) else {
        return Ok(false);
    };
    let tables = Tables::of_lists(
        attention.segments,
        attention.pages,
        attention.q.heads,
        variant.rows(),
        selection.width,
    )
    .counting(counts);
    let question = Question::of(attention, tables);
    let (k, k_rope) = (&attention.k, &attention.k_rope);
    let lists = Lists::of(
        &selection,
        [k, k_rope].map(|part| part.buffer.place(part.offset)),
        [k, k_rope].map(|part| part.row_stride * size_of::<E>()),
        k.rows,
    );
    let keys = Keys {
        k_scale: 1.0,
        lists,
        ..Keys::zeroed()
    };
    let dims = dims_for_chosen(variant, attention);
    let unit = variant.unit_for_chosen();
    let kernel = Kernel::of::<T>(unit, unit, &dims).reading::<E>();
    let work = work(attention, output.number_bytes::<T>());
    run(variant, device, &kernel, &question, &keys, work, output)?;
    Ok(true)
}

/// An address as two numbers, the lower half first: it stands where its alignment is not an address's own.
fn words(at: Address) -> [u32; 2] {
    [at as u32, (at >> 32) as u32]
}

/// Attends to a cache of codes, all that is seen or the keys that are chosen, where one of these kernels can; otherwise does nothing. `room` makes the
/// room for the results, and says where in it they go.
pub(super) fn attend_codes<T: CudaElement, R>(
    device: &CudaDevice,
    codes: &Codes,
    attention: &BytesAttention<'_, Cuda<T>>,
    counts: Option<&CudaBuffer<i32>>,
    room: impl FnOnce() -> Result<(R, Output)>,
) -> Result<Option<R>> {
    let Ok(variant) = choice::variant_for_codes(device, codes, attention) else {
        return Ok(None);
    };
    let (room, output) = room()?;
    let (segments, pages, heads) = (attention.segments, attention.pages, attention.q.heads);
    let page = pages.map_or(0, Pages::page);
    let (tables, keys) = match attention.selection {
        Some(chosen) => {
            let tables = Tables::of_lists(segments, pages, heads, variant.rows(), chosen.width);
            let tables = tables.counting(counts);
            let lists = Lists::of(
                &chosen,
                codes.parts(),
                [codes.entry(); 2],
                codes.shape.slots(),
            );
            let keys = Keys {
                lists,
                ..Keys::zeroed()
            };
            (tables, keys)
        }
        None => {
            let at_once = keys_at_once(page);
            let lines = variant.code_lines(codes.shape.latent, at_once);
            let Maps {
                k,
                k_rope,
                k_scales,
            } = codes.maps(device, at_once, lines)?;
            let keys = Keys {
                k,
                k_rope,
                k_scales,
                ..Keys::zeroed()
            };
            (Tables::new(segments, pages, heads, variant.rows()), keys)
        }
    };
    let question = Question {
        q: attention.q,
        q_rope: attention.q_rope,
        tables,
        page,
        scale: attention.softmax.scale() * f64::from(codes.k_scale),
        latent: codes.shape.latent,
    };
    let keys = Keys {
        k_scale: codes.k_scale,
        ..keys
    };
    let chooses = attention.selection.is_some();
    let unit = variant.unit_for_codes(chooses);
    let dims = dims_for_codes(variant, heads, codes, chooses);
    let kernel = Kernel::of::<T>(unit, unit, &dims);
    let number = output.number_bytes::<T>();
    let work = work_over_bytes(attention, codes.shape.latent, codes.entry(), number);
    run(variant, device, &kernel, &question, &keys, work, output)?;
    Ok(Some(room))
}

/// What is asked, whatever keys are stored as.
struct Question<'a, T: CudaElement> {
    q: Strided<'a, Cuda<T>, T>,
    q_rope: Strided<'a, Cuda<T>, T>,
    /// Who attends to what.
    tables: Tables,
    /// Keys of a page; 0 where they are rows.
    page: usize,
    /// Of logits, a cache's scale included.
    scale: f64,
    /// Width of latents.
    latent: usize,
}

impl<'a, T: CudaElement> Question<'a, T> {
    /// Over keys that are numbers.
    fn of<E: Scalar>(attention: &Attention<'a, Cuda<T>, E>, tables: Tables) -> Self {
        Self {
            q: attention.q,
            q_rope: attention.q_rope,
            tables,
            page: attention.pages.map_or(0, Pages::page),
            scale: attention.softmax.scale(),
            latent: attention.k.width,
        }
    }
}

/// Keys as the copy engine takes them, or where threads find those that are chosen.
#[derive(Clone, Copy, Zeroable)]
struct Keys {
    k: TensorMap,
    k_rope: TensorMap,
    k_scales: TensorMap,
    k_scale: f32,
    lists: Lists,
}

/// Keys that the copy engine brings at once: those of a page, or of a tile.
fn keys_at_once(page: usize) -> usize {
    if page == 0 { KEYS } else { page.min(KEYS) }
}

fn run<T: CudaElement>(
    variant: Variant,
    device: &CudaDevice,
    kernel: &Kernel<'_>,
    question: &Question<'_, T>,
    keys: &Keys,
    work: Work,
    output: Output,
) -> Result<()> {
    let (heads, rows) = (question.q.heads, variant.rows());
    let tables = &question.tables;
    let team = tables.blocks.team;
    // Blocks wait for each other at the end, so that each has a multiprocessor
    let teams = (device.multiprocessors() as usize / team).clamp(1, MOST_TEAMS);
    let blocks = teams * team;
    let schedule = Schedule::of::<T>(device, tables, teams)?;
    let Places {
        limits,
        groups,
        items,
        starts,
        table,
        arrived,
        ..
    } = schedule.places();

    // A team has a part of a group that others began, and one of a group that others go on with
    let lines = 2 * blocks * rows;
    let part_out = device.room::<u16>(lines * question.latent)?;
    let part_sums = device.room::<[f32; 2]>(lines)?;
    let part_units = device.room::<[f32; UNITS]>(lines)?;
    let spare = device.room::<u8>(blocks * variant.spare_bytes())?;

    let page = question.page;
    let (heads_at_once, at_once) = (heads.min(rows), tables.blocks.at_once);
    let query_tiles = variant.query_tiles(heads, question.latent);
    let args = Decoding {
        q: maps::queries(device, &question.q, heads_at_once, at_once, query_tiles)?,
        q_rope: maps::queries(device, &question.q_rope, heads_at_once, at_once, 1)?,
        k: keys.k,
        k_rope: keys.k_rope,
        k_scales: keys.k_scales,
        limits,
        groups,
        items,
        starts,
        table,
        narrow: output.elements,
        out: output.accumulators,
        lse: output.lse,
        max_logit: output.max_logit,
        part_out: part_out.at(),
        part_sums: part_sums.at(),
        part_units: part_units.at(),
        spare: spare.at(),
        arrived,
        scale: question.scale as f32,
        scale_log2: (question.scale * std::f64::consts::LOG2_E) as f32,
        team: team as i32,
        page: page as i32,
        keys_at_once: keys_at_once(page) as i32,
        at_once: at_once as i32,
        k_scale: keys.k_scale,
        lists: keys.lists,
    };
    let grid = Grid::sharing([blocks, 1, 1], Variant::SHARED_BYTES).together();
    device.launch(kernel, grid, work, &args)?;
    schedule.keep(device);
    Ok(())
}

/// The sizes that a kernel is made for: rows of a block, heads, and the widths of both parts of keys.
fn dims<T: CudaElement, E: Scalar>(
    variant: Variant,
    heads: usize,
    k: &Strided<'_, Cuda<T>, E>,
    k_rope: &Strided<'_, Cuda<T>, E>,
) -> [usize; 4] {
    [variant.rows(), heads, k.width, k_rope.width]
}

/// The same and, last, that keys are chosen.
fn dims_for_chosen<T: CudaElement, E: Scalar>(
    variant: Variant,
    attention: &Attention<'_, Cuda<T>, E>,
) -> [usize; 5] {
    let [rows, heads, latent, rope] =
        dims(variant, attention.q.heads, &attention.k, &attention.k_rope);
    [rows, heads, latent, rope, 1]
}

/// The same and which codes, and last, where they are, that keys are chosen.
fn dims_for_codes(variant: Variant, heads: usize, codes: &Codes, chooses: bool) -> Vec<usize> {
    let EntryShape { latent, rope, .. } = codes.shape;
    let mut dims = vec![variant.rows(), heads, latent, rope, codes.kind as usize];
    dims.extend(chooses.then_some(1));
    dims
}
