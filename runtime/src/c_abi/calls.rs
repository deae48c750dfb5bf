//! Devices, layers and caches, and a layer's functions between what a caller's stream holds and what it gets later.

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::arguments::{CBatch, Cached, CachedPhase, Whole};
use super::fault::{Fault, guarded};
use super::pointers::{handed_out, handle, named, taken_back, text};
use super::tensor::{CNamedTensor, CTensor, Given};
use super::{AnyCache, Library};
use crate::Weights;
use crate::cuda::{CudaDevice, CudaOptions, ForeignStream};

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
                (EMULATED, _) => CudaDevice::emulated(CudaOptions::default()),
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
    // Safetensors has the same names in capitals, but of codes
    let name = match given.dtype {
        "e4m3" => "F8_E4M3".to_owned(),
        dtype => dtype.to_uppercase(),
    };
    Ok((name, span))
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
    pub(super) fn on(&self, device: &CudaDevice) -> Result<MutexGuard<'_, AnyCache>, Fault> {
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

/// `mla_mixed`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn mixed<L: Library>(
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    stream: *mut c_void,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
) -> i32 {
    // SAFETY: this function's contract
    unsafe { cached(Cached::mixed, layer, cache, stream, batch, hidden, out) }
}

/// # Safety
/// `mla.h`'s contract.
unsafe fn cached<L: Library>(
    run: CachedPhase<L>,
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
