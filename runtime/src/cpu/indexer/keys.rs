//! Blocks of an indexer's keys: read where they lie when that is possible, else gathered and converted.

use crate::backend::Indexing;
use crate::cpu::keys::Lines;
use crate::cpu::{Cpu, CpuElement, part, same};
use crate::element::{Element, Real, Scalar};

/// The keys of one sight.
pub(super) struct IndexKeys<'a, T: CpuElement, E: Scalar> {
    indexing: &'a Indexing<'a, Cpu<T>, E>,
    sight: usize,
}

impl<'a, T: CpuElement, E: Scalar> IndexKeys<'a, T, E> {
    pub(super) fn new(indexing: &'a Indexing<'a, Cpu<T>, E>, sight: usize) -> Self {
        Self { indexing, sight }
    }

    /// Keys `start .. start + len`, at least one.
    pub(super) fn block<'s>(
        &self,
        start: usize,
        len: usize,
        scratch: &'s mut Vec<T::Accum>,
    ) -> Lines<'s, T::Accum>
    where
        'a: 's,
    {
        let k = &self.indexing.k;
        if let Some(all) = same::<E, T::Accum>(k.buffer)
            && self.side_by_side(start, len)
        {
            let first = k.offset + self.row(start) * k.row_stride;
            return Lines {
                values: &all[first..first + (len - 1) * k.row_stride + k.width],
                stride: k.row_stride,
            };
        }
        scratch.clear();
        for key in start..start + len {
            let values = part(k, self.row(key), 0).iter();
            scratch.extend(values.map(|&value| <T as Element>::Accum::load(value)));
        }
        Lines {
            values: scratch,
            stride: k.width,
        }
    }

    /// The row of the key tensor, or slot of the cache, of a key.
    fn row(&self, key: usize) -> usize {
        match self.indexing.pages {
            Some(pages) => pages.slot(self.sight, key),
            None => self.indexing.sights[self.sight].first_row + key,
        }
    }

    /// Whether the keys lie in neighbouring rows.
    fn side_by_side(&self, start: usize, len: usize) -> bool {
        let Some(pages) = self.indexing.pages else {
            return true;
        };
        let table = &pages.tables()[self.sight];
        let blocks = start / pages.page()..(start + len - 1) / pages.page() + 1;
        table[blocks]
            .windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1))
    }
}
