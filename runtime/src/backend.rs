//! What a device must be able to do. The typed tensors of this crate prove shapes and bounds and then call these primitives, which see
//! device buffers, offsets and strides, never host slices.

mod attention;
mod index_loss;
mod indexing;
mod kernel_source;

use std::fmt::Debug;

pub(crate) use self::attention::summed_gradients;
pub use self::attention::{
    Attention, AttentionBackward, AttentionParts, BytesAttention, Chosen, Landing, Landings, Parts,
    PartsMut,
};
pub use self::index_loss::{IndexLoss, IndexLossParts};
pub use self::indexing::{BytesIndexing, Indexing, Pooling, QueryRounding, Sight};
pub use self::kernel_source::{Cubin, KernelSource};
pub use crate::batch::Pages;
use crate::cache::{ByteFormat, CacheFormat, EntryShape};
pub use crate::cache::{Prologue, PrologueKey, PrologueParts};
use crate::element::{Element, Scalar};
use crate::error::Result;
pub use crate::gradients::{Gamma, GateGradients, GradientOps};
pub use crate::offload::HostMemory;
pub use crate::parameters::ParameterOps;
use crate::weights::generator::Recipe;

/// The accumulation type of a backend: `f32`, or `f64` for `f64`.
pub type Accum<B> = <<B as Backend>::Elem as Element>::Accum;

/// A strided `[rows, heads, width]` window of a buffer; neighbours along `width` lie side by side. All strides count elements.
#[derive(Debug)]
pub struct Strided<'a, B: Backend, S: Scalar> {
    /// Where the values live.
    pub buffer: &'a B::Buffer<S>,
    /// Index of the first value.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Heads.
    pub heads: usize,
    /// Values per row and head.
    pub width: usize,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
}

impl<B: Backend, S: Scalar> Clone for Strided<'_, B, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend, S: Scalar> Copy for Strided<'_, B, S> {}

/// The per-head matrices `M_h [k, n]` of a product: strided windows of one weight.
#[derive(Debug, Clone, Copy)]
pub struct HeadMatrices {
    /// Index of `M_0[0, 0]`.
    pub offset: usize,
    /// From `M_h` to `M_{h+1}`.
    pub head_stride: usize,
    /// From `M_h[k, n]` to `M_h[k + 1, n]`.
    pub k_stride: usize,
    /// From `M_h[k, n]` to `M_h[k, n + 1]`.
    pub n_stride: usize,
    /// Columns, n.
    pub columns: usize,
}

/// Cosines and sines of a batch, `[rows, pairs]`, and where pairs stand before and after.
#[derive(Debug)]
pub struct Rotation<'a, B: Backend> {
    /// cos(θ) times the factor.
    pub cos: &'a B::Buffer<Accum<B>>,
    /// sin(θ) times the factor.
    pub sin: &'a B::Buffer<Accum<B>>,
    /// Pairs per row.
    pub pairs: usize,
    /// First rotated value of a head.
    pub start: usize,
    /// Read pairs as (i, i + pairs), not as (2i, 2i + 1).
    pub half_in: bool,
    /// Write pairs as (i, i + pairs), not as (2i, 2i + 1).
    pub half_out: bool,
    /// Rotate by the opposite angles.
    pub backward: bool,
}

/// A device and the number type it computes in.
///
/// Callers guarantee that every window lies inside its buffer and that counts agree; an implementation reports what the device itself
/// refuses. Results of operations that return a buffer are contiguous, rows outermost.
pub trait Backend: Sized + Debug + Send + Sync + 'static {
    /// What tensors hold.
    type Elem: Element;
    /// A handle on the device.
    type Device: Clone + Debug + Send + Sync + 'static;
    /// Memory on the device.
    type Buffer<S: Scalar>: Debug + Send + Sync + 'static;
    /// Memory on the device that holds 32-bit integers.
    type Indices: Debug + Send + Sync + 'static;
    /// Bytes on the device: caches whose formats are no number types, and weights in codes.
    type Bytes: Debug + Send + Sync + 'static;
    /// What it does in a backward pass.
    type Gradients: GradientOps<Self>;
    /// The host's memory beside the device.
    type Memory: HostMemory<Self>;
    /// What it does to parameters.
    type Parameters: ParameterOps<Self>;

    /// Whether [`attend_bytes`](Self::attend_bytes) is ever worth asking.
    const READS_BYTES: bool = false;

    /// Takes kernels that a generated layer brings along. A device that runs none ignores them.
    fn add_kernels(
        _device: &Self::Device,
        _kernels: &[KernelSource],
        _cubins: &[Cubin],
    ) -> Result<()> {
        Ok(())
    }

    /// Moves values to the device.
    fn upload<S: Scalar>(device: &Self::Device, values: Vec<S>) -> Result<Self::Buffer<S>>;
    /// The first `len` values of the generated tensor called `name`, made where they are wanted if the device can.
    fn generated(
        device: &Self::Device,
        recipe: &Recipe,
        name: &str,
        len: usize,
    ) -> Result<Self::Buffer<Self::Elem>> {
        let values = recipe.values(name, len).into_iter();
        Self::upload(device, values.map(Scalar::from_f32).collect())
    }
    /// `len` zeros.
    fn zeros<S: Scalar>(device: &Self::Device, len: usize) -> Result<Self::Buffer<S>>;
    /// Copies a buffer to the host.
    fn download<S: Scalar>(device: &Self::Device, buffer: &Self::Buffer<S>) -> Result<Vec<S>>;

    /// Moves integers to the device.
    fn upload_indices(device: &Self::Device, indices: Vec<i32>) -> Result<Self::Indices>;
    /// Copies integers to the host.
    fn download_indices(device: &Self::Device, indices: &Self::Indices) -> Result<Vec<i32>>;

    /// A contiguous copy of a window.
    fn copy<S: Scalar>(device: &Self::Device, x: Strided<'_, Self, S>) -> Result<Self::Buffer<S>>;

    /// A buffer of the same values: another name of the same memory where there are names of memory, a copy elsewhere.
    ///
    /// # Safety
    /// It is not used any more once `buffer` is written to or dropped.
    unsafe fn lend<S: Scalar>(
        device: &Self::Device,
        buffer: &Self::Buffer<S>,
    ) -> Result<Self::Buffer<S>>;

    /// `y = x Wᵀ + b`: x `[rows, in]` (one head), `weight` `[out, in]` contiguous, `bias` `[out]`; y `[rows, out]`.
    fn linear(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        weight: &Self::Buffer<Self::Elem>,
        bias: Option<&Self::Buffer<Self::Elem>>,
        out: usize,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// `y = x Wᵀ + b` as [`linear`](Self::linear), with a weight of `out` rows in blocks of codes, as `weights/blocks.rs` lays them.
    fn fp8_linear(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        weight: &Self::Bytes,
        bias: Option<&Self::Buffer<Self::Elem>>,
        out: usize,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// `y[r, h, :] = x[r, h, :] M_h`.
    fn head_product(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        weight: &Self::Buffer<Self::Elem>,
        matrices: HeadMatrices,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// `y = x Wᵀ + b` as [`linear`](Self::linear), with weight, bias and result in the accumulation type.
    fn accum_linear(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        weight: &Self::Buffer<Accum<Self>>,
        bias: Option<&Self::Buffer<Accum<Self>>>,
        out: usize,
    ) -> Result<Self::Buffer<Accum<Self>>>;

    /// `y = γ · x / sqrt(mean(x²) + ε)` per row and head; no γ is a γ of 1.
    fn rms_norm(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        gamma: Option<&Self::Buffer<Self::Elem>>,
        eps: f64,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// `y = γ · (x − mean) / sqrt(var + ε) + β` per row and head, var the biased variance.
    fn layer_norm(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        gamma: &Self::Buffer<Self::Elem>,
        beta: &Self::Buffer<Self::Elem>,
        eps: f64,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// Rotates, in place, `2 · pairs` neighbouring values of each head of a contiguous `[rows, heads, width]` buffer.
    fn rotate(
        device: &Self::Device,
        x: &mut Self::Buffer<Self::Elem>,
        heads: usize,
        width: usize,
        rotation: &Rotation<'_, Self>,
    ) -> Result<()>;

    /// The values of a window in the accumulation type, contiguous.
    fn widened(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
    ) -> Result<Self::Buffer<Accum<Self>>>;

    /// `x ← x · by`.
    fn scale(device: &Self::Device, x: &mut Self::Buffer<Self::Elem>, by: f64) -> Result<()>;

    /// `x ← x · by` in the accumulation type.
    fn scale_accum(device: &Self::Device, x: &mut Self::Buffer<Accum<Self>>, by: f64)
    -> Result<()>;

    /// `x[i] ← x[i] · factors[i / width]`.
    fn scale_parts(
        device: &Self::Device,
        x: &mut Self::Buffer<Self::Elem>,
        factors: &Self::Buffer<Accum<Self>>,
        width: usize,
    ) -> Result<()>;

    /// `x[i] ← x[i] · σ(gates[i / width])`, σ the logistic function, computed in the accumulation type.
    fn gate_parts(
        device: &Self::Device,
        x: &mut Self::Buffer<Self::Elem>,
        gates: &Self::Buffer<Accum<Self>>,
        width: usize,
    ) -> Result<()>;

    /// `x[i] ← x[i] · σ(gates[i])`, `i` counting the values of the window in order.
    fn gate(
        device: &Self::Device,
        x: &mut Self::Buffer<Self::Elem>,
        gates: Strided<'_, Self, Self::Elem>,
    ) -> Result<()>;

    /// `x ← x · σ(x)`, computed in the accumulation type.
    fn silu(device: &Self::Device, x: &mut Self::Buffer<Self::Elem>) -> Result<()>;

    /// `x ← H x / sqrt(width)` for each run of `width` values, H the Walsh-Hadamard matrix; `width` is a power of two.
    fn hadamard(
        device: &Self::Device,
        x: &mut Self::Buffer<Self::Elem>,
        width: usize,
    ) -> Result<()>;

    /// The rows of two windows with equally many rows (one head), side by side.
    fn concat(
        device: &Self::Device,
        left: Strided<'_, Self, Self::Elem>,
        right: Strided<'_, Self, Self::Elem>,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// Blockwise softmax attention.
    fn attend<E: Scalar>(
        device: &Self::Device,
        attention: &Attention<'_, Self, E>,
    ) -> Result<AttentionParts<Self>>;

    /// The output of [`attend`](Self::attend) rounded to the element type, `[queries, H, V]`, and nothing beside it.
    fn attend_rounded<E: Scalar>(
        device: &Self::Device,
        attention: &Attention<'_, Self, E>,
    ) -> Result<Self::Buffer<Self::Elem>> {
        Self::round(device, Self::attend(device, attention)?.out)
    }

    /// Writes the gradients of attention's operands to windows of `into`, buffers of zeros. Rows that see nothing, or that nobody sees,
    /// stay zeros. Memory beside the buffers is linear in rows and keys.
    fn attend_backward(
        device: &Self::Device,
        backward: &AttentionBackward<'_, Self>,
        landings: &Landings,
        into: &mut [Self::Buffer<Accum<Self>>],
    ) -> Result<()>;

    /// What [`attend_backward`](Self::attend_backward) writes, rounded, in buffers of so many values.
    fn attention_gradients(
        device: &Self::Device,
        backward: &AttentionBackward<'_, Self>,
        landings: &Landings,
        lens: &[usize],
    ) -> Result<Vec<Self::Buffer<Self::Elem>>> {
        summed_gradients(device, backward, landings, lens)
    }

    /// Adds the gradient of the bias of attention's softmax to `into`, of the bias's shape: the `dS` of [`AttentionBackward`], the soft
    /// cap left out, summed over all that the bias was added to. Nothing is added where there is no bias.
    fn bias_backward(
        device: &Self::Device,
        backward: &AttentionBackward<'_, Self>,
        into: &mut Self::Buffer<Accum<Self>>,
    ) -> Result<()>;

    /// The `most` best keys of each query, `[queries, most]` positions, ascending, -1 behind the last one. Ties go to the lower
    /// position; a score of -∞ is never chosen; one that is a NaN only where no number is left; a query that sees no more than `most`
    /// keys chooses all of them, whatever their scores. `initial + local` is at most `most`.
    fn index_select<E: Scalar>(
        device: &Self::Device,
        indexing: &Indexing<'_, Self, E>,
        most: usize,
    ) -> Result<Self::Indices>;

    /// [`index_select`](Self::index_select) among keys in a cache of bytes, which are read where they are and rounded to no number type; `None`,
    /// and nothing done, where there is no kernel for it.
    fn index_select_bytes<F: ByteFormat>(
        _device: &Self::Device,
        _format: F,
        _bytes: &Self::Bytes,
        _shape: EntryShape,
        _indexing: &BytesIndexing<'_, Self>,
        _most: usize,
    ) -> Result<Option<Self::Indices>> {
        Ok(None)
    }

    /// The keys of pools, `[pools, D]`, computed in the accumulation type.
    fn pool_keys(
        device: &Self::Device,
        pooling: &Pooling<'_, Self>,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// All scores, `[queries, width]`, -∞ where a query does not see a key; `width` is at least the number of keys of every sight.
    fn index_scores(
        device: &Self::Device,
        indexing: &Indexing<'_, Self, Self::Elem>,
        width: usize,
    ) -> Result<Self::Buffer<Accum<Self>>>;

    /// An indexer's loss, and the gradients of its queries, keys and weights. Memory beside them is linear in keys.
    fn index_loss(
        device: &Self::Device,
        loss: &IndexLoss<'_, Self>,
    ) -> Result<IndexLossParts<Self>>;

    /// Merges `other` into `into` by log-sum-exp; `width` values per row and head. A pair with an LSE of -∞ changes nothing.
    fn merge(
        device: &Self::Device,
        into: PartsMut<'_, Self>,
        other: Parts<'_, Self>,
        width: usize,
    ) -> Result<()>;

    /// Multiplies `width` values per row and head by `1 / (1 + e^(sink - lse))`: what is left of them when the softmax has one more
    /// logit, with no value; `lse` becomes `ln(e^lse + e^sink)`. `sinks` is `[heads]`; `None`: all 0.
    fn sink(
        device: &Self::Device,
        out: &mut Self::Buffer<Accum<Self>>,
        lse: &mut Self::Buffer<Accum<Self>>,
        sinks: Option<&Self::Buffer<Accum<Self>>>,
        width: usize,
    ) -> Result<()>;

    /// Adds the gradient of the sinks to `into`, `[heads]`: for each head `-Σ e^(sink - lse) (d_out · out)` over the rows, `out` and `lse` as
    /// they are after [`sink`](Self::sink).
    fn sink_backward(
        device: &Self::Device,
        sinks: &Self::Buffer<Accum<Self>>,
        out: Strided<'_, Self, Self::Elem>,
        lse: &Self::Buffer<Accum<Self>>,
        d_out: Strided<'_, Self, Self::Elem>,
        into: &mut Self::Buffer<Accum<Self>>,
    ) -> Result<()>;

    /// Values rounded to the element type.
    fn round(
        device: &Self::Device,
        values: Self::Buffer<Accum<Self>>,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// Copies row `i` of `x` (all heads, side by side) to `cache[slots[i] * stride + offset ..]`, converted to `E`; skips `None`.
    /// Heads go `head_stride` apart.
    fn scatter<E: Scalar>(
        device: &Self::Device,
        x: Strided<'_, Self, Self::Elem>,
        cache: &mut Self::Buffer<E>,
        slots: &[Option<usize>],
        place: Place,
    ) -> Result<()>;

    /// Rows `cache[slots[i] * stride + offset ..][..width]` side by side, converted to the element type.
    fn gather<E: Scalar>(
        device: &Self::Device,
        cache: &Self::Buffer<E>,
        slots: &[usize],
        place: Place,
        width: usize,
    ) -> Result<Self::Buffer<Self::Elem>>;

    /// Norms rows, rotates keys, and writes both to caches, in one pass; `None`, and nothing done, where there is no kernel for it.
    fn prologue<F: CacheFormat, I: CacheFormat>(
        _device: &Self::Device,
        _prologue: Prologue<'_, Self, F, I>,
    ) -> Result<Option<PrologueParts<Self>>> {
        Ok(None)
    }

    /// `len` zeros.
    fn zero_bytes(device: &Self::Device, len: usize) -> Result<Self::Bytes>;

    /// Copies bytes to the device.
    fn upload_bytes(device: &Self::Device, bytes: Vec<u8>) -> Result<Self::Bytes>;

    /// Copies bytes to the host.
    fn download_bytes(device: &Self::Device, bytes: &Self::Bytes) -> Result<Vec<u8>>;

    /// Writes row `i` of `latent` and of `rope` (one head each) to slot `slots[i]` of a cache of `shape`, as `format` encodes them
    /// and where its layout puts them; skips `None`.
    fn encode<F: ByteFormat>(
        device: &Self::Device,
        format: F,
        bytes: &mut Self::Bytes,
        shape: EntryShape,
        slots: &[Option<usize>],
        latent: Strided<'_, Self, Self::Elem>,
        rope: Strided<'_, Self, Self::Elem>,
    ) -> Result<()>;

    /// Absorbed attention over a cache of bytes that reads entries where they are; `None`, and nothing done, where there is no kernel for it.
    fn attend_bytes<F: ByteFormat>(
        _device: &Self::Device,
        _format: F,
        _bytes: &Self::Bytes,
        _shape: EntryShape,
        _attention: &BytesAttention<'_, Self>,
    ) -> Result<Option<AttentionParts<Self>>> {
        Ok(None)
    }

    /// The output of [`attend_bytes`](Self::attend_bytes) rounded to the element type, and nothing beside it; `None` where that gives `None`.
    fn attend_bytes_rounded<F: ByteFormat>(
        device: &Self::Device,
        format: F,
        bytes: &Self::Bytes,
        shape: EntryShape,
        attention: &BytesAttention<'_, Self>,
    ) -> Result<Option<Self::Buffer<Self::Elem>>> {
        let parts = Self::attend_bytes(device, format, bytes, shape, attention)?;
        parts
            .map(|parts| Self::round(device, parts.out))
            .transpose()
    }

    /// The entries of `slots`, decoded and rounded to the element type: `[slots, latent]` and `[slots, rope]`.
    fn decode<F: ByteFormat>(
        device: &Self::Device,
        format: F,
        bytes: &Self::Bytes,
        shape: EntryShape,
        slots: &[usize],
    ) -> Result<[Self::Buffer<Self::Elem>; 2]>;
}

/// Where a part of a token's entry stands in a cache, or of a row in a tensor. All in elements.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// From one slot, or row, to the next.
    pub stride: usize,
    /// From its start to the part.
    pub offset: usize,
    /// From one head to the next within the part.
    pub head_stride: usize,
}
