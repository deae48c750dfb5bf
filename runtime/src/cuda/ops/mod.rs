//! [`Backend`]'s operations as kernels and products.

mod args;
mod attention;
mod attention_backward;
mod attention_cut;
mod attention_tables;
mod bytes;
mod choosers;
mod decode;
mod entries;
mod facts;
mod few_heads;
mod few_rows;
mod flash;
mod fp8_weights;
mod gradients;
mod indexing;
mod limits;
mod line;
mod norms;
mod output;
mod parameters;
mod pointwise;
mod products;
mod prologue;
mod random;
mod rounded;
mod widened;

use bytemuck::{Pod, Zeroable};

use super::driver::Address;
use super::kernels::Kernel;
use super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use crate::backend::{
    Accum, Attention, AttentionBackward, AttentionParts, Backend, BytesAttention, BytesIndexing,
    Cubin, HeadMatrices, IndexLoss, IndexLossParts, Indexing, KernelSource, Landings, Parts,
    PartsMut, Place, Pooling, Rotation, Strided,
};
use crate::cache::{ByteFormat, CacheFormat, EntryShape, Prologue, PrologueParts};
use crate::element::Scalar;
use crate::error::Result;
use crate::weights::generator::Recipe;

pub(crate) use attention_backward::{Wanted, gradients_to};
pub(super) use decode::Schedules;
pub(crate) use indexing::{AskedLogits, GivenKeys, Scores, choose, logits_of};
#[cfg(test)]
pub(super) use indexing::{Spread, choose_spread};
pub(crate) use pointwise::narrow_to;
pub(crate) use rounded::{attend_bytes_to, attend_counted_to, attend_to, attend_with_lse};

/// What `poison.cuh` is told.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Poison {
    sink: Address,
    pattern: u64,
}

impl CudaDevice {
    /// Leaves a pattern in the shared memory of every multiprocessor: what kernels compute must not depend on it. Takes the kernels
    /// `poison`.
    ///
    /// # Errors
    /// There are no such kernels, or the device refuses.
    #[doc(hidden)]
    pub fn poison_shared_memory(&self, pattern: u32) -> Result<()> {
        let sink = self.zeros::<u32>(1)?;
        let kernel = Kernel::of::<f32>("poison", "poison", &[]);
        let args = Poison {
            sink: sink.at(),
            pattern: u64::from(pattern),
        };
        // Several blocks of 48 KB for each
        let grid = [self.multiprocessors() as usize * 8, 1, 1];
        self.launch(&kernel, grid, Work::default(), &args)
    }
}

impl<T: CudaElement> Backend for Cuda<T> {
    const READS_BYTES: bool = true;

    type Elem = T;
    type Device = CudaDevice;
    type Buffer<S: Scalar> = CudaBuffer<S>;
    type Indices = CudaBuffer<i32>;
    type Bytes = CudaBuffer<u8>;
    type Gradients = Self;
    type Memory = Self;
    type Parameters = Self;

    fn add_kernels(device: &CudaDevice, kernels: &[KernelSource], cubins: &[Cubin]) -> Result<()> {
        device.add_kernels(kernels, cubins);
        Ok(())
    }

    fn generated(
        device: &CudaDevice,
        recipe: &Recipe,
        name: &str,
        len: usize,
    ) -> Result<CudaBuffer<T>> {
        random::generated(device, recipe, name, len)
    }

    fn upload<S: Scalar>(device: &CudaDevice, values: Vec<S>) -> Result<CudaBuffer<S>> {
        device.upload(&values)
    }

    fn zeros<S: Scalar>(device: &CudaDevice, len: usize) -> Result<CudaBuffer<S>> {
        device.zeros(len)
    }

    fn download<S: Scalar>(device: &CudaDevice, buffer: &CudaBuffer<S>) -> Result<Vec<S>> {
        device.download(buffer)
    }

    fn upload_indices(device: &CudaDevice, indices: Vec<i32>) -> Result<CudaBuffer<i32>> {
        device.upload(&indices)
    }

    fn download_indices(device: &CudaDevice, indices: &CudaBuffer<i32>) -> Result<Vec<i32>> {
        device.download(indices)
    }

    unsafe fn lend<S: Scalar>(
        device: &CudaDevice,
        buffer: &CudaBuffer<S>,
    ) -> Result<CudaBuffer<S>> {
        // SAFETY: this function's contract; work that was queued with the memory comes before whatever has it next
        Ok(unsafe { CudaBuffer::borrowed(device, buffer.at(), buffer.len()) })
    }

    fn copy<S: Scalar>(device: &CudaDevice, x: Strided<'_, Self, S>) -> Result<CudaBuffer<S>> {
        pointwise::copy(device, &x)
    }

    fn linear(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        weight: &CudaBuffer<T>,
        bias: Option<&CudaBuffer<T>>,
        out: usize,
    ) -> Result<CudaBuffer<T>> {
        products::linear(device, &x, weight, bias, out)
    }

    fn fp8_linear(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        weight: &CudaBuffer<u8>,
        bias: Option<&CudaBuffer<T>>,
        out: usize,
    ) -> Result<CudaBuffer<T>> {
        fp8_weights::linear(device, &x, weight, bias, out)
    }

    fn head_product(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        weight: &CudaBuffer<T>,
        matrices: HeadMatrices,
    ) -> Result<CudaBuffer<T>> {
        products::head_product(device, &x, weight, matrices)
    }

    fn accum_linear(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        weight: &CudaBuffer<T::Accum>,
        bias: Option<&CudaBuffer<T::Accum>>,
        out: usize,
    ) -> Result<CudaBuffer<T::Accum>> {
        products::linear(device, &x, weight, bias, out)
    }

    fn rms_norm(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        gamma: Option<&CudaBuffer<T>>,
        eps: f64,
    ) -> Result<CudaBuffer<T>> {
        norms::norm(device, &x, gamma, None, eps)
    }

    fn layer_norm(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        gamma: &CudaBuffer<T>,
        beta: &CudaBuffer<T>,
        eps: f64,
    ) -> Result<CudaBuffer<T>> {
        norms::norm(device, &x, Some(gamma), Some(beta), eps)
    }

    fn rotate(
        device: &CudaDevice,
        x: &mut CudaBuffer<T>,
        heads: usize,
        width: usize,
        rotation: &Rotation<'_, Self>,
    ) -> Result<()> {
        norms::rotate(device, x, heads, width, rotation)
    }

    fn widened(device: &CudaDevice, x: Strided<'_, Self, T>) -> Result<CudaBuffer<T::Accum>> {
        pointwise::widened(device, &x)
    }

    fn scale(device: &CudaDevice, x: &mut CudaBuffer<T>, by: f64) -> Result<()> {
        pointwise::scale(device, x, by)
    }

    fn scale_accum(device: &CudaDevice, x: &mut CudaBuffer<T::Accum>, by: f64) -> Result<()> {
        pointwise::scale_accum::<T>(device, x, by)
    }

    fn scale_parts(
        device: &CudaDevice,
        x: &mut CudaBuffer<T>,
        factors: &CudaBuffer<T::Accum>,
        width: usize,
    ) -> Result<()> {
        pointwise::parts(device, "scale_parts", x, factors, width)
    }

    fn gate_parts(
        device: &CudaDevice,
        x: &mut CudaBuffer<T>,
        gates: &CudaBuffer<T::Accum>,
        width: usize,
    ) -> Result<()> {
        pointwise::parts(device, "gate_parts", x, gates, width)
    }

    fn gate(device: &CudaDevice, x: &mut CudaBuffer<T>, gates: Strided<'_, Self, T>) -> Result<()> {
        pointwise::gate(device, x, &gates)
    }

    fn silu(device: &CudaDevice, x: &mut CudaBuffer<T>) -> Result<()> {
        pointwise::silu(device, x)
    }

    fn hadamard(device: &CudaDevice, x: &mut CudaBuffer<T>, width: usize) -> Result<()> {
        pointwise::hadamard(device, x, width)
    }

    fn concat(
        device: &CudaDevice,
        left: Strided<'_, Self, T>,
        right: Strided<'_, Self, T>,
    ) -> Result<CudaBuffer<T>> {
        pointwise::concat(device, &left, &right)
    }

    fn attend<E: Scalar>(
        device: &CudaDevice,
        attention: &Attention<'_, Self, E>,
    ) -> Result<AttentionParts<Self>> {
        attention::attend(device, attention)
    }

    fn attend_rounded<E: Scalar>(
        device: &CudaDevice,
        attention: &Attention<'_, Self, E>,
    ) -> Result<CudaBuffer<T>> {
        rounded::attend_rounded(device, attention)
    }

    fn attend_backward(
        device: &CudaDevice,
        backward: &AttentionBackward<'_, Self>,
        landings: &Landings,
        into: &mut [CudaBuffer<Accum<Self>>],
    ) -> Result<()> {
        attention_backward::attend_backward(device, backward, landings, into)
    }

    fn attention_gradients(
        device: &CudaDevice,
        backward: &AttentionBackward<'_, Self>,
        landings: &Landings,
        lens: &[usize],
    ) -> Result<Vec<CudaBuffer<T>>> {
        attention_backward::gradients(device, backward, landings, lens)
    }

    fn bias_backward(
        device: &CudaDevice,
        backward: &AttentionBackward<'_, Self>,
        into: &mut CudaBuffer<Accum<Self>>,
    ) -> Result<()> {
        attention_backward::bias_backward(device, backward, into)
    }

    fn index_select<E: Scalar>(
        device: &CudaDevice,
        indexing: &Indexing<'_, Self, E>,
        most: usize,
    ) -> Result<CudaBuffer<i32>> {
        indexing::select(device, indexing, most)
    }

    fn index_select_bytes<F: ByteFormat>(
        device: &CudaDevice,
        format: F,
        bytes: &CudaBuffer<u8>,
        shape: EntryShape,
        indexing: &BytesIndexing<'_, Self>,
        most: usize,
    ) -> Result<Option<CudaBuffer<i32>>> {
        indexing::select_bytes(device, format.coding(), (bytes, shape), indexing, most)
    }

    fn pool_keys(device: &CudaDevice, pooling: &Pooling<'_, Self>) -> Result<CudaBuffer<T>> {
        indexing::pool_keys(device, pooling)
    }

    fn index_scores(
        device: &CudaDevice,
        indexing: &Indexing<'_, Self, T>,
        width: usize,
    ) -> Result<CudaBuffer<Accum<Self>>> {
        indexing::scores(device, indexing, width)
    }

    fn index_loss(device: &CudaDevice, loss: &IndexLoss<'_, Self>) -> Result<IndexLossParts<Self>> {
        indexing::loss(device, loss)
    }

    fn merge(
        device: &CudaDevice,
        into: PartsMut<'_, Self>,
        other: Parts<'_, Self>,
        width: usize,
    ) -> Result<()> {
        attention::merge(device, into, other, width)
    }

    fn sink(
        device: &CudaDevice,
        out: &mut CudaBuffer<T::Accum>,
        lse: &mut CudaBuffer<T::Accum>,
        sinks: Option<&CudaBuffer<T::Accum>>,
        width: usize,
    ) -> Result<()> {
        attention::sink::<T>(device, out, lse, sinks, width)
    }

    fn sink_backward(
        device: &CudaDevice,
        sinks: &CudaBuffer<T::Accum>,
        out: Strided<'_, Self, T>,
        lse: &CudaBuffer<T::Accum>,
        d_out: Strided<'_, Self, T>,
        into: &mut CudaBuffer<T::Accum>,
    ) -> Result<()> {
        attention_backward::sink_backward(device, sinks, &out, lse, &d_out, into)
    }

    fn round(device: &CudaDevice, values: CudaBuffer<T::Accum>) -> Result<CudaBuffer<T>> {
        pointwise::narrowed(device, &values)
    }

    fn scatter<E: Scalar>(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        cache: &mut CudaBuffer<E>,
        slots: &[Option<usize>],
        place: Place,
    ) -> Result<()> {
        entries::scatter(device, &x, cache, slots, place)
    }

    fn gather<E: Scalar>(
        device: &CudaDevice,
        cache: &CudaBuffer<E>,
        slots: &[usize],
        place: Place,
        width: usize,
    ) -> Result<CudaBuffer<T>> {
        entries::gather(device, cache, slots, place, width)
    }

    fn prologue<F: CacheFormat, I: CacheFormat>(
        device: &CudaDevice,
        prologue: Prologue<'_, Self, F, I>,
    ) -> Result<Option<PrologueParts<Self>>> {
        prologue::prologue(device, &prologue)
    }

    fn zero_bytes(device: &CudaDevice, len: usize) -> Result<CudaBuffer<u8>> {
        device.zeros(len)
    }

    fn upload_bytes(device: &CudaDevice, bytes: Vec<u8>) -> Result<CudaBuffer<u8>> {
        device.upload(&bytes)
    }

    fn download_bytes(device: &CudaDevice, bytes: &CudaBuffer<u8>) -> Result<Vec<u8>> {
        device.download(bytes)
    }

    fn encode<F: ByteFormat>(
        device: &CudaDevice,
        format: F,
        bytes: &mut CudaBuffer<u8>,
        shape: EntryShape,
        slots: &[Option<usize>],
        latent: Strided<'_, Self, T>,
        rope: Strided<'_, Self, T>,
    ) -> Result<()> {
        bytes::encode(device, format, bytes, shape, slots, [&latent, &rope])
    }

    fn attend_bytes<F: ByteFormat>(
        device: &CudaDevice,
        format: F,
        bytes: &CudaBuffer<u8>,
        shape: EntryShape,
        attention: &BytesAttention<'_, Self>,
    ) -> Result<Option<AttentionParts<Self>>> {
        attention::attend_bytes(device, format, bytes, shape, attention)
    }

    fn attend_bytes_rounded<F: ByteFormat>(
        device: &CudaDevice,
        format: F,
        bytes: &CudaBuffer<u8>,
        shape: EntryShape,
        attention: &BytesAttention<'_, Self>,
    ) -> Result<Option<CudaBuffer<T>>> {
        rounded::attend_bytes_rounded(device, format, bytes, shape, attention)
    }

    fn decode<F: ByteFormat>(
        device: &CudaDevice,
        format: F,
        bytes: &CudaBuffer<u8>,
        shape: EntryShape,
        slots: &[usize],
    ) -> Result<[CudaBuffer<T>; 2]> {
        bytes::decode(device, format, bytes, shape, slots)
    }
}
