//! What a layer's functions take: rows, how they fall into sequences or requests, and where the result goes.

use super::calls::{Cache, Layer};
use super::fault::Fault;
use super::pointers::{array, named};
use super::tensor::{CTensor, Given, Lines};
use super::{Library, Outcome};
use crate::backend::{Backend, Place};
use crate::cuda::{Address, Cuda, CudaBuffer, CudaDevice, Target};
use crate::element::Scalar;
use crate::{Batch, Mask, Sequence, Tensor};

/// `mla_batch`. Arrays are the host's.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CBatch {
    /// How many there are.
    pub requests: i64,
    /// Tokens of each that the cache holds.
    pub cached: *const i64,
    /// New tokens of each.
    pub added: *const i64,
    /// Blocks of each.
    pub block_counts: *const i64,
    /// The blocks of all, request after request.
    pub blocks: *const u32,
    /// A position for each new token; null: they continue from what is cached.
    pub positions: *const u32,
}

/// Arguments of a call over whole sequences.
pub(super) struct Whole {
    both: InOut,
    positions: Vec<u32>,
    mask: Mask,
}

impl Whole {
    /// Reads them.
    ///
    /// # Safety
    /// `mla.h`'s contract.
    pub(super) unsafe fn read<L: Library>(
        hidden: *const CTensor,
        positions: *const u32,
        ends: *const u32,
        sequences: i64,
        out: *const CTensor,
    ) -> Result<Self, Fault> {
        // SAFETY: this function's contract, here and below
        let both = unsafe { InOut::read::<L>(hidden, out)? };
        let rows = both.hidden.rows()?.rows;
        // SAFETY: as above
        let positions = unsafe { array("positions", positions, rows)? }.to_vec();
        // SAFETY: as above
        let mask = unsafe { sequences_of(ends, sequences, rows)? };
        Ok(Self {
            both,
            positions,
            mask,
        })
    }

    /// Queues the work.
    pub(super) fn run<L: Library>(&self, layer: &Layer<L>) -> Result<(), Fault> {
        self.both.run(layer, |hidden| {
            layer.layer.forward(hidden, &self.positions, &self.mask)
        })
    }
}

/// How rows fall into sequences: where each ends, behind a 0; without ends they are one.
///
/// # Safety
/// `ends` is null or has one element more than there are sequences.
pub(super) unsafe fn sequences_of(
    ends: *const u32,
    sequences: i64,
    rows: usize,
) -> Result<Mask, Fault> {
    if ends.is_null() {
        return Ok(Mask::dense(1, rows));
    }
    let sequences = named("sequences", "it", sequences)?;
    // SAFETY: this function's contract
    Ok(Mask::cu_seqlens(unsafe {
        array("cu_seqlens", ends, sequences.saturating_add(1))?
    }))
}

/// As many lists of blocks, of which each has `each`.
///
/// # Safety
/// `blocks` is null or has all of them.
pub(super) unsafe fn lists_of_blocks<'a>(
    blocks: *const u32,
    each: usize,
    lists: usize,
) -> Result<Vec<&'a [u32]>, Fault> {
    // SAFETY: this function's contract
    let blocks: &[u32] = unsafe { array("blocks", blocks, lists.saturating_mul(each))? };
    Ok(match each {
        0 => vec![&[]; lists],
        each => blocks.chunks_exact(each).collect(),
    })
}

/// Refuses a length that its blocks can't hold, and blocks that are not in the cache.
pub(super) fn check_request(
    i: usize,
    table: &[u32],
    length: i64,
    [new, pages, page]: [usize; 3],
) -> Result<(), Fault> {
    let room = table.len().saturating_mul(page);
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|&n| n >= new && n <= room)
    else {
        return Err(Fault::argument(
            format!("lengths[{i}]"),
            format!(
                "is {length}, wanted at least the {new} new tokens and at most the {room} that {} blocks hold",
                table.len()
            ),
        ));
    };
    let used = &table[..length.div_ceil(page.max(1))];
    match used.iter().find(|&&block| block as usize >= pages) {
        None => Ok(()),
        Some(block) => Err(Fault::argument(
            "blocks",
            format!("request {i} names block {block}, the cache has {pages}"),
        )),
    }
}

/// Queues the work of a cached phase.
pub(super) type CachedPhase<L> = fn(&Cached, &Layer<L>, &Cache<L>) -> Result<(), Fault>;

/// Arguments of a call of a cached phase.
pub(super) struct Cached {
    both: InOut,
    batch: Batch,
}

impl Cached {
    /// Reads them.
    ///
    /// # Safety
    /// `mla.h`'s contract.
    pub(super) unsafe fn read<L: Library>(
        batch: *const CBatch,
        hidden: *const CTensor,
        out: *const CTensor,
    ) -> Result<Self, Fault> {
        // SAFETY: this function's contract, here and below
        let batch = unsafe { batch_of(batch)? };
        // SAFETY: as above
        let both = unsafe { InOut::read::<L>(hidden, out)? };
        Ok(Self { both, batch })
    }

    /// Queues the work of `prefill`.
    pub(super) fn prefill<L: Library>(
        &self,
        layer: &Layer<L>,
        cache: &Cache<L>,
    ) -> Result<(), Fault> {
        let mut cache = cache.on(&layer.device)?;
        let run = |hidden: &_| layer.layer.prefill(&mut cache, &self.batch, hidden);
        self.both.run(layer, run)
    }

    /// Queues the work of `decode`.
    pub(super) fn decode<L: Library>(
        &self,
        layer: &Layer<L>,
        cache: &Cache<L>,
    ) -> Result<(), Fault> {
        let mut cache = cache.on(&layer.device)?;
        let run = |hidden: &_| layer.layer.decode(&mut cache, &self.batch, hidden);
        self.both.run(layer, run)
    }

    /// Queues the work of `mixed`.
    pub(super) fn mixed<L: Library>(
        &self,
        layer: &Layer<L>,
        cache: &Cache<L>,
    ) -> Result<(), Fault> {
        let mut cache = cache.on(&layer.device)?;
        let run = |hidden: &_| layer.layer.mixed(&mut cache, &self.batch, hidden);
        self.both.run(layer, run)
    }
}

/// # Safety
/// `mla.h`'s contract.
unsafe fn batch_of(batch: *const CBatch) -> Result<Batch, Fault> {
    // SAFETY: this function's contract, here and below
    let batch = unsafe { batch.as_ref() }.ok_or_else(|| Fault::argument("batch", "is null"))?;
    let requests = named("batch.requests", "it", batch.requests)?;
    let counts = |argument: &str, at| -> Result<Vec<usize>, Fault> {
        // SAFETY: as above
        let counts = unsafe { array(argument, at, requests)? };
        let counts = counts.iter().enumerate();
        counts
            .map(|(i, &count)| named(argument, &format!("element {i}"), count))
            .collect()
    };
    let cached = counts("batch.cached", batch.cached)?;
    let added = counts("batch.added", batch.added)?;
    let block_counts = counts("batch.block_counts", batch.block_counts)?;
    let all = block_counts
        .iter()
        .try_fold(0_usize, |sum, &n| sum.checked_add(n));
    let all = all.ok_or_else(|| Fault::argument("batch.block_counts", "are more than can be"))?;
    // SAFETY: as above
    let mut rest = unsafe { array("batch.blocks", batch.blocks, all)? };
    let mut sequences = Vec::with_capacity(requests);
    for ((&cached, &new), &count) in cached.iter().zip(&added).zip(&block_counts) {
        let blocks;
        (blocks, rest) = rest.split_at(count);
        sequences.push(Sequence {
            cached,
            new,
            blocks,
        });
    }
    let read = Batch::new(&sequences)?;
    if batch.positions.is_null() {
        return Ok(read);
    }
    // SAFETY: as above
    let positions = unsafe { array("batch.positions", batch.positions, read.tokens())? };
    Ok(read.with_positions(positions.to_vec())?)
}

/// What goes in, and where what comes out is written.
struct InOut {
    hidden: Given,
    out: Given,
}

impl InOut {
    /// # Safety
    /// `mla.h`'s contract.
    unsafe fn read<L: Library>(hidden: *const CTensor, out: *const CTensor) -> Result<Self, Fault> {
        // SAFETY: this function's contract, here and below
        let hidden = unsafe { Given::read("hidden", hidden)? };
        // SAFETY: as above
        let out = unsafe { Given::read("out", out)? };
        let rows = hidden.rows()?.rows;
        for given in [&hidden, &out] {
            given.of_type(L::Elem::NAME)?;
            let lines = given.rows()?;
            if (lines.rows, lines.width) != (rows, L::HIDDEN_SIZE) {
                return Err(given.refused(format!(
                    "has shape {:?}, wanted {rows} rows of {}",
                    given.shape,
                    L::HIDDEN_SIZE
                )));
            }
        }
        let lines = out.rows()?;
        if lines.rows > 1 && lines.row_stride < lines.width {
            return Err(out.refused(format!("strides {:?}: its rows overlap", out.strides)));
        }
        Ok(Self { hidden, out })
    }

    fn run<L: Library>(
        &self,
        layer: &Layer<L>,
        run: impl FnOnce(&Tensor<Cuda<L::Elem>>) -> Outcome<L>,
    ) -> Result<(), Fault> {
        let device = &layer.device;
        let lines = self.hidden.rows()?;
        // SAFETY: the caller's memory holds these numbers until the work is done, as `mla.h` demands
        let buffer = unsafe { self.hidden.buffer::<L::Elem>(device) };
        let buffer = match lines.are_tight() {
            true => buffer,
            false => Cuda::<L::Elem>::copy(device, lines.of(&buffer))?,
        };
        let hidden = Tensor {
            device: device.clone(),
            buffer,
            rows: lines.rows,
            width: lines.width,
        };
        let result = match self.target()? {
            // SAFETY: the caller's memory may be written by then, as `mla.h` demands, and what is read, weights and caches and `hidden`, is not in it
            Some(target) => unsafe { device.with_target(target, || run(&hidden)) },
            None => run(&hidden),
        };
        self.deliver::<L>(device, &result?)
    }

    /// Where a result may be written at once: rows without gaps, and apart from what goes in.
    fn target(&self) -> Result<Option<Target>, Fault> {
        let place = |given: &Given| -> Result<Target, Fault> {
            let lines = given.rows()?;
            let last = lines.rows.saturating_sub(1) * lines.row_stride;
            Ok(Target {
                at: given.at,
                bytes: (last + lines.width) * given.bytes,
            })
        };
        let [hidden, out] = [place(&self.hidden)?, place(&self.out)?];
        let end = |target: &Target| target.at + target.bytes as Address;
        let is_apart = end(&hidden) <= out.at || end(&out) <= hidden.at;
        let lines = self.out.rows()?;
        let takes = lines.rows > 0 && lines.are_tight() && is_apart;
        Ok(takes.then_some(out))
    }

    /// Copies a result to where it is wanted, if it is not there.
    fn deliver<L: Library>(
        &self,
        device: &CudaDevice,
        result: &Tensor<Cuda<L::Elem>>,
    ) -> Result<(), Fault> {
        let lines = self.out.rows()?;
        if lines.rows == 0 || result.buffer.at() == self.out.at {
            return Ok(());
        }
        // Each row with the gap behind it: nothing is written there, so that the last one need not be in the caller's memory
        let stride = if lines.are_tight() {
            lines.width
        } else {
            lines.row_stride
        };
        // SAFETY: rows as wide as these are in the caller's memory, as `mla.h` demands
        let mut out: CudaBuffer<L::Elem> =
            unsafe { CudaBuffer::borrowed(device, self.out.at, lines.rows * stride) };
        if lines.are_tight() {
            return Ok(device.copy_to(&result.buffer, &out)?);
        }
        let all: Vec<Option<usize>> = (0..lines.rows).map(Some).collect();
        let place = Place {
            stride,
            offset: 0,
            head_stride: 0,
        };
        let rows = Lines {
            row_stride: lines.width,
            ..lines
        };
        let rows = rows.of(&result.buffer);
        Ok(Cuda::<L::Elem>::scatter(
            device, rows, &mut out, &all, place,
        )?)
    }
}
