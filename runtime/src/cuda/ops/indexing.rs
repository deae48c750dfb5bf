//! Indexers: scores, the best keys of each query, pooled keys, and the loss that trains them.

mod choosing;
mod logits;
mod loss;
mod tables;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{Window, blocks, bytes};
use crate::backend::{BytesIndexing, Indexing, Pages, Pooling, Sight};
use crate::cache::{Coding, EntryShape};
use crate::element::Scalar;
use crate::error::Result;
use choosing::Rows;
pub(in super::super) use choosing::Spread;
pub(crate) use logits::{AskedLogits, GivenKeys, logits_of};
use logits::{Logits, Wanted};
pub(super) use loss::loss;
use tables::{Choice, Sights, Tables, Uploaded};

/// Bytes of scores that are held at a time, unless those of one group of queries are more. Tests have few queries, and still see
/// them cut.
const SCORES: usize = if cfg!(test) { 16 << 10 } else { 256 << 20 };
/// Keys of a block, as `index_scores.cuh` has it.
const KEYS: usize = 64;
/// Blocks that a grid has along y.
const MOST_BLOCKS: usize = 65_535;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Scoring {
    q: Window,
    k: Window,
    sights: Sights,
    weights: Address,
    out: Address,
    scale: f64,
    relu: i64,
    width: i64,
    first_group: i64,
    per_group: i64,
    by_position: i64,
}

impl Scoring {
    /// Queues the scores of `groups` groups, of so many queries with a key.
    fn launch<T: CudaElement, E: Scalar>(
        &self,
        device: &CudaDevice,
        [heads, width]: [usize; 2],
        groups: usize,
        pairs: usize,
    ) -> Result<()> {
        let dims = [heads, width];
        let kernel = Kernel::of::<T>("index_scores", "index_scores", &dims).reading::<E>();
        let across = (self.width as usize).div_ceil(KEYS).min(MOST_BLOCKS);
        let scores = Work::moving(pairs * size_of::<Accum<T>>()).adding(pairs * heads * width);
        device.launch(&kernel, [groups, across, 1], scores, self)
    }
}

/// Groups of queries, as many at a time as `bytes` of each allow.
fn parts(groups: usize, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let at_once = SCORES
        .checked_div(bytes)
        .map_or(groups, |groups| groups.max(1));
    (0..groups)
        .step_by(at_once.max(1))
        .map(move |start| start..groups.min(start + at_once))
}

fn scoring<T: CudaElement, E: Scalar>(
    indexing: &Indexing<'_, Cuda<T>, E>,
    tables: &Uploaded,
) -> Scoring {
    Scoring {
        q: (&indexing.q).into(),
        k: (&indexing.k).into(),
        sights: tables.sights(indexing.pages, indexing.k.rows),
        weights: indexing.weights.at(),
        out: 0,
        scale: indexing.scale,
        relu: i64::from(indexing.relu),
        width: 0,
        first_group: 0,
        per_group: 0,
        by_position: 0,
    }
}

/// Which keys are to be chosen, whatever scores them.
struct Question<'a> {
    sights: &'a [Sight<'a>],
    rows: usize,
    pages: Option<&'a Pages>,
    key_rows: usize,
    choice: Choice,
}

impl Question<'_> {
    fn tables(&self) -> Tables {
        let mut tables = Tables::of(self.sights, self.rows, self.pages, Some(self.choice));
        tables.pad(self.rows, self.sights.len());
        tables
    }
}

/// The `most` best keys of each query.
pub(super) fn select<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    indexing: &Indexing<'_, Cuda<T>, E>,
    most: usize,
) -> Result<CudaBuffer<i32>> {
    let question = Question {
        sights: indexing.sights,
        rows: indexing.q.rows,
        pages: indexing.pages,
        key_rows: indexing.k.rows,
        choice: Choice {
            most,
            initial: indexing.initial,
            local: indexing.local,
        },
    };
    let tables = question.tables();
    let logits = Logits::of_numbers(device, indexing, &tables)?;
    select_by::<T>(
        device,
        &question,
        &tables,
        |wanted, uploaded| match &logits {
            Some(logits) => logits.launch(device, wanted),
            None => {
                let scoring = Scoring {
                    out: wanted.out,
                    width: wanted.width as i64,
                    first_group: wanted.groups.start as i64,
                    per_group: tables.per_group as i64,
                    ..scoring(indexing, uploaded)
                };
                let sizes = [indexing.q.heads, indexing.q.width];
                scoring.launch::<T, E>(device, sizes, wanted.groups.len(), wanted.pairs)
            }
        },
    )
}

/// The same of a cache of codes, read where they are; `None`, and nothing done, where no kernel can.
pub(super) fn select_bytes<T: CudaElement>(
    device: &CudaDevice,
    coding: Coding,
    (bytes, shape): (&CudaBuffer<u8>, EntryShape),
    indexing: &BytesIndexing<'_, Cuda<T>>,
    most: usize,
) -> Result<Option<CudaBuffer<i32>>> {
    let Coding::IndexFp8 { power_of_two } = coding else {
        return Ok(None);
    };
    let question = Question {
        sights: indexing.sights,
        rows: indexing.q.rows,
        pages: Some(indexing.pages),
        key_rows: shape.slots(),
        choice: Choice {
            most,
            initial: indexing.initial,
            local: indexing.local,
        },
    };
    let tables = question.tables();
    let Some(logits) = Logits::of_codes(device, power_of_two, (bytes, shape), indexing, &tables)?
    else {
        return Ok(None);
    };
    let score = |wanted: &Wanted<'_>, _: &Uploaded| logits.launch(device, wanted);
    select_by::<T>(device, &question, &tables, score).map(Some)
}

/// The best keys by what `score` queues the scores with, some groups at a time.
fn select_by<T: CudaElement>(
    device: &CudaDevice,
    question: &Question<'_>,
    tables: &Tables,
    score: impl Fn(&Wanted<'_>, &Uploaded) -> Result<()>,
) -> Result<CudaBuffer<i32>> {
    let most = question.choice.most;
    let out = device.room(question.rows * most)?;
    // -1 for rows that no sight speaks of
    device.fill(&out, 0xff)?;
    if out.is_empty() {
        return Ok(out);
    }
    // A power of two, so that a recorded graph outlives some growth
    let width = match tables.widest() {
        0 => 0,
        keys => keys.next_power_of_two().max(4 * KEYS),
    };
    let (groups, per_group, pairs) = (tables.groups.len(), tables.per_group, tables.pairs());
    let uploaded = tables.upload(device)?;
    for part in parts(groups, per_group * width * size_of::<Accum<T>>()) {
        let scores: CudaBuffer<Accum<T>> = device.room(part.len() * per_group * width)?;
        // Groups see about as much as each other
        let pairs = pairs * part.len() / groups;
        let wanted = Wanted {
            tables,
            blocks: uploaded.blocks(),
            groups: part.clone(),
            out: scores.at(),
            width,
            pairs,
        };
        score(&wanted, &uploaded)?;
        let rows = Rows {
            sights: uploaded.sights(question.pages, question.key_rows),
            scores: scores.at(),
            out: out.at(),
            most,
            width,
            first_group: part.start,
            groups: part.len(),
            per_group,
            pairs,
            slots: false,
        };
        rows.choose::<T>(device)?;
    }
    Ok(out)
}

/// Scores that there are, `[rows, width]`: row `i` has the first `ends[i]` of them.
pub(crate) struct Scores<'a, T: CudaElement> {
    pub(crate) scores: &'a CudaBuffer<Accum<T>>,
    pub(crate) width: usize,
    pub(crate) ends: &'a [usize],
    /// Each row's list of blocks, where slots in them are wanted, instead of columns.
    pub(crate) pages: Option<&'a Pages>,
}

/// The `most` best of scores that there are. What `out`, `[rows, most]`, gets is what
/// [`Backend::index_select`](crate::Backend::index_select) gives.
pub(crate) fn choose<T: CudaElement>(
    device: &CudaDevice,
    given: &Scores<'_, T>,
    out: &CudaBuffer<i32>,
    most: usize,
) -> Result<()> {
    choose_spread(device, given, out, most, None)
}

/// The same, spread over blocks as is wanted.
pub(in super::super) fn choose_spread<T: CudaElement>(
    device: &CudaDevice,
    given: &Scores<'_, T>,
    out: &CudaBuffer<i32>,
    most: usize,
    spread: Option<Spread>,
) -> Result<()> {
    let row = |(row, &end): (usize, &usize)| {
        Sight::new(
            row..row + 1,
            (0, 0),
            std::iter::once(0..end).collect(),
            Vec::new(),
        )
    };
    let sights: Vec<Sight<'_>> = given.ends.iter().enumerate().map(row).collect();
    let choice = Choice {
        most,
        initial: 0,
        local: 0,
    };
    let tables = Tables::grouped(&sights, sights.len(), given.pages, Some(choice), 1);
    let pairs = tables.pairs();
    let tables = tables.upload(device)?;
    let rows = Rows {
        sights: tables.sights(given.pages, given.width),
        scores: given.scores.at(),
        out: out.at(),
        most,
        width: given.width,
        first_group: 0,
        groups: sights.len(),
        per_group: 1,
        pairs,
        slots: given.pages.is_some(),
    };
    match spread {
        None => rows.choose::<T>(device),
        Some(spread) => rows.choose_spread::<T>(device, spread),
    }
}

/// The score of each query and key, -∞ for keys that the query does not see.
pub(super) fn scores<T: CudaElement>(
    device: &CudaDevice,
    indexing: &Indexing<'_, Cuda<T>, T>,
    width: usize,
) -> Result<CudaBuffer<Accum<T>>> {
    let out = device.room(indexing.q.rows * width)?;
    let mut tables = Tables::of(indexing.sights, indexing.q.rows, indexing.pages, None);
    tables.add_unseeing(indexing.q.rows);
    let (groups, pairs) = (tables.groups.len(), tables.pairs());
    let tables = tables.upload(device)?;
    let scoring = Scoring {
        out: out.at(),
        width: width as i64,
        by_position: 1,
        ..scoring(indexing, &tables)
    };
    let sizes = [indexing.q.heads, indexing.q.width];
    scoring.launch::<T, T>(device, sizes, groups, pairs)?;
    Ok(out)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PoolingArgs {
    k: Window,
    gates: Window,
    positions: Address,
    first_rows: Address,
    out: Address,
    pools: i64,
    size: i64,
}

/// One key per pool.
pub(super) fn pool_keys<T: CudaElement>(
    device: &CudaDevice,
    pooling: &Pooling<'_, Cuda<T>>,
) -> Result<CudaBuffer<T>> {
    let pools = pooling.first_rows.len();
    let out: CudaBuffer<T> = device.room(pools * pooling.k.width)?;
    let first_rows = pooling.first_rows.iter().map(|&row| row as i64);
    let first_rows: Vec<i64> = first_rows.collect();
    let first_rows = device.upload(&first_rows)?;
    let kernel = Kernel::of::<T>("pool_keys", "pool_keys", &[]);
    let args = PoolingArgs {
        k: (&pooling.k).into(),
        gates: (&pooling.gates).into(),
        positions: pooling.positions.at(),
        first_rows: first_rows.at(),
        out: out.at(),
        pools: pools as i64,
        size: pooling.size as i64,
    };
    let work = Work::moving(bytes(&pooling.k) + bytes(&pooling.gates) + out.bytes());
    device.launch(&kernel, blocks(out.len()), work, &args)?;
    Ok(out)
}
