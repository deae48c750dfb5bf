//! Absorbed attention over a cache of latents with Hopper's tensor cores: what `decode_wide.cuh` and its like are told.
//!
//! Rows of queries are cut into blocks, and blocks of one segment that read the same keys into groups (`tables`). A scheduler shares the
//! groups' keys among the device's multiprocessors, once for all layers of a step (`schedule`). Then one kernel attends, whose blocks wait for
//! each other where several have parts of one group.

mod choice;
mod maps;
mod measure;
mod schedule;
mod tables;

use bytemuck::{Pod, Zeroable};

use super::super::driver::{Address, TensorMap};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::attention::work;
use crate::backend::{Attention, AttentionParts, Pages};
use crate::element::Scalar;
use crate::error::Result;
use choice::Variant;
use schedule::{Places, Schedule};
use tables::Tables;

pub(in super::super) use schedule::Schedules;

/// The scheduler's unit and kernel.
const SCHEDULE: &str = "decode_schedule";
/// Teams that the scheduler knows, at most.
const MOST_TEAMS: usize = 256;
/// Keys of a tile.
const KEYS: usize = 64;

/// `Decoding` of `decoding.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Decoding {
    q: TensorMap,
    q_rope: TensorMap,
    k: TensorMap,
    k_rope: TensorMap,
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
    part_weight: Address,
    part_most: Address,
    spare: Address,
    arrived: Address,
    scale: f32,
    scale_log2: f32,
    team: i32,
    page: i32,
    keys_at_once: i32,
    at_once: i32,
    unused: [i32; 14],
}

// As large as kernels take it
const _: () = assert!(size_of::<Decoding>() == 704);

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// As elements; 0: as accumulators.
    elements: Address,
    accumulators: Address,
    lse: Address,
    max_logit: Address,
}

impl Output {
    /// As attention's parts.
    pub(super) fn parts<T: CudaElement>(parts: &AttentionParts<Cuda<T>>) -> Self {
        Self {
            elements: 0,
            accumulators: parts.out.at(),
            lse: parts.lse.at(),
            max_logit: parts.max_logit.at(),
        }
    }

    /// Rounded to elements. `lines`: room for each row and head's log-sum-exp, and its largest logit.
    pub(super) fn rounded<T: CudaElement>(
        out: &CudaBuffer<T>,
        lines: [&CudaBuffer<Accum<T>>; 2],
    ) -> Self {
        Self {
            elements: out.at(),
            accumulators: 0,
            lse: lines[0].at(),
            max_logit: lines[1].at(),
        }
    }
}

/// Attends to all segments and writes all of the output, where one of these kernels can; otherwise says so and does nothing.
pub(super) fn attend<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    output: Output,
) -> Result<bool> {
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
    let (heads, rows) = (attention.q.heads, variant.rows());
    let tables = Tables::new(attention.segments, attention.pages, heads, rows);
    let team = tables.blocks.team;
    // Blocks wait for each other at the end, so that each has a multiprocessor
    let teams = (device.multiprocessors() as usize / team).clamp(1, MOST_TEAMS);
    let blocks = teams * team;
    let schedule = Schedule::of::<T>(device, &tables, teams)?;
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
    let part_out = device.room::<f32>(lines * attention.k.width)?;
    let part_weight = device.room::<f32>(lines)?;
    let part_most = device.room::<f32>(lines)?;
    let spare = device.room::<u8>(blocks * variant.spare_bytes())?;

    let page = attention.pages.map_or(0, Pages::page);
    let keys_at_once = if page == 0 { KEYS } else { page.min(KEYS) };
    let (heads_at_once, at_once) = (heads.min(rows), tables.blocks.at_once);
    let scale = attention.softmax.scale();
    let args = Decoding {
        q: maps::queries(device, &attention.q, heads_at_once, at_once)?,
        q_rope: maps::queries(device, &attention.q_rope, heads_at_once, at_once)?,
        k: maps::keys(device, &attention.k, keys_at_once)?,
        k_rope: maps::keys(device, &attention.k_rope, keys_at_once)?,
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
        part_weight: part_weight.at(),
        part_most: part_most.at(),
        spare: spare.at(),
        arrived,
        scale: scale as f32,
        scale_log2: (scale * std::f64::consts::LOG2_E) as f32,
        team: team as i32,
        page: page as i32,
        keys_at_once: keys_at_once as i32,
        at_once: at_once as i32,
        unused: [0; 14],
    };
    let dims = dims(variant, attention);
    let kernel = Kernel::of::<T>(variant.unit(), variant.unit(), &dims).reading::<E>();
    let grid = Grid::sharing([blocks, 1, 1], Variant::SHARED_BYTES).together();
    device.launch(&kernel, grid, work(attention), &args)?;
    schedule.keep(device);
    Ok(())
}

/// The sizes that a kernel is made for: rows of a block, heads, and the widths of both parts of keys.
fn dims<T: CudaElement, E: Scalar>(
    variant: Variant,
    attention: &Attention<'_, Cuda<T>, E>,
) -> [usize; 4] {
    [
        variant.rows(),
        attention.q.heads,
        attention.k.width,
        attention.k_rope.width,
    ]
}
