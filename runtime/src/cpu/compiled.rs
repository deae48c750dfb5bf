//! Kernels compiled in this crate, once per number type.
//!
//! A generic function is compiled by the crate that uses it, at that crate's optimisation level: a layer in somebody's debug build
//! would run every product unoptimised, and every such build would compile the kernels again. [`CpuElement`]'s functions have no
//! type parameters, so they are compiled here, and `mla-runtime` can be optimised for itself.

use std::any::Any;

use half::{bf16, f16};

use super::{
    Cpu, CpuGradients, CpuParameters, attention, elementwise, hadamard, index_loss, indexer,
    linear, merge, norm, pool, rotate, rounded,
};
use crate::backend::{
    Attention, AttentionBackward, AttentionParts, HeadMatrices, IndexLoss, IndexLossParts,
    Indexing, Landings, Parts, PartsMut, Pooling, Rotation, Strided,
};
use crate::element::Scalar;
use crate::error::{Error, Result};

/// What the CPU can compute in, with the kernels of that type. The functions are [`Backend`](crate::Backend)'s.
pub trait CpuElement: CpuGradients + CpuParameters {
    #[doc(hidden)]
    fn linear(
        x: Strided<'_, Cpu<Self>, Self>,
        weight: &[Self],
        bias: Option<&[Self]>,
        out: usize,
    ) -> Result<Vec<Self>>;

    #[doc(hidden)]
    fn fp8_linear(
        x: Strided<'_, Cpu<Self>, Self>,
        weight: &[u8],
        bias: Option<&[Self]>,
        out: usize,
    ) -> Result<Vec<Self>>;

    #[doc(hidden)]
    fn head_product(
        x: Strided<'_, Cpu<Self>, Self>,
        weight: &[Self],
        matrices: HeadMatrices,
    ) -> Result<Vec<Self>>;

    #[doc(hidden)]
    fn accum_linear(
        x: Strided<'_, Cpu<Self>, Self>,
        weight: &[Self::Accum],
        bias: Option<&[Self::Accum]>,
        out: usize,
    ) -> Result<Vec<Self::Accum>>;

    #[doc(hidden)]
    fn widened(x: Strided<'_, Cpu<Self>, Self>) -> Result<Vec<Self::Accum>>;

    #[doc(hidden)]
    fn scale(x: &mut [Self], by: f64);

    #[doc(hidden)]
    fn scale_parts(x: &mut [Self], factors: &[Self::Accum], width: usize);

    #[doc(hidden)]
    fn gate_parts(x: &mut [Self], gates: &[Self::Accum], width: usize);

    #[doc(hidden)]
    fn gate(x: &mut [Self], gates: Strided<'_, Cpu<Self>, Self>);

    #[doc(hidden)]
    fn silu(x: &mut [Self]);

    #[doc(hidden)]
    fn hadamard(x: &mut [Self], width: usize);

    #[doc(hidden)]
    fn norm(
        x: Strided<'_, Cpu<Self>, Self>,
        gamma: Option<&[Self]>,
        beta: Option<&[Self]>,
        eps: f64,
    ) -> Vec<Self>;

    #[doc(hidden)]
    fn rotate(x: &mut [Self], heads: usize, width: usize, rotation: &Rotation<'_, Cpu<Self>>);

    #[doc(hidden)]
    fn merge(into: PartsMut<'_, Cpu<Self>>, other: Parts<'_, Cpu<Self>>, width: usize);

    #[doc(hidden)]
    fn sink(
        out: &mut [Self::Accum],
        lse: &mut [Self::Accum],
        sinks: Option<&[Self::Accum]>,
        width: usize,
    );

    #[doc(hidden)]
    fn sink_backward(
        sinks: &[Self::Accum],
        out: Strided<'_, Cpu<Self>, Self>,
        lse: &[Self::Accum],
        d_out: Strided<'_, Cpu<Self>, Self>,
        into: &mut [Self::Accum],
    );

    #[doc(hidden)]
    fn round(values: Vec<Self::Accum>) -> Vec<Self>;

    #[doc(hidden)]
    fn select_f32(indexing: &Indexing<'_, Cpu<Self>, f32>, most: usize) -> Result<Vec<i32>>;

    #[doc(hidden)]
    fn select_f64(indexing: &Indexing<'_, Cpu<Self>, f64>, most: usize) -> Result<Vec<i32>>;

    #[doc(hidden)]
    fn select_bf16(indexing: &Indexing<'_, Cpu<Self>, bf16>, most: usize) -> Result<Vec<i32>>;

    #[doc(hidden)]
    fn select_f16(indexing: &Indexing<'_, Cpu<Self>, f16>, most: usize) -> Result<Vec<i32>>;

    #[doc(hidden)]
    fn pool_keys(pooling: &Pooling<'_, Cpu<Self>>) -> Vec<Self>;

    #[doc(hidden)]
    fn index_scores(
        indexing: &Indexing<'_, Cpu<Self>, Self>,
        width: usize,
    ) -> Result<Vec<Self::Accum>>;

    #[doc(hidden)]
    fn index_loss(loss: &IndexLoss<'_, Cpu<Self>>) -> Result<IndexLossParts<Cpu<Self>>>;

    #[doc(hidden)]
    fn attend_f32(attention: &Attention<'_, Cpu<Self>, f32>) -> Result<AttentionParts<Cpu<Self>>>;

    #[doc(hidden)]
    fn attend_f64(attention: &Attention<'_, Cpu<Self>, f64>) -> Result<AttentionParts<Cpu<Self>>>;

    #[doc(hidden)]
    fn attend_bf16(attention: &Attention<'_, Cpu<Self>, bf16>)
    -> Result<AttentionParts<Cpu<Self>>>;

    #[doc(hidden)]
    fn attend_f16(attention: &Attention<'_, Cpu<Self>, f16>) -> Result<AttentionParts<Cpu<Self>>>;

    #[doc(hidden)]
    fn attend_backward(
        backward: &AttentionBackward<'_, Cpu<Self>>,
        landings: &Landings,
        into: &mut [Vec<Self::Accum>],
    ) -> Result<()>;

    #[doc(hidden)]
    fn bias_backward(backward: &AttentionBackward<'_, Cpu<Self>>, into: &mut [Self::Accum]);
}

macro_rules! compiled {
    ($($type:ty),*) => {$(
        impl CpuElement for $type {
            fn linear(
                x: Strided<'_, Cpu<Self>, Self>,
                weight: &[Self],
                bias: Option<&[Self]>,
                out: usize,
            ) -> Result<Vec<Self>> {
                linear::linear(x, weight, bias, out)
            }

            fn fp8_linear(
                x: Strided<'_, Cpu<Self>, Self>,
                weight: &[u8],
                bias: Option<&[Self]>,
                out: usize,
            ) -> Result<Vec<Self>> {
                linear::fp8_linear(x, weight, bias, out)
            }

            fn head_product(
                x: Strided<'_, Cpu<Self>, Self>,
                weight: &[Self],
                matrices: HeadMatrices,
            ) -> Result<Vec<Self>> {
                linear::head_product(x, weight, matrices)
            }

            fn accum_linear(
                x: Strided<'_, Cpu<Self>, Self>,
                weight: &[Self::Accum],
                bias: Option<&[Self::Accum]>,
                out: usize,
            ) -> Result<Vec<Self::Accum>> {
                linear::accum_linear(x, weight, bias, out)
            }

            fn widened(x: Strided<'_, Cpu<Self>, Self>) -> Result<Vec<Self::Accum>> {
                elementwise::widened(x)
            }

            fn scale(x: &mut [Self], by: f64) {
                elementwise::scale(x, by);
            }

            fn scale_parts(x: &mut [Self], factors: &[Self::Accum], width: usize) {
                elementwise::scale_parts(x, factors, width);
            }

            fn gate_parts(x: &mut [Self], gates: &[Self::Accum], width: usize) {
                elementwise::gate_parts(x, gates, width);
            }

            fn gate(x: &mut [Self], gates: Strided<'_, Cpu<Self>, Self>) {
                elementwise::gate(x, gates);
            }

            fn silu(x: &mut [Self]) {
                elementwise::silu(x);
            }

            fn hadamard(x: &mut [Self], width: usize) {
                hadamard::hadamard(x, width);
            }

            fn norm(
                x: Strided<'_, Cpu<Self>, Self>,
                gamma: Option<&[Self]>,
                beta: Option<&[Self]>,
                eps: f64,
            ) -> Vec<Self> {
                norm::norm(x, gamma, beta, eps)
            }

            fn rotate(x: &mut [Self], heads: usize, width: usize, rotation: &Rotation<'_, Cpu<Self>>) {
                rotate::rotate(x, heads, width, rotation);
            }

            fn merge(into: PartsMut<'_, Cpu<Self>>, other: Parts<'_, Cpu<Self>>, width: usize) {
                merge::merge(into, other, width);
            }

            fn sink(
                out: &mut [Self::Accum],
                lse: &mut [Self::Accum],
                sinks: Option<&[Self::Accum]>,
                width: usize,
            ) {
                merge::sink(out, lse, sinks, width);
            }

            fn sink_backward(
                sinks: &[Self::Accum],
                out: Strided<'_, Cpu<Self>, Self>,
                lse: &[Self::Accum],
                d_out: Strided<'_, Cpu<Self>, Self>,
                into: &mut [Self::Accum],
            ) {
                merge::sink_backward(sinks, out, lse, d_out, into);
            }

            fn round(values: Vec<Self::Accum>) -> Vec<Self> {
                rounded(values)
            }

            fn select_f32(i: &Indexing<'_, Cpu<Self>, f32>, most: usize) -> Result<Vec<i32>> {
                indexer::select(i, most)
            }

            fn select_f64(i: &Indexing<'_, Cpu<Self>, f64>, most: usize) -> Result<Vec<i32>> {
                indexer::select(i, most)
            }

            fn select_bf16(i: &Indexing<'_, Cpu<Self>, bf16>, most: usize) -> Result<Vec<i32>> {
                indexer::select(i, most)
            }

            fn select_f16(i: &Indexing<'_, Cpu<Self>, f16>, most: usize) -> Result<Vec<i32>> {
                indexer::select(i, most)
            }

            fn pool_keys(pooling: &Pooling<'_, Cpu<Self>>) -> Vec<Self> {
                pool::pool(pooling)
            }

            fn index_scores(
                i: &Indexing<'_, Cpu<Self>, Self>,
                width: usize,
            ) -> Result<Vec<Self::Accum>> {
                indexer::scores(i, width)
            }

            fn index_loss(l: &IndexLoss<'_, Cpu<Self>>) -> Result<IndexLossParts<Cpu<Self>>> {
                index_loss::index_loss(l)
            }

            fn attend_f32(a: &Attention<'_, Cpu<Self>, f32>) -> Result<AttentionParts<Cpu<Self>>> {
                attention::attend(a)
            }

            fn attend_f64(a: &Attention<'_, Cpu<Self>, f64>) -> Result<AttentionParts<Cpu<Self>>> {
                attention::attend(a)
            }

            fn attend_bf16(a: &Attention<'_, Cpu<Self>, bf16>) -> Result<AttentionParts<Cpu<Self>>> {
                attention::attend(a)
            }

            fn attend_f16(a: &Attention<'_, Cpu<Self>, f16>) -> Result<AttentionParts<Cpu<Self>>> {
                attention::attend(a)
            }

            fn attend_backward(
                backward: &AttentionBackward<'_, Cpu<Self>>,
                landings: &Landings,
                into: &mut [Vec<Self::Accum>],
            ) -> Result<()> {
                attention::backward(backward, landings, into)
            }

            fn bias_backward(
                backward: &AttentionBackward<'_, Cpu<Self>>,
                into: &mut [Self::Accum],
            ) {
                attention::bias_backward(backward, into);
            }
        }
    )*};
}

compiled!(f32, f64, bf16);

/// The compiled attention whose keys are of type `E`.
pub(super) fn attend<T: CpuElement, E: Scalar>(
    attention: &Attention<'_, Cpu<T>, E>,
) -> Result<AttentionParts<Cpu<T>>> {
    if let Some(attention) = over(attention) {
        T::attend_f32(&attention)
    } else if let Some(attention) = over(attention) {
        T::attend_f64(&attention)
    } else if let Some(attention) = over(attention) {
        T::attend_bf16(&attention)
    } else if let Some(attention) = over(attention) {
        T::attend_f16(&attention)
    } else {
        Err(Error::Device(format!(
            "no attention over keys of type {}",
            E::NAME
        )))
    }
}

/// `attention` over keys of type `K`, when that is what `E` is.
fn over<'a, T: CpuElement, E: Scalar, K: Scalar>(
    attention: &Attention<'a, Cpu<T>, E>,
) -> Option<Attention<'a, Cpu<T>, K>> {
    Some(Attention {
        q: attention.q,
        q_rope: attention.q_rope,
        k: holding(attention.k)?,
        k_rope: holding(attention.k_rope)?,
        v: holding(attention.v)?,
        segments: attention.segments,
        pages: attention.pages,
        selection: attention.selection,
        softmax: attention.softmax,
    })
}

/// The compiled selection among keys of type `E`.
pub(super) fn index_select<T: CpuElement, E: Scalar>(
    indexing: &Indexing<'_, Cpu<T>, E>,
    most: usize,
) -> Result<Vec<i32>> {
    if let Some(indexing) = among(indexing) {
        T::select_f32(&indexing, most)
    } else if let Some(indexing) = among(indexing) {
        T::select_f64(&indexing, most)
    } else if let Some(indexing) = among(indexing) {
        T::select_bf16(&indexing, most)
    } else if let Some(indexing) = among(indexing) {
        T::select_f16(&indexing, most)
    } else {
        Err(Error::Device(format!(
            "no selection among keys of type {}",
            E::NAME
        )))
    }
}

/// `indexing` among keys of type `K`, when that is what `E` is.
fn among<'a, T: CpuElement, E: Scalar, K: Scalar>(
    indexing: &Indexing<'a, Cpu<T>, E>,
) -> Option<Indexing<'a, Cpu<T>, K>> {
    Some(Indexing {
        k: holding(indexing.k)?,
        q: indexing.q,
        weights: indexing.weights,
        sights: indexing.sights,
        pages: indexing.pages,
        scale: indexing.scale,
        relu: indexing.relu,
        initial: indexing.initial,
        local: indexing.local,
    })
}

/// The window over a buffer of type `K`, when that is what `E` is.
fn holding<'a, T: CpuElement, E: Scalar, K: Scalar>(
    window: Strided<'a, Cpu<T>, E>,
) -> Option<Strided<'a, Cpu<T>, K>> {
    Some(Strided {
        buffer: (window.buffer as &dyn Any).downcast_ref::<Vec<K>>()?,
        offset: window.offset,
        rows: window.rows,
        heads: window.heads,
        width: window.width,
        row_stride: window.row_stride,
        head_stride: window.head_stride,
    })
}
