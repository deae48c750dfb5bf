//! A generated layer behind a C ABI: what `mla.h` promises, generic over the layer. [`export_layer!`](crate::export_layer) puts C
//! functions of these names into a library, which `mla-gen build --shared` compiles.
//!
//! ```text
//! mla_forward(layer, stream, hidden, …)        waits for `stream` by an event, runs in the device's own stream, `stream` waits for that
//! mla_step_forward(layer, hidden, …, &step)    writes the commands down: memory is allocated and the host's tables are sent now
//! mla_step_run(step, stream)                   queues them in `stream`: legal while that is being captured
//! ```
//!
//! What callers hand over is checked as far as it can be seen: null, number types, shapes, strides, counts. That memory is as long as it
//! is said to be, and that handles are handles, is believed; so the functions are `unsafe`, with one contract for all of them, which
//! `mla.h` states.

mod arguments;
mod calls;
mod chunked;
mod describe;
mod export;
mod fault;
mod latents;
mod logits;
mod operations;
mod pointers;
mod row_gradients;
mod step;
mod tensor;
#[cfg(test)]
mod tests;
mod topk;

use std::any::Any;

use crate::cuda::{Cuda, CudaDevice, CudaElement};
use crate::{Batch, Caches, KvCache, Mask, Result, Tensor, Weights};

pub use arguments::CBatch;
pub use calls::{
    Cache, Device, Layer, cache_free, cache_new, decode, device_free, device_open, forward,
    layer_free, layer_from_tensors, layer_open, mixed, prefill,
};
pub use chunked::attend_chunked;
pub use describe::{CDescription, describe};
pub use fault::{Fault, last_error};
pub use logits::{index_logits, index_logits_paged};
pub use operations::{attend_paged, attend_rows, attend_selected};
pub use row_gradients::{attend_rows_backward, attend_rows_lse};
pub use step::{Step, step_decode, step_forward, step_free, step_mixed, step_prefill, step_run};
pub use tensor::{CNamedTensor, CTensor};
pub use topk::topk;

/// A cache of a layer, in the formats that its spec names.
pub type AnyCache = Box<dyn Any + Send>;

/// What a function of the layer gives.
pub type Outcome<L> = Result<Tensor<Cuda<<L as Library>::Elem>>, Fault>;

/// A generated layer as a library has it. [`export_layer!`](crate::export_layer) implements it.
pub trait Library: Sized + Send + Sync + 'static {
    /// What it computes in.
    type Elem: CudaElement;
    /// Its name, which ends with a 0.
    const NAME: &'static str;
    /// Width of what goes in and comes out.
    const HIDDEN_SIZE: usize;
    /// The phases that it has: 1 is forward, 2 prefill, 4 decode, 8 mixed.
    const PHASES: u32;

    /// Gives a device the kernels of the library's bare operations.
    ///
    /// # Errors
    /// The device refuses.
    fn prepare(device: &CudaDevice) -> Result<()>;

    /// Loads the layer.
    ///
    /// # Errors
    /// As [`Load::load`](crate::Load::load).
    fn load(weights: &Weights, prefix: &str, device: &CudaDevice) -> Result<Self>;

    /// [`Forward::forward_erased`](crate::Forward::forward_erased).
    ///
    /// # Errors
    /// There is no such phase; the layer's own.
    fn forward(
        &self,
        _hidden: &Tensor<Cuda<Self::Elem>>,
        _positions: &[u32],
        _mask: &Mask,
    ) -> Outcome<Self> {
        Err(lacking::<Self>("forward"))
    }

    /// An empty cache.
    ///
    /// # Errors
    /// There is no cached phase; it does not fit in memory.
    fn new_cache(
        _device: &CudaDevice,
        _blocks: usize,
        _tokens_per_block: usize,
    ) -> Result<AnyCache, Fault> {
        Err(lacking::<Self>("prefill"))
    }

    /// [`Prefill::prefill_erased`](crate::Prefill::prefill_erased).
    ///
    /// # Errors
    /// There is no such phase; the layer's own.
    fn prefill(
        &self,
        _cache: &mut AnyCache,
        _batch: &Batch,
        _hidden: &Tensor<Cuda<Self::Elem>>,
    ) -> Outcome<Self> {
        Err(lacking::<Self>("prefill"))
    }

    /// [`Decode::decode_erased`](crate::Decode::decode_erased).
    ///
    /// # Errors
    /// There is no such phase; the layer's own.
    fn decode(
        &self,
        _cache: &mut AnyCache,
        _batch: &Batch,
        _hidden: &Tensor<Cuda<Self::Elem>>,
    ) -> Outcome<Self> {
        Err(lacking::<Self>("decode"))
    }

    /// [`Mixed::mixed_erased`](crate::Mixed::mixed_erased).
    ///
    /// # Errors
    /// There is no such phase; the layer's own.
    fn mixed(
        &self,
        _cache: &mut AnyCache,
        _batch: &Batch,
        _hidden: &Tensor<Cuda<Self::Elem>>,
    ) -> Outcome<Self> {
        Err(lacking::<Self>("mixed"))
    }
}

fn lacking<L: Library>(phase: &'static str) -> Fault {
    Fault::Phase {
        layer: L::NAME.trim_end_matches('\0'),
        phase,
    }
}

/// An empty cache of a layer, in the formats that its spec names.
///
/// # Errors
/// It does not fit in memory.
#[doc(hidden)]
pub fn new_cache<T: CudaElement, L: Caches<Cuda<T>>>(
    device: &CudaDevice,
    blocks: usize,
    tokens_per_block: usize,
) -> Result<AnyCache, Fault> {
    let cache =
        L::Cache::<L::Stored, L::StoredIndex>::with_blocks(device, blocks, tokens_per_block)?;
    Ok(Box::new(cache))
}

/// A cache as its own type.
///
/// # Errors
/// It is of another type.
#[doc(hidden)]
pub fn cache_of<C: 'static>(cache: &mut AnyCache) -> Result<&mut C, Fault> {
    cache
        .downcast_mut()
        .ok_or_else(|| Fault::argument("cache", "is not one of this layer"))
}
