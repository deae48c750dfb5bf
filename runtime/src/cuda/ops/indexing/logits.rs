//! An indexer's logits with Hopper's tensor cores: what `index_logits.cuh` is told, and of whose keys.

mod choice;
mod maps;
mod rounded;
mod rows;
mod works;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::super::super::driver::{Address, TensorMap};
use super::super::super::grid::Grid;
use super::super::super::kernels::Kernel;
use super::super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::limits::Limit;
use super::tables::{Group, Tables};
use crate::backend::{BytesIndexing, Indexing};
use crate::cache::EntryShape;
use crate::element::Scalar;
use crate::error::Result;
use choice::{Facts, Sizes};
use maps::{KeyMaps, Keys, Operands, Queries};
use rounded::Rounded;
pub(crate) use rows::{AskedLogits, GivenKeys, logits_of};
use works::{Dealt, Run};

/// The unit and its kernel.
const UNIT: &str = "index_logits";
/// Bytes of shared memory that a block takes: all that there are.
const SHARED_BYTES: u32 = 232_448;
/// Keys of a tile.
const KEYS: usize = 64;

/// `Logits` of `index_tiles.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    q: TensorMap,
    k: TensorMap,
    k_scales: TensorMap,
    begins: Address,
    works: Address,
    limits: Address,
    table: Address,
    weights: Address,
    out: Address,
    width: i64,
    scale: f32,
    page: i32,
    box_log2: i32,
    unused: [i32; 15],
}

// As large as the kernel takes it
const _: () = assert!(size_of::<Args>() == 512);

/// Queries and keys as a kernel takes them: what all launches have in common.
#[derive(Debug)]
pub(super) struct Logits {
    sizes: Sizes,
    q: TensorMap,
    keys: KeyMaps,
    /// Of each row of queries.
    limits: CudaBuffer<Limit>,
    weights: Address,
    scale: f64,
    /// Holds queries that were rounded, and their weights.
    _rounded: Option<Rounded>,
}

/// Some groups of queries whose scores are wanted.
pub(super) struct Wanted<'a> {
    pub(super) tables: &'a Tables,
    /// Where lists of blocks stand.
    pub(super) blocks: Address,
    pub(super) groups: Range<usize>,
    /// `[groups, per_group, width]`; column 0 is the first key that a group scores.
    pub(super) out: Address,
    pub(super) width: usize,
    /// Queries of these groups, each with a key that is scored for it.
    pub(super) pairs: usize,
}

impl Logits {
    /// Of keys that are numbers, where a kernel takes them.
    pub(super) fn of_numbers<T: CudaElement, E: Scalar>(
        device: &CudaDevice,
        indexing: &Indexing<'_, Cuda<T>, E>,
        tables: &Tables,
    ) -> Result<Option<Self>> {
        let asked = Asked {
            q: Queries::of(&indexing.q),
            keys: Keys::numbers(&indexing.k, indexing.pages),
            types: [T::NAME, E::NAME],
            relu: indexing.relu,
            weights: indexing.weights.at(),
            scale: indexing.scale,
        };
        Self::asked(device, &asked, tables)
    }

    /// Of a cache of codes of e4m3, likewise: keys are what codes and scales say, and queries stay what they are, or are made codes too.
    pub(super) fn of_codes<T: CudaElement>(
        device: &CudaDevice,
        power_of_two: bool,
        (bytes, shape): (&CudaBuffer<u8>, EntryShape),
        indexing: &BytesIndexing<'_, Cuda<T>>,
        tables: &Tables,
    ) -> Result<Option<Self>> {
        let blocks = [shape.blocks, shape.page];
        let keys = |operands| Keys::codes_in_pages(operands, bytes.at(), shape.latent, blocks);
        let given = Asked {
            q: Queries::of(&indexing.q),
            keys: keys(Operands::Mixed),
            types: [T::NAME, "bf16"],
            relu: indexing.relu,
            weights: indexing.weights.at(),
            scale: indexing.scale,
        };
        let Some(rounding) = &indexing.rounding else {
            return Self::asked(device, &given, tables);
        };
        let rounded = Rounded::room(device, &indexing.q)?;
        let asked = Asked {
            q: rounded.queries(&indexing.q),
            keys: keys(Operands::Codes),
            weights: rounded.weights.at(),
            ..given
        };
        let Some(logits) = Self::asked(device, &asked, tables)? else {
            return Ok(None);
        };
        rounded.fill(
            device,
            power_of_two,
            rounding,
            (&indexing.q, indexing.weights),
        )?;
        Ok(Some(Self {
            _rounded: Some(rounded),
            ..logits
        }))
    }

    fn asked(device: &CudaDevice, asked: &Asked, tables: &Tables) -> Result<Option<Self>> {
        let Asked { q, keys, .. } = asked;
        let facts = Facts {
            types: asked.types,
            relu: asked.relu,
            ..Facts::of(device, q, keys, [tables.per_group, tables.longest_list()])
        };
        let Ok(sizes) = choice::sizes(device, &facts, asked.weights) else {
            return Ok(None);
        };
        let limit = |row| Limit::of(&tables.scored(row));
        let limits: Vec<Limit> = (0..q.rows).map(limit).collect();
        let weighing = (asked.weights, asked.scale);
        Self::new(device, sizes, q, keys, &limits, weighing).map(Some)
    }

    fn new(
        device: &CudaDevice,
        sizes: Sizes,
        q: &Queries,
        keys: &Keys,
        limits: &[Limit],
        (weights, scale): (Address, f64),
    ) -> Result<Self> {
        Ok(Self {
            q: q.map(device, &sizes)?,
            keys: keys.maps(device)?,
            limits: device.upload(limits)?,
            weights,
            scale,
            sizes,
            _rounded: None,
        })
    }

    /// Queues the logits of some groups of queries.
    pub(super) fn launch(&self, device: &CudaDevice, wanted: &Wanted<'_>) -> Result<()> {
        let groups = wanted.tables.groups[wanted.groups.clone()].iter();
        let per_group = wanted.tables.per_group;
        let runs: Vec<Run> = groups
            .enumerate()
            .flat_map(|(slot, group)| run_of(group, slot * per_group).cut(self.sizes.queries))
            .collect();
        // As many as there are of so many groups, whoever they are
        let most = wanted.groups.len() * per_group.div_ceil(self.sizes.queries);
        let dealt = Dealt::new(device, &self.sizes, &runs, most, |row| {
            Limit::of(&wanted.tables.scored(row))
        });
        let target = Target {
            table: wanted.blocks,
            out: wanted.out,
            width: wanted.width,
            pairs: wanted.pairs,
        };
        self.launch_dealt(device, &dealt, &target)
    }

    fn launch_dealt(&self, device: &CudaDevice, dealt: &Dealt, target: &Target) -> Result<()> {
        let (begins, works) = (device.upload(&dealt.begins)?, device.upload(&dealt.works)?);
        let args = Args {
            q: self.q,
            k: self.keys.k,
            k_scales: self.keys.scales,
            begins: begins.at(),
            works: works.at(),
            limits: self.limits.at(),
            table: target.table,
            weights: self.weights,
            out: target.out,
            width: target.width as i64,
            scale: self.scale as f32,
            page: self.keys.page as i32,
            box_log2: self.keys.at_once.ilog2() as i32,
            unused: [0; 15],
        };
        let dims = self.sizes.dims();
        // Its text knows no number type of a layer
        let kernel = Kernel::of::<bf16>(UNIT, UNIT, &dims);
        let [heads, width] = [dims[0], dims[1]];
        let work = Work::moving(target.pairs * size_of::<Accum<f32>>());
        let work = work.adding(target.pairs * heads * width);
        let grid = Grid::sharing([dealt.blocks(), 1, 1], SHARED_BYTES);
        device.launch(&kernel, grid, work, &args)
    }
}

/// A group's queries; `out_row` is that of the first.
fn run_of(group: &Group, out_row: usize) -> Run {
    let [row, count, place, column] =
        [group.row, group.count, group.keys, group.begin].map(|at| at as usize);
    Run {
        row,
        out_row,
        count,
        place,
        column,
    }
}

/// A question of a layer's.
struct Asked {
    q: Queries,
    keys: Keys,
    types: [&'static str; 2],
    relu: bool,
    weights: Address,
    scale: f64,
}

/// Where logits go, and how many there are.
struct Target {
    table: Address,
    out: Address,
    width: usize,
    pairs: usize,
}
