//! Steps: commands that were written down once.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

use super::Library;
use super::arguments::{CBatch, Cached, CachedPhase, Whole};
use super::calls::{Cache, Layer, freed, of_caller};
use super::fault::{Fault, guarded};
use super::pointers::{handed_out, handle, taken_back};
use super::tensor::CTensor;
use crate::cuda::{CudaDevice, Prepared};

/// `mla_step`.
pub struct Step {
    prepared: Prepared,
    /// Holds what the commands name.
    _keeps: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Step {
    /// Writes down what `work` asks of a device; what is kept lives as long as the step.
    pub(super) fn record<R>(
        device: &CudaDevice,
        keeps: Vec<Arc<dyn Any + Send + Sync>>,
        work: impl FnOnce() -> Result<R, Fault>,
    ) -> Result<Self, Fault> {
        Ok(Self {
            prepared: device.prepare(work)?,
            _keeps: keeps,
        })
    }
}

/// `mla_step_forward`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn step_forward<L: Library>(
    layer: *const Layer<L>,
    hidden: *const CTensor,
    positions: *const u32,
    ends: *const u32,
    sequences: i64,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let layer = unsafe { handle("layer", layer)? };
        // SAFETY: as above
        let call = unsafe { Whole::read::<L>(hidden, positions, ends, sequences, out)? };
        let record = || Step::record(&layer.device, vec![layer.clone()], || call.run(&layer));
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// `mla_step_prefill`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn step_prefill<L: Library>(
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    // SAFETY: this function's contract
    unsafe { cached(Cached::prefill, layer, cache, batch, hidden, out, step) }
}

/// `mla_step_decode`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn step_decode<L: Library>(
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    // SAFETY: this function's contract
    unsafe { cached(Cached::decode, layer, cache, batch, hidden, out, step) }
}

/// `mla_step_mixed`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn step_mixed<L: Library>(
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    // SAFETY: this function's contract
    unsafe { cached(Cached::mixed, layer, cache, batch, hidden, out, step) }
}

/// # Safety
/// `mla.h`'s contract.
unsafe fn cached<L: Library>(
    run: CachedPhase<L>,
    layer: *const Layer<L>,
    cache: *const Cache<L>,
    batch: *const CBatch,
    hidden: *const CTensor,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let layer = unsafe { handle("layer", layer)? };
        // SAFETY: as above
        let cache = unsafe { handle("cache", cache)? };
        // SAFETY: as above
        let call = unsafe { Cached::read::<L>(batch, hidden, out)? };
        let record = || {
            Step::record(&layer.device, vec![layer.clone(), cache.clone()], || {
                run(&call, &layer, &cache)
            })
        };
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// `mla_step_run`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn step_run(step: *const Step, stream: *mut c_void) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let step = unsafe { handle("step", step)? };
        // SAFETY: as above
        unsafe { step.prepared.run_in(of_caller(stream))? };
        Ok(())
    })
}

/// `mla_step_free`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn step_free(step: *const Step) -> i32 {
    // SAFETY: this function's contract
    freed(|| unsafe { taken_back(step) })
}
