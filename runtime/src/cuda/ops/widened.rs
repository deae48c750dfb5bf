//! Entries of codes as numbers, where they are chosen so often that this pays.
//!
//! A query that reads a chosen entry of codes turns it into numbers for itself. Where many queries choose among few entries, each is turned once, ahead, and
//! attention reads numbers, which takes a kernel a third less time.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::attention_tables::Seen;
use super::bytes::{decode_to, has_kernels};
use super::decode::reads_chosen;
use crate::backend::{Attention, BytesAttention, Pages, Strided};
use crate::cache::{ByteFormat, EntryShape};
use crate::error::Result;

/// How often an entry is chosen at least. On an H200, turning one costs 0.5 ns, and reading a chosen one as numbers saves 0.1 (16 heads) to 0.2 ns (128).
const READS: usize = 8;

/// Entries that are turned at most: beyond, they would take more room than the cache itself leaves.
const MOST: usize = 1 << 19;

/// The entries that a batch attends to, as numbers, in pages of their own.
pub(super) struct Widened<T> {
    latent: CudaBuffer<T>,
    rope: CudaBuffer<T>,
    widths: [usize; 2],
    entries: usize,
    pages: Option<Pages>,
}

impl<T: CudaElement> Widened<T> {
    /// Those of attention to chosen entries; `None` where reading codes costs less, and where there is no kernel that reads numbers. Whether it is done
    /// depends on how many queries there are, and changes last bits: so not where a batch may change nothing.
    pub(super) fn of<F: ByteFormat>(
        device: &CudaDevice,
        format: F,
        bytes: &CudaBuffer<u8>,
        shape: EntryShape,
        attention: &BytesAttention<'_, Cuda<T>>,
    ) -> Result<Option<Self>> {
        let Some(selection) = attention.selection else {
            return Ok(None);
        };
        if device.is_batch_invariant() || !has_kernels(device, format.coding(), shape) {
            return Ok(None);
        }
        let named = attention.pages.map(|pages| Named::of(pages, shape.blocks));
        let entries = named.as_ref().map_or(shape.slots(), Named::entries);
        let reads = Seen::of(attention.segments, Some(selection.width)).pairs;
        if entries > MOST || reads < READS * entries {
            return Ok(None);
        }
        let EntryShape { latent, rope, .. } = shape;
        let widened = Self {
            latent: device.room(entries * latent)?,
            rope: device.room(entries * rope)?,
            widths: [latent, rope],
            entries,
            pages: named.as_ref().map(Named::renamed),
        };
        if !reads_chosen(device, &widened.asked(attention)) {
            return Ok(None);
        }
        let slots = named.map_or_else(|| (0..entries).collect(), |named| named.slots());
        let to = [&widened.latent, &widened.rope];
        decode_to(device, format, bytes, shape, &slots, to)?;
        Ok(Some(widened))
    }

    /// The same question of these.
    pub(super) fn asked<'a>(
        &'a self,
        attention: &BytesAttention<'a, Cuda<T>>,
    ) -> Attention<'a, Cuda<T>, T> {
        let [latent, rope] = self.widths;
        let part = |buffer, width| Strided {
            buffer,
            offset: 0,
            rows: self.entries,
            heads: 1,
            width,
            row_stride: width,
            head_stride: width,
        };
        Attention {
            q: attention.q,
            q_rope: attention.q_rope,
            k: part(&self.latent, latent),
            k_rope: part(&self.rope, rope),
            v: part(&self.latent, latent),
            segments: attention.segments,
            pages: self.pages.as_ref(),
            selection: attention.selection,
            softmax: attention.softmax,
        }
    }
}

/// The pages of a cache that a batch's tables name.
struct Named<'a> {
    pages: &'a Pages,
    /// Each page's place among those that are named; `None`: nobody names it.
    places: Vec<Option<u32>>,
    count: usize,
}

impl<'a> Named<'a> {
    /// Those of so many pages. A table may name one that there is not, where nobody holds it any more.
    fn of(pages: &'a Pages, blocks: usize) -> Self {
        let mut places = vec![None; blocks];
        for &block in pages.tables().iter().flatten() {
            if let Some(place) = places.get_mut(block as usize) {
                *place = Some(0);
            }
        }
        let mut count = 0;
        for (place, number) in places.iter_mut().flatten().zip(0..) {
            *place = number;
            count += 1;
        }
        Self {
            pages,
            places,
            count,
        }
    }

    fn entries(&self) -> usize {
        self.count * self.pages.page()
    }

    /// The slots of their entries, in order.
    fn slots(&self) -> Vec<usize> {
        let page = self.pages.page();
        let named = self.places.iter().enumerate();
        let named = named.filter(|(_, place)| place.is_some());
        let slots = named.flat_map(|(block, _)| block * page..(block + 1) * page);
        slots.collect()
    }

    /// Tables that name pages by their places.
    fn renamed(&self) -> Pages {
        let place = |&block: &u32| self.places.get(block as usize).copied().flatten();
        let tables = self.pages.tables().iter();
        let tables = tables.map(|table| {
            let places = table.iter().map(|block| place(block).unwrap_or(u32::MAX));
            places.collect()
        });
        Pages::new(self.pages.page(), tables.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_that_is_named_is_there_once() {
        // Nobody holds the last block of the first table any more
        let pages = Pages::new(2, vec![vec![5, 3, u32::MAX], vec![3, 0], vec![]]);
        let named = Named::of(&pages, 7);
        assert_eq!(named.slots(), [0, 1, 6, 7, 10, 11]);
        assert_eq!(named.entries(), 6);
        let renamed = named.renamed();
        assert_eq!(renamed.tables(), [vec![2, 1, u32::MAX], vec![1, 0], vec![]]);
        assert_eq!(renamed.page(), 2);
    }
}
