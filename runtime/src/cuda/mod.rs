//! The CUDA backend: kernels that a generated layer brings along, on a GPU or on the host emulating one.

mod buffer;
pub mod ceilings;
mod device;
mod driver;
mod foreign;
mod graph;
mod grid;
mod kernels;
mod ops;
mod options;
mod pool;
mod staging;
mod target;
#[cfg(test)]
mod tests;
mod timing;
mod work;

use std::marker::PhantomData;

use half::bf16;

use crate::cache::CacheElement;
use crate::element::Element;

pub(crate) use driver::{Address, CallersContext, ForeignStream};
pub(crate) use graph::Prepared;
pub(crate) use ops::{
    AskedLogits, GivenKeys, Scores, Wanted, attend_bytes_to, attend_counted_to, attend_to,
    attend_with_lse, choose, gradients_to, logits_of, narrow_to,
};
pub(crate) use target::Target;

pub use buffer::CudaBuffer;
pub use device::{CudaDevice, Statistics, Stopwatch};
pub use graph::CudaGraph;
pub use options::CudaOptions;
pub use timing::TimedCommand;
pub use work::Work;

/// A CUDA device, computing in `T`: `f32`, `f64`, or `bf16` (every result rounded to bf16, sums in f32).
#[derive(Debug, Clone, Copy, Default)]
pub struct Cuda<T: Element = bf16>(PhantomData<T>);

/// What sums of `T` are held in.
type Accum<T> = <T as Element>::Accum;

/// What kernels are compiled for.
pub trait CudaElement: Element + CacheElement {}
impl CudaElement for f32 {}
impl CudaElement for f64 {}
impl CudaElement for bf16 {}
