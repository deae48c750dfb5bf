//! Entries of codes as numbers, where they are chosen so often that this pays.
//!
//! A query that reads a chosen entry of codes turns it into numbers for itself. Where many queries choose among few entries, each is turned once, ahead, and
//! attention reads numbers, which takes a kernel a third less time.

use std::collections::BTreeMap;

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
        if !has_kernels(device, format.coding(), shape) {
            return Ok(None);
        }
        let (slots, pages) = entries(attention.pages, shape);
        let reads = Seen::of(attention.segments, Some(selection.width)).pairs;
        if device.is_batch_invariant() || slots.len() > MOST || reads < READS * slots.len() {
            return Ok(None);
        }
        let EntryShape { latent, rope, .. } = shape;
        let widened = Self {
            latent: device.room(slots.len() * latent)?,
            rope: device.room(slots.len() * rope)?,
            widths: [latent, rope],
            entries: slots.len(),
            pages,
        };
        if !reads_chosen(device, &widened.asked(attention)) {
            return Ok(None);
        }
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

/// The slots of all entries that tables name, each page once, and tables that name these pages by their order; of entries that lie in no pages, all.
fn entries(pages: Option<&Pages>, shape: EntryShape) -> (Vec<usize>, Option<Pages>) {
    let Some(pages) = pages else {
        return ((0..shape.slots()).collect(), None);
    };
    let page = pages.page();
    let is_there = |block: u32| (block as usize) < shape.blocks;
    let named = pages.tables().iter().flatten().copied();
    let mut order: BTreeMap<u32, u32> = named
        .filter(|&block| is_there(block))
        .map(|block| (block, 0))
        .collect();
    for (new, place) in order.values_mut().zip(0..) {
        *new = place;
    }
    let slots = order
        .keys()
        .flat_map(|&block| block as usize * page..(block as usize + 1) * page);
    let slots = slots.collect();
    let renamed = |block: &u32| order.get(block).copied().unwrap_or(u32::MAX);
    let tables = pages.tables().iter();
    let tables = tables.map(|table| table.iter().map(renamed).collect());
    (slots, Some(Pages::new(page, tables.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_that_is_named_is_there_once() {
        let shape = EntryShape {
            latent: 8,
            rope: 2,
            blocks: 7,
            page: 2,
        };
        // Nobody holds the last block of the first table any more
        let pages = Pages::new(2, vec![vec![5, 3, u32::MAX], vec![3, 0], vec![]]);
        let (slots, renamed) = entries(Some(&pages), shape);
        assert_eq!(slots, [0, 1, 6, 7, 10, 11]);
        let renamed = renamed.expect("pages");
        assert_eq!(renamed.tables(), [vec![2, 1, u32::MAX], vec![1, 0], vec![]]);
        assert_eq!(renamed.page(), 2);

        let (slots, pages) = entries(None, shape);
        assert_eq!(slots.len(), 14);
        assert!(pages.is_none());
    }
}
