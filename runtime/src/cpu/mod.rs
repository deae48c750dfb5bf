//! The CPU backend: the `gemm` crate for large products, hand-written loops that vectorise for the rest, rayon across both.

mod attention;
mod bytes;
mod compiled;
mod dot;
mod elementwise;
mod gemm;
mod gradients;
mod ground;
mod hadamard;
mod index_loss;
mod indexer;
mod keys;
mod linear;
mod memory;
mod merge;
mod norm;
mod pages;
mod parameters;
mod pool;
mod rotate;
mod simd;
mod skinny;

use std::any::{Any, TypeId};
use std::marker::PhantomData;

use rayon::prelude::*;

use crate::backend::{
    Attention, AttentionBackward, AttentionParts, Backend, HeadMatrices, IndexLoss, IndexLossParts,
    Indexing, Landings, Parts, PartsMut, Place, Pooling, Rotation, Strided,
};
use crate::cache::{ByteFormat, EntryShape};
use crate::element::{Element, Real, Scalar};
use crate::error::{Error, Result};

pub use compiled::CpuElement;
pub(crate) use gradients::CpuGradients;
pub(crate) use parameters::CpuParameters;

/// The CPU, computing in `T`: `f32`, `f64`, or `bf16` (every result rounded to bf16, sums in f32).
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu<T: Element = f32>(PhantomData<T>);

/// The CPU as a device. It has no state: the number of threads is that of the current rayon pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDevice {
    _room_for_state: (),
}

impl CpuDevice {
    /// The CPU.
    pub const fn new() -> Self {
        Self {
            _room_for_state: (),
        }
    }
}

/// Work smaller than this many operations is not worth a second thread.
const PARALLEL_WORK: usize = 1 << 16;

impl<T: CpuElement> Backend for Cpu<T> {
    type Elem = T;
    type Device = CpuDevice;
    type Buffer<S: Scalar> = Vec<S>;
    type Indices = Vec<i32>;
    type Bytes = Vec<u8>;
    type Gradients = Self;
    type Memory = Self;
    type Parameters = Self;

    fn upload<S: Scalar>(_: &CpuDevice, values: Vec<S>) -> Result<Vec<S>> {
        if !pages::worthwhile::<S>(values.len()) {
            return Ok(values);
        }
        // Copied once, because it will be read often, and memory that is in use can't change its pages
        let mut uploaded = with_room(values.len())?;
        uploaded.extend_from_slice(&values);
        Ok(uploaded)
    }

    fn zeros<S: Scalar>(_: &CpuDevice, len: usize) -> Result<Vec<S>> {
        zeros(len)
    }

    fn download<S: Scalar>(_: &CpuDevice, buffer: &Vec<S>) -> Result<Vec<S>> {
        Ok(buffer.clone())
    }

    fn upload_indices(_: &CpuDevice, indices: Vec<i32>) -> Result<Vec<i32>> {
        Ok(indices)
    }

    fn download_indices(_: &CpuDevice, indices: &Vec<i32>) -> Result<Vec<i32>> {
        Ok(indices.clone())
    }

    unsafe fn lend<S: Scalar>(_: &CpuDevice, buffer: &Vec<S>) -> Result<Vec<S>> {
        let mut out = with_room(buffer.len())?;
        out.extend_from_slice(buffer);
        Ok(out)
    }

    fn copy<S: Scalar>(_: &CpuDevice, x: Strided<'_, Self, S>) -> Result<Vec<S>> {
        let mut out = with_room(x.rows * x.heads * x.width)?;
        for row in 0..x.rows {
            for head in 0..x.heads {
                out.extend_from_slice(part(&x, row, head));
            }
        }
        Ok(out)
    }

    fn linear(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        weight: &Vec<T>,
        bias: Option<&Vec<T>>,
        out: usize,
    ) -> Result<Vec<T>> {
        T::linear(x, weight, bias.map(Vec::as_slice), out)
    }

    fn fp8_linear(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        weight: &Vec<u8>,
        bias: Option<&Vec<T>>,
        out: usize,
    ) -> Result<Vec<T>> {
        T::fp8_linear(x, weight, bias.map(Vec::as_slice), out)
    }

    fn head_product(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        weight: &Vec<T>,
        matrices: HeadMatrices,
    ) -> Result<Vec<T>> {
        T::head_product(x, weight, matrices)
    }

    fn accum_linear(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        weight: &Vec<T::Accum>,
        bias: Option<&Vec<T::Accum>>,
        out: usize,
    ) -> Result<Vec<T::Accum>> {
        T::accum_linear(x, weight, bias.map(Vec::as_slice), out)
    }

    fn rms_norm(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        gamma: Option<&Vec<T>>,
        eps: f64,
    ) -> Result<Vec<T>> {
        Ok(T::norm(x, gamma.map(Vec::as_slice), None, eps))
    }

    fn layer_norm(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        gamma: &Vec<T>,
        beta: &Vec<T>,
        eps: f64,
    ) -> Result<Vec<T>> {
        Ok(T::norm(x, Some(gamma), Some(beta), eps))
    }

    fn rotate(
        _: &CpuDevice,
        x: &mut Vec<T>,
        heads: usize,
        width: usize,
        rotation: &Rotation<'_, Self>,
    ) -> Result<()> {
        T::rotate(x, heads, width, rotation);
        Ok(())
    }

    fn widened(_: &CpuDevice, x: Strided<'_, Self, T>) -> Result<Vec<T::Accum>> {
        T::widened(x)
    }

    fn scale(_: &CpuDevice, x: &mut Vec<T>, by: f64) -> Result<()> {
        T::scale(x, by);
        Ok(())
    }

    fn scale_accum(_: &CpuDevice, x: &mut Vec<T::Accum>, by: f64) -> Result<()> {
        let by = T::Accum::from_f64(by);
        for x in x {
            *x *= by;
        }
        Ok(())
    }

    fn scale_parts(
        _: &CpuDevice,
        x: &mut Vec<T>,
        factors: &Vec<T::Accum>,
        width: usize,
    ) -> Result<()> {
        T::scale_parts(x, factors, width);
        Ok(())
    }

    fn gate_parts(
        _: &CpuDevice,
        x: &mut Vec<T>,
        gates: &Vec<T::Accum>,
        width: usize,
    ) -> Result<()> {
        T::gate_parts(x, gates, width);
        Ok(())
    }

    fn gate(_: &CpuDevice, x: &mut Vec<T>, gates: Strided<'_, Self, T>) -> Result<()> {
        T::gate(x, gates);
        Ok(())
    }

    fn silu(_: &CpuDevice, x: &mut Vec<T>) -> Result<()> {
        T::silu(x);
        Ok(())
    }

    fn hadamard(_: &CpuDevice, x: &mut Vec<T>, width: usize) -> Result<()> {
        T::hadamard(x, width);
        Ok(())
    }

    fn concat(
        _: &CpuDevice,
        left: Strided<'_, Self, T>,
        right: Strided<'_, Self, T>,
    ) -> Result<Vec<T>> {
        let mut out = with_room(left.rows * (left.width + right.width))?;
        for row in 0..left.rows {
            out.extend_from_slice(part(&left, row, 0));
            out.extend_from_slice(part(&right, row, 0));
        }
        Ok(out)
    }

    fn attend<E: Scalar>(
        _: &CpuDevice,
        attention: &Attention<'_, Self, E>,
    ) -> Result<AttentionParts<Self>> {
        compiled::attend(attention)
    }

    fn attend_backward(
        _: &CpuDevice,
        backward: &AttentionBackward<'_, Self>,
        landings: &Landings,
        into: &mut [Vec<T::Accum>],
    ) -> Result<()> {
        T::attend_backward(backward, landings, into)
    }

    fn bias_backward(
        _: &CpuDevice,
        backward: &AttentionBackward<'_, Self>,
        into: &mut Vec<T::Accum>,
    ) -> Result<()> {
        T::bias_backward(backward, into);
        Ok(())
    }

    fn index_select<E: Scalar>(
        _: &CpuDevice,
        indexing: &Indexing<'_, Self, E>,
        most: usize,
    ) -> Result<Vec<i32>> {
        compiled::index_select(indexing, most)
    }

    fn pool_keys(_: &CpuDevice, pooling: &Pooling<'_, Self>) -> Result<Vec<T>> {
        Ok(T::pool_keys(pooling))
    }

    fn index_scores(
        _: &CpuDevice,
        indexing: &Indexing<'_, Self, T>,
        width: usize,
    ) -> Result<Vec<T::Accum>> {
        T::index_scores(indexing, width)
    }

    fn index_loss(_: &CpuDevice, loss: &IndexLoss<'_, Self>) -> Result<IndexLossParts<Self>> {
        T::index_loss(loss)
    }

    fn merge(
        _: &CpuDevice,
        into: PartsMut<'_, Self>,
        other: Parts<'_, Self>,
        width: usize,
    ) -> Result<()> {
        T::merge(into, other, width);
        Ok(())
    }

    fn sink(
        _: &CpuDevice,
        out: &mut Vec<T::Accum>,
        lse: &mut Vec<T::Accum>,
        sinks: Option<&Vec<T::Accum>>,
        width: usize,
    ) -> Result<()> {
        T::sink(out, lse, sinks.map(Vec::as_slice), width);
        Ok(())
    }

    fn sink_backward(
        _: &CpuDevice,
        sinks: &Vec<T::Accum>,
        out: Strided<'_, Self, T>,
        lse: &Vec<T::Accum>,
        d_out: Strided<'_, Self, T>,
        into: &mut Vec<T::Accum>,
    ) -> Result<()> {
        T::sink_backward(sinks, out, lse, d_out, into);
        Ok(())
    }

    fn round(_: &CpuDevice, values: Vec<T::Accum>) -> Result<Vec<T>> {
        Ok(T::round(values))
    }

    fn scatter<E: Scalar>(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        cache: &mut Vec<E>,
        slots: &[Option<usize>],
        place: Place,
    ) -> Result<()> {
        for (row, slot) in slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            for head in 0..x.heads {
                let start = slot * place.stride + place.offset + head * place.head_stride;
                for (to, &from) in cache[start..start + x.width]
                    .iter_mut()
                    .zip(part(&x, row, head))
                {
                    *to = T::Accum::load(from).store();
                }
            }
        }
        Ok(())
    }

    fn gather<E: Scalar>(
        _: &CpuDevice,
        cache: &Vec<E>,
        slots: &[usize],
        place: Place,
        width: usize,
    ) -> Result<Vec<T>> {
        let mut out = zeros(slots.len() * width)?;
        if width == 0 {
            return Ok(out);
        }
        out.par_chunks_mut(width)
            .with_min_len(64)
            .zip(slots)
            .for_each(|(to, slot)| {
                let start = slot * place.stride + place.offset;
                for (to, &from) in to.iter_mut().zip(&cache[start..start + width]) {
                    *to = T::Accum::load(from).store();
                }
            });
        Ok(out)
    }

    fn zero_bytes(_: &CpuDevice, len: usize) -> Result<Vec<u8>> {
        bytes::zeros(len)
    }

    fn upload_bytes(_: &CpuDevice, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes)
    }

    fn download_bytes(_: &CpuDevice, bytes: &Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes.clone())
    }

    fn encode<F: ByteFormat>(
        _: &CpuDevice,
        format: F,
        bytes: &mut Vec<u8>,
        shape: EntryShape,
        slots: &[Option<usize>],
        latent: Strided<'_, Self, T>,
        rope: Strided<'_, Self, T>,
    ) -> Result<()> {
        bytes::encode(format, bytes, shape, slots, latent, rope);
        Ok(())
    }

    fn decode<F: ByteFormat>(
        _: &CpuDevice,
        format: F,
        bytes: &Vec<u8>,
        shape: EntryShape,
        slots: &[usize],
    ) -> Result<[Vec<T>; 2]> {
        bytes::decode(format, bytes, shape, slots)
    }
}

/// `len` zeros, or an error where there is no room for them.
fn zeros<S: Scalar>(len: usize) -> Result<Vec<S>> {
    let mut values = with_room(len)?;
    values.resize(len, S::default());
    Ok(values)
}

/// Room for `len` values, or an error where there is none.
fn with_room<S: Scalar>(len: usize) -> Result<Vec<S>> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(len)
        .map_err(|_| Error::Device(format!("no room for {len} values of type {}", S::NAME)))?;
    pages::ask(&mut values);
    Ok(values)
}

/// The values of one row and head of a window.
#[inline(always)]
fn part<'a, T: CpuElement, S: Scalar>(
    x: &Strided<'a, Cpu<T>, S>,
    row: usize,
    head: usize,
) -> &'a [S] {
    let start = x.offset + row * x.row_stride + head * x.head_stride;
    // An empty window may stand behind the last value of its buffer
    if x.width == 0 {
        &[]
    } else {
        &x.buffer[start..start + x.width]
    }
}

/// `values` as another type, when it is the same type.
fn same<S: Scalar, D: Scalar>(values: &[S]) -> Option<&[D]> {
    (TypeId::of::<S>() == TypeId::of::<D>()).then(|| bytemuck::cast_slice(values))
}

/// A vector as another type, when it is the same type.
fn same_vec<S: Scalar, D: Scalar>(values: Vec<S>) -> std::result::Result<Vec<D>, Vec<S>> {
    let mut values = Some(values);
    match (&mut values as &mut dyn Any)
        .downcast_mut::<Option<Vec<D>>>()
        .and_then(Option::take)
    {
        Some(same) => Ok(same),
        None => Err(values.unwrap_or_default()),
    }
}

/// Accumulators rounded to the element type; free where both are the same type.
fn rounded<T: CpuElement>(values: Vec<T::Accum>) -> Vec<T> {
    same_vec(values).unwrap_or_else(|values| {
        values
            .into_par_iter()
            .with_min_len(PARALLEL_WORK)
            .map(Real::store)
            .collect()
    })
}
