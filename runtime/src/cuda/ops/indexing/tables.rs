//! Which keys an indexer's queries may choose, laid out as `sights.cuh` reads it.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::super::driver::Address;
use super::super::super::{CudaBuffer, CudaDevice};
use crate::backend::{Pages, Sight};
use crate::error::Result;
use crate::segments::Segments;

/// Most queries of a group, as `index_scores.cuh` has it.
const QUERIES: usize = 8;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Query {
    begin: i64,
    end: i64,
    seen_begin: i64,
    seen_end: i64,
    keep: i64,
    given: i64,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Group {
    pub(super) row: i64,
    pub(super) count: i64,
    pub(super) begin: i64,
    end: i64,
    pub(super) keys: i64,
    first_position: i64,
    /// Of the first query, counted from the sight's first until it is known where that stands.
    first_index: i64,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Sights {
    queries: Address,
    groups: Address,
    blocks: Address,
    given: Address,
    /// `[rows, chosen_width]` positions; 0: no key is left out.
    pub(super) chosen: Address,
    page: i64,
    key_rows: i64,
    pub(super) chosen_width: i64,
}

/// How many keys are chosen, and how many of those whatever their scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) most: usize,
    pub(super) initial: usize,
    pub(super) local: usize,
}

/// The tables, on the host.
#[derive(Debug)]
pub(super) struct Tables {
    queries: Vec<Query>,
    pub(super) groups: Vec<Group>,
    /// Most queries of a group.
    pub(super) per_group: usize,
    blocks: Vec<u32>,
    longest_list: usize,
    given: Vec<u8>,
}

/// The tables, on the device.
#[derive(Debug)]
pub(super) struct Uploaded {
    queries: CudaBuffer<Query>,
    groups: CudaBuffer<Group>,
    blocks: CudaBuffer<u32>,
    given: CudaBuffer<u8>,
}

impl Tables {
    /// Of `rows` queries; all keys that they see are scored, unless the choice makes that unnecessary.
    pub(super) fn of(
        sights: &[Sight<'_>],
        rows: usize,
        pages: Option<&Pages>,
        choice: Option<Choice>,
    ) -> Self {
        let longest = sights.iter().map(|sight| sight.queries.len()).max();
        Self::grouped(
            sights,
            rows,
            pages,
            choice,
            longest.unwrap_or(0).clamp(1, QUERIES),
        )
    }

    /// [`of`](Self::of), with so many queries to a group.
    pub(super) fn grouped(
        sights: &[Sight<'_>],
        rows: usize,
        pages: Option<&Pages>,
        choice: Option<Choice>,
        per_group: usize,
    ) -> Self {
        let mut tables = Self {
            queries: vec![Query::zeroed(); rows],
            groups: Vec::new(),
            per_group,
            blocks: Vec::new(),
            longest_list: 0,
            given: Vec::new(),
        };
        for (i, sight) in sights.iter().enumerate() {
            let keys = match pages {
                Some(pages) => tables.add_blocks(sight, pages, i),
                None => sight.first_row,
            };
            tables.add(sight, keys, choice);
        }
        tables
    }

    /// Queries, each with a key that is scored for it.
    pub(super) fn pairs(&self) -> usize {
        let scored = self.queries.iter().map(|query| query.end - query.begin);
        scored.map(|keys| usize::try_from(keys).unwrap_or(0)).sum()
    }

    /// The keys that are scored for the query of a row.
    pub(super) fn scored(&self, row: usize) -> Range<usize> {
        let query = &self.queries[row];
        query.begin as usize..query.end as usize
    }

    /// Adds as much of a sight's list of blocks as its keys lie in; returns where.
    fn add_blocks(&mut self, sight: &Sight<'_>, pages: &Pages, i: usize) -> usize {
        let at = self.blocks.len();
        let ends = (0..sight.queries.len()).map(|query| sight.visible(query).end);
        // Blocks too short for one pool hold no keys
        let needed = match pages.page() {
            0 => 0,
            page => ends.max().unwrap_or(0).div_ceil(page),
        };
        let list = &pages.tables()[i];
        self.blocks.extend(&list[..needed.min(list.len())]);
        self.longest_list = self.longest_list.max(self.blocks.len() - at);
        at
    }

    /// The most blocks that a sight's keys lie in.
    pub(super) fn longest_list(&self) -> usize {
        self.longest_list
    }

    fn add(&mut self, sight: &Sight<'_>, keys: usize, choice: Option<Choice>) {
        let count = sight.queries.len();
        for i in 0..count {
            self.queries[sight.queries.start + i] = self.query(sight, i, choice);
        }
        for start in (0..count).step_by(self.per_group) {
            let own = start..count.min(start + self.per_group);
            let row = sight.queries.start + own.start;
            let scored = self.queries[row..row + own.len()].iter();
            let scored = scored.map(|query| query.begin..query.end);
            let covered = scored
                .filter(|range| !range.is_empty())
                .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
                .unwrap_or(0..0);
            self.groups.push(Group {
                row: row as i64,
                count: own.len() as i64,
                begin: covered.start,
                end: covered.end,
                keys: keys as i64,
                first_position: sight.first_position as i64,
                first_index: own.start as i64,
            });
        }
    }

    /// What query `i` of a sight sees; its line of the mask is added to the others.
    fn query(&mut self, sight: &Sight<'_>, i: usize, choice: Option<Choice>) -> Query {
        let visible = sight.visible(i);
        let given = sight.given(i);
        let line = given.map_or(-1, |given| {
            let at = self.given.len() as i64;
            let seen = &given[..visible.end];
            self.given.extend(seen.iter().map(|&seen| u8::from(seen)));
            at
        });
        let (scored, keep) = match choice {
            None => (visible.clone(), 0),
            Some(choice) => choice.scored(&visible, given),
        };
        Query {
            begin: scored.start as i64,
            end: scored.end as i64,
            seen_begin: visible.start as i64,
            seen_end: visible.end as i64,
            keep: keep as i64,
            given: line,
        }
    }

    /// Says where in their sequences queries stand; each sight is a segment's.
    pub(super) fn place_in(&mut self, segments: &Segments) {
        let mut groups = self.groups.iter_mut();
        for segment in segments.list() {
            let own = segment.queries.len().div_ceil(self.per_group);
            for group in groups.by_ref().take(own) {
                group.first_index += segment.first_query as i64;
            }
        }
    }

    /// Adds groups of nobody, up to a number that depends only on how many rows and sights there are, so that a recorded graph
    /// serves other ways to share the rows.
    pub(super) fn pad(&mut self, rows: usize, sights: usize) {
        let most = rows.min(rows / self.per_group + sights);
        let groups = most.max(self.groups.len());
        self.groups.resize(groups, Group::zeroed());
    }

    /// Adds groups of the rows that no sight speaks of: they see nothing.
    pub(super) fn add_unseeing(&mut self, rows: usize) {
        let mut spoken_of = vec![false; rows];
        for group in &self.groups {
            let first = group.row as usize;
            spoken_of[first..first + group.count as usize].fill(true);
        }
        let unseeing = (0..rows).filter(|&row| !spoken_of[row]);
        self.groups.extend(unseeing.map(|row| Group {
            row: row as i64,
            count: 1,
            ..Group::zeroed()
        }));
    }

    /// The most keys that a group scores.
    pub(super) fn widest(&self) -> usize {
        let keys = self.groups.iter().map(|group| group.end - group.begin);
        keys.max().unwrap_or(0) as usize
    }

    /// How many queries see a key.
    pub(super) fn seeing(&self) -> usize {
        let sees = |query: &&Query| {
            let line = |key: i64| query.given < 0 || self.given[(query.given + key) as usize] != 0;
            (query.begin..query.end).any(line)
        };
        self.queries.iter().filter(sees).count()
    }

    pub(super) fn upload(&self, device: &CudaDevice) -> Result<Uploaded> {
        Ok(Uploaded {
            queries: device.upload(&self.queries)?,
            groups: device.upload(&self.groups)?,
            blocks: device.upload(&self.blocks)?,
            given: device.upload(&self.given)?,
        })
    }
}

impl Choice {
    /// Among which keys of a query the scores decide, and how many of those are kept; the others that it sees are chosen whatever
    /// their scores.
    fn scored(&self, visible: &Range<usize>, given: Option<&[bool]>) -> (Range<usize>, usize) {
        let nothing = (visible.end..visible.end, 0);
        let keep = self.most.saturating_sub(self.initial + self.local);
        let Some(given) = given else {
            if visible.len() <= self.most {
                return nothing;
            }
            return (visible.start + self.initial..visible.end - self.local, keep);
        };
        let seen: Vec<usize> = visible.clone().filter(|&key| given[key]).collect();
        if seen.len() <= self.most {
            return nothing;
        }
        match &seen[self.initial..seen.len() - self.local] {
            [first, .., last] => (*first..last + 1, keep),
            [only] => (*only..only + 1, keep),
            [] => nothing,
        }
    }
}

impl Uploaded {
    /// Where lists of blocks stand.
    pub(super) fn blocks(&self) -> Address {
        self.blocks.at()
    }

    /// What kernels are told of the tables.
    pub(super) fn sights(&self, pages: Option<&Pages>, key_rows: usize) -> Sights {
        Sights {
            queries: self.queries.at(),
            groups: self.groups.at(),
            blocks: pages.map_or(0, |_| self.blocks.at()),
            given: self.given.at(),
            chosen: 0,
            page: pages.map_or(1, Pages::page) as i64,
            key_rows: key_rows as i64,
            chosen_width: 0,
        }
    }
}
