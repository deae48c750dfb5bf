//! An indexer's loss and its gradients, some queries at a time: targets and scores of those, what they lose, and then the gradients of
//! their scores, spread to queries, weights and keys.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::super::driver::Address;
use super::super::super::kernels::Kernel;
use super::super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::args::Window;
use super::super::attention_tables::QueryRows;
use super::super::choosers::Choosers;
use super::tables::{Sights, Tables};
use super::{Accum, MOST_BLOCKS, Scoring, parts};
use crate::backend::{IndexLoss, IndexLossParts, Sight};
use crate::error::{Error, Result};
use crate::indexer::{LossEpsilon, LossReduction};
use crate::segments::Segments;

/// Keys of a block of targets: some for each warp.
const TARGET_KEYS: usize = 64;

/// `Some` of `index_target.cuh`: the queries of a launch.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Part {
    width: i64,
    first_group: i64,
    per_group: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Target {
    q: Window,
    q_rope: Window,
    k: Window,
    k_rope: Window,
    sights: Sights,
    some: Part,
    lse: Address,
    bias: Address,
    out: Address,
    bias_heads: i64,
    bias_queries: i64,
    bias_keys: i64,
    scale: f64,
    cap: f64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Seeing {
    sights: Sights,
    some: Part,
    seeing: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Summing {
    values: Address,
    sum: Address,
    len: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Losing {
    sights: Sights,
    some: Part,
    target: Address,
    scores: Address,
    losses: Address,
    seeing: Address,
    factor: f64,
    clamped: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Spreading {
    q: Window,
    k: Window,
    sights: Sights,
    weights: Address,
    d_scores: Address,
    d_q: Address,
    d_weights: Address,
    d_k: Address,
    scale: f64,
    width: i64,
    first_group: i64,
    groups: i64,
    per_group: i64,
    relu: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ChosenSpreading {
    of: Spreading,
    first: Address,
    choosers: Address,
    slots: Address,
}

/// Who chose each key, and which group each query is.
struct Lists {
    choosers: Choosers,
    slots: CudaBuffer<i32>,
}

impl Lists {
    /// Where queries chose keys, and each is a group of its own.
    fn of<T: CudaElement>(
        device: &CudaDevice,
        loss: &IndexLoss<'_, Cuda<T>>,
        tables: &Tables,
    ) -> Result<Option<Self>> {
        let Some(chosen) = loss.attention.selection else {
            return Ok(None);
        };
        let sizes = [loss.q.rows, loss.k.rows];
        let rows = QueryRows::new(loss.attention.segments, loss.q.rows)?;
        let seeing = rows.upload(device)?;
        let choosers = Choosers::of(device, chosen, &seeing, sizes)?;
        let mut slots = vec![-1; loss.q.rows];
        for (slot, group) in (0..).zip(&tables.groups) {
            slots[group.row as usize] = slot;
        }
        let slots = device.upload(&slots)?;
        Ok(Some(Self { choosers, slots }))
    }
}

fn kernel<T: CudaElement>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("index_target", entry, &[])
}

/// What all launches read, and where they write.
struct Pass<'a, T: CudaElement> {
    device: &'a CudaDevice,
    loss: &'a IndexLoss<'a, Cuda<T>>,
    sights: Sights,
    width: usize,
    per_group: usize,
    /// Queries, each with a key that it may choose.
    pairs: usize,
    groups: usize,
    /// Null, or where it stands how many queries share the loss.
    seeing: Address,
    losses: CudaBuffer<f64>,
    lists: Option<Lists>,
    q: CudaBuffer<Accum<T>>,
    k: CudaBuffer<Accum<T>>,
    weights: CudaBuffer<Accum<T>>,
}

/// The loss, and the gradients of the indexer's queries, keys and weights.
pub(in super::super) fn loss<T: CudaElement>(
    device: &CudaDevice,
    loss: &IndexLoss<'_, Cuda<T>>,
) -> Result<IndexLossParts<Cuda<T>>> {
    let segments = loss.attention.segments;
    let chosen = loss.attention.selection;
    let rows = loss.q.rows;
    let sights = sights_of(segments)?;
    let mut tables = match chosen {
        Some(_) => Tables::grouped(&sights, rows, None, None, 1),
        None => Tables::of(&sights, rows, None, None),
    };
    tables.place_in(segments);
    let width = chosen.map_or(tables.widest(), |chosen| chosen.width);
    let (groups, per_group) = (tables.groups.len(), tables.per_group);
    let pairs = chosen.map_or_else(|| tables.pairs(), |chosen| rows * chosen.width);
    let uploaded = tables.upload(device)?;
    let mut of_keys = uploaded.sights(None, loss.k.rows);
    if let Some(chosen) = chosen {
        of_keys.chosen = chosen.indices.at();
        of_keys.chosen_width = chosen.width as i64;
    }
    // What each query loses, and behind it how many see a key
    let mut pass = Pass {
        device,
        loss,
        sights: of_keys,
        width,
        per_group,
        pairs,
        groups,
        seeing: 0,
        losses: device.zeros(rows + 1)?,
        lists: Lists::of(device, loss, &tables)?,
        q: device.zeros(rows * loss.q.heads * loss.q.width)?,
        k: device.zeros(loss.k.rows * loss.k.width)?,
        weights: device.zeros(rows * loss.q.heads)?,
    };
    let share = match loss.reduction {
        LossReduction::MeanValid if chosen.is_some() => {
            pass.count(rows, groups)?;
            None
        }
        LossReduction::MeanValid => Some(1.0 / tables.seeing().max(1) as f64),
        LossReduction::MeanAll => Some(1.0 / segments.queries().max(1) as f64),
        LossReduction::Sum => Some(1.0),
    };
    for part in parts(groups, per_group * width * 2 * size_of::<Accum<T>>()) {
        pass.part(&part, share.unwrap_or(1.0) * loss.factor)?;
    }
    let losses = device.download(&pass.losses)?;
    let lost: f64 = losses[..rows].iter().sum();
    Ok(IndexLossParts {
        loss: lost * share.unwrap_or_else(|| 1.0 / losses[rows].max(1.0)),
        q: pass.q,
        k: pass.k,
        weights: pass.weights,
    })
}

/// What the segments let queries see. Refuses segments that share queries.
fn sights_of(segments: &Segments) -> Result<Vec<Sight<'_>>> {
    let list = segments.list();
    let mut ranges: Vec<&Range<usize>> = list.iter().map(|segment| &segment.queries).collect();
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err(Error::Device("segments share queries".to_owned()));
    }
    let sight = |segment| {
        let segment: &crate::segments::Segment = segment;
        let queries = 0..segment.queries.len();
        let visible = queries.clone().map(|i| segments.visible(segment, i));
        let given = queries.filter_map(|i| segments.given(segment, i));
        Sight::new(
            segment.queries.clone(),
            (segment.keys.start, segment.first_key),
            visible.collect(),
            given.collect(),
        )
    };
    Ok(list.iter().map(sight).collect())
}

impl<T: CudaElement> Pass<'_, T> {
    fn some(&self, first_group: usize) -> Part {
        Part {
            width: self.width as i64,
            first_group: first_group as i64,
            per_group: self.per_group as i64,
        }
    }

    /// Counts the queries that see a key that they chose.
    fn count(&mut self, rows: usize, groups: usize) -> Result<()> {
        let seeing: CudaBuffer<f64> = self.device.zeros(rows)?;
        let args = Seeing {
            sights: self.sights,
            some: self.some(0),
            seeing: seeing.at(),
        };
        let slots = groups * self.per_group;
        let work = Work::moving(self.pairs * size_of::<i32>());
        self.device
            .launch(&kernel::<T>("seeing"), [slots, 1, 1], work, &args)?;
        self.seeing = self.losses.place(rows);
        let args = Summing {
            values: seeing.at(),
            sum: self.seeing,
            len: rows as i64,
        };
        let work = Work::moving(seeing.bytes());
        self.device
            .launch(&kernel::<T>("sum"), [1, 1, 1], work, &args)
    }

    /// Those of some groups, which see about as much as each other.
    fn pairs(&self, part: &Range<usize>) -> usize {
        self.pairs * part.len() / self.groups.max(1)
    }

    /// Adds what some groups of queries give.
    fn part(&self, part: &Range<usize>, factor: f64) -> Result<()> {
        let slots = part.len() * self.per_group;
        let target: CudaBuffer<Accum<T>> = self.device.room(slots * self.width)?;
        let scores: CudaBuffer<Accum<T>> = self.device.room(slots * self.width)?;
        self.targets(part, &target)?;
        let sizes = [self.loss.q.heads, self.loss.q.width];
        let scoring = Scoring {
            q: (&self.loss.q).into(),
            k: (&self.loss.k).into(),
            sights: self.sights,
            weights: self.loss.weights.at(),
            out: scores.at(),
            scale: self.loss.scale,
            relu: i64::from(self.loss.relu),
            width: self.width as i64,
            first_group: part.start as i64,
            per_group: self.per_group as i64,
            by_position: 0,
        };
        scoring.launch::<T, T>(self.device, sizes, part.len(), self.pairs(part))?;
        let losing = Losing {
            sights: self.sights,
            some: self.some(part.start),
            target: target.at(),
            scores: scores.at(),
            losses: self.losses.at(),
            seeing: self.seeing,
            factor,
            clamped: i64::from(self.loss.epsilon == LossEpsilon::Clamp),
        };
        // The gradient takes the score's place
        let work = Work::moving(3 * self.pairs(part) * size_of::<Accum<T>>());
        self.device
            .launch(&kernel::<T>("lose"), [slots, 1, 1], work, &losing)?;
        self.spread(part, &scores)
    }

    /// How much attention's heads together attend to each key.
    fn targets(&self, part: &Range<usize>, out: &CudaBuffer<Accum<T>>) -> Result<()> {
        let attention = &self.loss.attention;
        let bias = attention.softmax.added();
        let [bias_heads, bias_queries, bias_keys] = bias.map_or([0; 3], |bias| bias.shape());
        let args = Target {
            q: (&attention.q).into(),
            q_rope: (&attention.q_rope).into(),
            k: (&attention.k).into(),
            k_rope: (&attention.k_rope).into(),
            sights: self.sights,
            some: self.some(part.start),
            lse: self.loss.lse.at(),
            bias: bias.map_or(0, |bias| bias.values().at()),
            out: out.at(),
            bias_heads: bias_heads as i64,
            bias_queries: bias_queries as i64,
            bias_keys: bias_keys as i64,
            scale: attention.softmax.scale(),
            cap: attention.softmax.cap().unwrap_or(0.0),
        };
        let grid = [
            part.len() * self.per_group,
            self.width.div_ceil(TARGET_KEYS).min(MOST_BLOCKS),
            1,
        ];
        let pairs = self.pairs(part);
        let each = attention.q.heads * (attention.q.width + attention.q_rope.width);
        let work = Work::moving(pairs * size_of::<Accum<T>>()).adding(pairs * each);
        self.device
            .launch(&kernel::<T>("target"), grid, work, &args)
    }

    /// Spreads gradients of scores.
    fn spread(&self, part: &Range<usize>, d_scores: &CudaBuffer<Accum<T>>) -> Result<()> {
        let (heads, width) = (self.loss.q.heads, self.loss.q.width);
        if heads == 0 || width == 0 {
            // Products of nothing are 0, and so are all gradients
            return Ok(());
        }
        let args = Spreading {
            q: (&self.loss.q).into(),
            k: (&self.loss.k).into(),
            sights: self.sights,
            weights: self.loss.weights.at(),
            d_scores: d_scores.at(),
            d_q: self.q.at(),
            d_weights: self.weights.at(),
            d_k: self.k.at(),
            scale: self.loss.scale,
            width: self.width as i64,
            first_group: part.start as i64,
            groups: part.len() as i64,
            per_group: self.per_group as i64,
            relu: i64::from(self.loss.relu),
        };
        let tile = fitting(width, size_of::<Accum<T>>());
        let keys = self.loss.k.rows;
        // The products again, and those with their gradients
        let pairs = self.pairs(part);
        let work = Work::moving(pairs * size_of::<Accum<T>>()).adding(2 * pairs * heads * width);
        let dims = [heads, width];
        let kernel = |entry| Kernel::of::<T>("index_spread", entry, &dims);
        let slots = part.len() * self.per_group;
        let of_queries = [slots, heads.div_ceil(tile), 1];
        self.device
            .launch(&kernel("spread_queries"), of_queries, work, &args)?;
        let Some(lists) = &self.lists else {
            let of_keys = [keys.div_ceil(tile), 1, 1];
            return self
                .device
                .launch(&kernel("spread_keys"), of_keys, work, &args);
        };
        let args = ChosenSpreading {
            of: args,
            first: lists.choosers.first.at(),
            choosers: lists.choosers.queries.at(),
            slots: lists.slots.at(),
        };
        self.device
            .launch(&kernel("spread_chosen_keys"), [keys, 1, 1], work, &args)
    }
}

/// Heads, and keys, that a block stages at a time, as `index_spread.cuh` has it.
fn fitting(width: usize, bytes: usize) -> usize {
    let mut tile = 32;
    while tile > 1 && 2 * tile * (width + tile + 2) * bytes > 44 << 10 {
        tile /= 2;
    }
    tile
}
