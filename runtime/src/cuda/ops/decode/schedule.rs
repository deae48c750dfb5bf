//! What attentions of a step have in common: tables of who attends to what, and the items that a scheduler cuts of them on the device. The
//! first of a step's layers has them made, and those that are told the same take them.

use bytemuck::{Pod, Zeroable};

use super::super::super::buffer::Parked;
use super::super::super::device::{Mode, lock};
use super::super::super::driver::Address;
use super::super::super::kernels::Kernel;
use super::super::super::{CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::limits::Limit;
use super::SCHEDULE;
use super::tables::{Group, Tables};
use crate::error::{Error, Result};

/// `Scheduling` of `decode_schedule.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Scheduling {
    groups: Address,
    items: Address,
    starts: Address,
    arrived: Address,
    before: Address,
    counts: Address,
    count: i32,
    teams: i32,
    team: i32,
    unused: i32,
}

// As large as kernels take it
const _: () = assert!(size_of::<Scheduling>() == 64);

/// Bytes of an `Item` of `decoding.cuh`.
const ITEM: usize = 32;

/// What a schedule is made of: the same makes the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    /// Groups, limits and the table, one behind the other.
    tables: Vec<u8>,
    groups: usize,
    limits: usize,
    team: usize,
    teams: usize,
    /// Where it stands how many entries of lists count; 0: all do.
    counts: Address,
}

/// A schedule on the device.
#[derive(Debug)]
pub(super) struct Schedule {
    of: Made,
    told: CudaBuffer<u8>,
    cut: CudaBuffer<u8>,
}

/// Where everything is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) groups: Address,
    pub(super) limits: Address,
    pub(super) table: Address,
    pub(super) items: Address,
    pub(super) starts: Address,
    pub(super) before: Address,
    pub(super) arrived: Address,
}

impl Made {
    fn new(tables: &Tables, teams: usize) -> Self {
        let parts: [&[u8]; 3] = [
            bytemuck::cast_slice(&tables.groups),
            bytemuck::cast_slice(&tables.limits.rows),
            bytemuck::cast_slice(&tables.limits.table),
        ];
        Self {
            tables: parts.concat(),
            groups: tables.groups.len(),
            limits: tables.limits.rows.len(),
            team: tables.blocks.team,
            teams,
            counts: tables.counts.unwrap_or(0),
        }
    }

    /// Whether the device says where lists end: perhaps elsewhere by the next attention, and in the step's next run.
    fn is_counted(&self) -> bool {
        self.counts != 0
    }

    /// Bytes of each part of what the scheduler writes: items, the first of each team, where groups begin, and who has arrived.
    fn parts(&self) -> [usize; 4] {
        let words = [self.teams + 1, self.groups + 1, self.groups * self.team];
        let [starts, before, arrived] = words.map(|count| count * size_of::<i32>());
        [(self.groups + self.teams) * ITEM, starts, before, arrived]
    }
}

impl Schedule {
    /// The schedule of these tables for so many teams: one that was made in this step before, or else a new one.
    pub(super) fn of<T: CudaElement>(
        device: &CudaDevice,
        tables: &Tables,
        teams: usize,
    ) -> Result<Self> {
        let wanted = Made::new(tables, teams);
        if wanted.is_counted() {
            let told = device.ahead(|| device.upload(&wanted.tables))?;
            return Self::new::<T>(device, wanted, told);
        }
        let kept = device.with_schedules(|schedules| schedules.take(&wanted));
        match kept {
            Some((told, cut)) => Ok(Self {
                of: wanted,
                told: told.back(device),
                cut: cut.back(device),
            }),
            None => device.ahead(|| {
                let told = device.upload(&wanted.tables)?;
                Self::new::<T>(device, wanted, told)
            }),
        }
    }

    fn new<T: CudaElement>(device: &CudaDevice, of: Made, told: CudaBuffer<u8>) -> Result<Self> {
        let bytes = of.parts().iter().sum();
        let schedule = Self {
            told,
            cut: device.room(bytes)?,
            of,
        };
        let places = schedule.places();
        let count = |count: usize| {
            i32::try_from(count).map_err(|_| Error::Device("too many groups of queries".to_owned()))
        };
        let of = &schedule.of;
        let args = Scheduling {
            groups: places.groups,
            items: places.items,
            starts: places.starts,
            arrived: places.arrived,
            before: places.before,
            counts: of.counts,
            count: count(of.groups)?,
            teams: count(of.teams)?,
            team: count(of.team)?,
            unused: 0,
        };
        let kernel = Kernel::of::<T>(SCHEDULE, SCHEDULE, &[]);
        let work = Work::moving(of.groups * size_of::<Group>() + bytes);
        device.launch(&kernel, [1; 3], work, &args)?;
        Ok(schedule)
    }

    pub(super) fn places(&self) -> Places {
        let limits = self.of.groups * size_of::<Group>();
        let table = limits + self.of.limits * size_of::<Limit>();
        let [items, starts, before, _] = self.of.parts();
        Places {
            groups: self.told.at(),
            limits: self.told.place(limits),
            table: self.told.place(table),
            items: self.cut.at(),
            starts: self.cut.place(items),
            before: self.cut.place(items + starts),
            arrived: self.cut.place(items + starts + before),
        }
    }

    /// Keeps it for the step's later layers, where it holds for them too.
    pub(super) fn keep(self, device: &CudaDevice) {
        if self.of.is_counted() {
            return;
        }
        let (of, told, cut) = (self.of, self.told.parked(), self.cut.parked());
        let oldest = device.with_schedules(|schedules| schedules.keep((of, told, cut)));
        if let Some((_, told, cut)) = oldest {
            drop((told.back(device), cut.back(device)));
        }
    }
}

type Kept = (Made, Parked<u8>, Parked<u8>);

/// Schedules that were made: by a graph's step for itself, which makes them anew whenever it runs, or by what is queued at once.
#[derive(Debug, Default)]
pub(in super::super::super) struct Schedules(Vec<Kept>);

impl Schedules {
    /// Layers of a model see all keys or those of a window, and have one or two numbers of heads.
    const MOST: usize = 4;

    /// Nobody else has it then: another thread's makes one of its own.
    fn take(&mut self, wanted: &Made) -> Option<(Parked<u8>, Parked<u8>)> {
        let found = self.0.iter().position(|(made, ..)| made == wanted)?;
        let (_, told, cut) = self.0.remove(found);
        Some((told, cut))
    }

    /// Returns one that is too many.
    fn keep(&mut self, kept: Kept) -> Option<Kept> {
        self.0.push(kept);
        (self.0.len() > Self::MOST).then(|| self.0.remove(0))
    }
}

impl CudaDevice {
    /// Does something with the schedules that this thread may use: those of the step that it records or runs again, otherwise everybody's.
    fn with_schedules<R>(&self, then: impl FnOnce(&mut Schedules) -> R) -> R {
        self.with_mode(|mode| match mode {
            None | Some(Mode::Timing(_)) => then(&mut lock(&self.shared.schedules)),
            Some(Mode::Recording(recording)) => then(&mut recording.schedules),
            Some(Mode::Replaying(replay)) => then(&mut replay.schedules),
        })
    }
}

#[cfg(test)]
mod tests;
