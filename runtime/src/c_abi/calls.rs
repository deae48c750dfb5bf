//! Devices, layers and caches, and a layer's functions between what a caller's stream holds and what it gets later.

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::{Fault, guarded};
use super::pointers::{array, handed_out, handle, named, taken_back, text};
use super::tensor::{CNamedTensor, CTensor, Given};
use super::{AnyCache, Library};
use crate::backend::{Backend, Place};
use crate::cuda::{Cuda, CudaBuffer, CudaDevice, ForeignStream};
use crate::element::Scalar;
use crate::{Batch, Mask, Sequence, Tensor, Weights};

/// `mla_device`, with a library's kernels.
#[derive(Debug)]
pub struct Device<L> {
    pub(super) device: CudaDevice,
    library: PhantomData<fn() -> L>,
}

/// `mla_layer`.
#[derive(Debug)]
pub struct Layer<L> {
    pub(super) device: CudaDevice,
    pub(super) layer: L,
}

/// `mla_cache`.
pub struct Cache<L> {
    device: CudaDevice,
    cache: Mutex<AnyCache>,
    library: PhantomData<fn() -> L>,
}

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

/// The ordinal that stands for the host emulating a GPU.
const EMULATED: i32 = -1;

/// `mla_device_open`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn device_open<L: Library>(ordinal: i32, device: *mut *const Device<L>) -> i32 {
    guarded(|| {
        let open = || {
            let device = match (ordinal, usize::try_from(ordinal)) {
                (EMULATED, _) => CudaDevice::emulated(),
                (_, Ok(ordinal)) => CudaDevice::gpu(ordinal)?,
                (_, Err(_)) => {
                    return Err(Fault::argument(
                        "ordinal",
                        format!(
                            "is {ordinal}, wanted a GPU's, counted from 0, or {EMULATED}: the host emulates one"
                        ),
                    ));
                }
            };
            L::prepare(&device)?;
            Ok(Device {
                device,
                library: PhantomData,
            })
        };
        // SAFETY: this function's contract
        unsafe { handed_out("device", device, open) }
    })
}

/// `mla_device_free`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn device_free<L: Library>(device: *const Device<L>) -> i32 {
    // SAFETY: this function's contract
    freed(|| unsafe { taken_back(device) })
}

/// `mla_layer_open`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn layer_open<L: Library>(
    device: *const Device<L>,
    path: *const c_char,
    prefix: *const c_char,
    layer: *mut *const Layer<L>,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = unsafe { handle("device", device)? };
        // SAFETY: as above
        let path = unsafe { text("path", path)? };
        // SAFETY: as above
        let prefix = unsafe { text("prefix", prefix)? };
        let load = || loaded(&device.device, &Weights::open(&path)?, &prefix);
        // SAFETY: as above
        unsafe { handed_out("layer", layer, load) }
    })
}

/// `mla_layer_from_tensors`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn layer_from_tensors<L: Library>(
    device: *const Device<L>,
    tensors: *const CNamedTensor,
    count: i64,
    stream: *mut c_void,
    layer: *mut *const Layer<L>,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let tensors = unsafe { Given::read_named("tensors", tensors, count)? };
        let load = || {
            let read = || -> Result<Weights, Fault> {
                let tensors = tensors.iter().map(|(name, given)| {
                    // SAFETY: as above
                    let (dtype, bytes) = unsafe { elements(device, given)? };
                    Ok((name.clone(), (dtype, given.shape.clone(), bytes)))
                });
                let tensors: Vec<_> = tensors.collect::<Result<_, Fault>>()?;
                Ok(Weights::from_bytes(tensors)?)
            };
            // SAFETY: as above
            let weights = unsafe { device.between(of_caller(stream), read)? };
            loaded(device, &weights, "")
        };
        // SAFETY: as above
        unsafe { handed_out("layer", layer, load) }
    })
}

fn loaded<L: Library>(
    device: &CudaDevice,
    weights: &Weights,
    prefix: &str,
) -> Result<Layer<L>, Fault> {
    Ok(Layer {
        layer: L::load(weights, prefix, device)?,
        device: device.clone(),
    })
}

/// A tensor's number type and its elements, row-major, on the host.
///
/// # Safety
/// The tensor's memory is there.
unsafe fn elements(device: &CudaDevice, given: &Given) -> Result<(String, Vec<u8>), Fault> {
    let mut span = vec![0; given.span * given.bytes];
    // SAFETY: this function's contract
    unsafe { device.download_foreign(given.at, &mut span)? };
    if given.without_gaps().is_err() {
        span = in_order(&span, given);
    }
    // Safetensors has the same names in capitals
    Ok((given.dtype.to_uppercase(), span))
}

/// Elements that lie in some order, row-major.
fn in_order(span: &[u8], given: &Given) -> Vec<u8> {
    let count: usize = given.shape.iter().product();
    let mut ordered = Vec::with_capacity(count * given.bytes);
    let mut index = vec![0; given.shape.len()];
    for _ in 0..count {
        let at: usize = index
            .iter()
            .zip(&given.strides)
            .map(|(i, step)| i * step)
            .sum();
        ordered.extend_from_slice(&span[at * given.bytes..(at + 1) * given.bytes]);
        for (i, &size) in index.iter_mut().zip(&given.shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

/// `mla_layer_free`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn layer_free<L: Library>(layer: *const Layer<L>) -> i32 {
    // SAFETY: this function's contract
    freed(|| unsafe { taken_back(layer) })
}

/// `mla_cache_new`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn cache_new<L: Library>(
    device: *const Device<L>,
    blocks: i64,
    tokens_per_block: i64,
    cache: *mut *const Cache<L>,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = unsafe { handle("device", device)? };
        let blocks = named("blocks", "it", blocks)?;
        let tokens = named("tokens_per_block", "it", tokens_per_block)?;
        let make = || {
            Ok(Cache {
                device: device.device.clone(),
                cache: Mutex::new(L::new_cache(&device.device, blocks, tokens)?),
                library: PhantomData,
            })
        };
        // SAFETY: as above
        unsafe { handed_out("cache", cache, make) }
    })
}

/// `mla_cache_free`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn cache_free<L: Library>(cache: *const Cache<L>) -> i32 {
    // SAFETY: this function's contract
    freed(|| unsafe { taken_back(cache) })
}

impl<L> Cache<L> {
    /// The cache, for one call at a time.
    fn on(&self, device: &CudaDevice) -> Result<MutexGuard<'_, AnyCache>, Fault> {
        if !self.device.is(device) {
            return Err(Fault::argument(
                "cache",
                "is one of another device than the layer",
            ));
        }
        Ok(self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Frees in the caller's context.
pub(super) fn freed(free: impl FnOnce()) -> i32 {
    guarded(|| {
        free();
        Ok(())
    })
}

/// A caller's stream.
pub(super) fn of_caller(stream: *mut c_void) -> ForeignStream {
    ForeignStream(stream as usize)
}

/// `mla_forward`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn forward<L: Library>(
    layer: *const Layer<L>,
    stream: *mut c_void,
    hidden: *const CTensor,
    positions: *const u32,
    ends: *const u32,
    sequences: i64,
    out: *const CTensor,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let layer = unsafe { handle("layer", layer)? };
        // SAFETY: as above
        let call = unsafe { Whole::read::<L>(hidden, positions, ends, sequences, out)? };
        // SAFETY: as above
        unsafe { layer.device.between(of_caller(stream), || call.run(&layer)) }
    })
}

/// `mla_prefill`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn prefill<L: Library>(
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    stream: *mut c_void,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
) -> i32 {
    // SAFETY: this function's contract
    unsafe { cached(Cached::prefill, layer, cache, stream, batch, hidden, out) }
}

/// `mla_decode`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn decode<L: Library>(
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    stream: *mut c_void,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
) -> i32 {
    // SAFETY: this function's contract
    unsafe { cached(Cached::decode, layer, cache, stream, batch, hidden, out) }
}

/// # Safety
/// `mla.h`'s contract.
unsafe fn cached<L: Library>(
    run: fn(&Cached, &Layer<L>, &Cache<L>) -> Result<(), Fault>,
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    stream: *mut c_void,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let layer = unsafe { handle("layer", layer)? };
        // SAFETY: as above
        let cache = unsafe { handle("cache", cache)? };
        // SAFETY: as above
        let call = unsafe { Cached::read::<L>(batch, hidden, out)? };
        let work = || run(&call, &layer, &cache);
        // SAFETY: as above
        unsafe { layer.device.between(of_caller(stream), work) }
    })
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
        run: impl FnOnce(&Tensor<Cuda<L::Elem>>) -> super::Outcome<L>,
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
        self.deliver::<L>(device, &run(&hidden)?)
    }

    /// Copies a result to where it is wanted.
    fn deliver<L: Library>(
        &self,
        device: &CudaDevice,
        result: &Tensor<Cuda<L::Elem>>,
    ) -> Result<(), Fault> {
        let lines = self.out.rows()?;
        if lines.rows == 0 {
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
        let rows = super::tensor::Lines {
            row_stride: lines.width,
            ..lines
        };
        let rows = rows.of(&result.buffer);
        Ok(Cuda::<L::Elem>::scatter(
            device, rows, &mut out, &all, place,
        )?)
    }
}
