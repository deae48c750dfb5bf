//! Attention's question, its answer, and what its gradients need.

use super::{Accum, Backend, Pages, Strided};
use crate::element::Scalar;
use crate::error::Result;
use crate::segments::Segments;
use crate::softmax::Softmax;

/// Softmax attention over segments: `softmax(scale · (q·k + q_rope·k_rope)) v`, keys and values in another number type perhaps.
///
/// Keys and values may have fewer heads than queries, `G` where `H` is a multiple of it: then head `h` of the queries reads head
/// `h · G / H` of theirs. `k`, `k_rope` and `v` may have different `G`.
#[derive(Debug)]
pub struct Attention<'a, B: Backend, E: Scalar> {
    /// `[queries, H, A]`.
    pub q: Strided<'a, B, B::Elem>,
    /// `[queries, H, R]`, R perhaps 0.
    pub q_rope: Strided<'a, B, B::Elem>,
    /// `[keys, G, A]`.
    pub k: Strided<'a, B, E>,
    /// `[keys, G, R]`.
    pub k_rope: Strided<'a, B, E>,
    /// `[keys, G, V]`.
    pub v: Strided<'a, B, E>,
    /// Which queries see which keys.
    pub segments: &'a Segments,
    /// Where keys lie in a cache, a list of blocks per segment; `None` where key `i` is row `i`.
    pub pages: Option<&'a Pages>,
    /// The few keys that each query attends to; `None`: all that it sees.
    pub selection: Option<Chosen<'a, B>>,
    /// How logits become probabilities.
    pub softmax: Softmax<'a, B>,
}

/// The question of absorbed attention over a cache of bytes: all of the cache's entries are keys, and their latents values.
#[derive(Debug)]
pub struct BytesAttention<'a, B: Backend> {
    /// `[queries, H, C]`.
    pub q: Strided<'a, B, B::Elem>,
    /// `[queries, H, R]`, R perhaps 0.
    pub q_rope: Strided<'a, B, B::Elem>,
    /// Which queries see which keys.
    pub segments: &'a Segments,
    /// Where keys lie in the cache, a list of blocks per segment; `None` where key `i` is entry `i`.
    pub pages: Option<&'a Pages>,
    /// The few keys that each query attends to; `None`: all that it sees.
    pub selection: Option<Chosen<'a, B>>,
    /// How logits become probabilities.
    pub softmax: Softmax<'a, B>,
}

/// Keys chosen for each query.
#[derive(Debug)]
pub struct Chosen<'a, B: Backend> {
    /// `[queries, width]` indices of keys in their sequence, ascending, -1 behind the last. What a query does not see, or its segment
    /// does not hold, is passed over.
    pub indices: &'a B::Indices,
    /// Most keys of a query.
    pub width: usize,
}

impl<B: Backend> Clone for Chosen<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Chosen<'_, B> {}

/// The result of [`Attention`]: `out [rows, H, V]`, and per row and head the natural-log sum of exponentials and the largest logit.
#[derive(Debug)]
pub struct AttentionParts<B: Backend> {
    /// Normalised output; zeros where nothing is visible.
    pub out: B::Buffer<Accum<B>>,
    /// Log-sum-exp; -∞ where nothing is visible.
    pub lse: B::Buffer<Accum<B>>,
    /// Largest logit, as it enters the softmax; -∞ where nothing is visible.
    pub max_logit: B::Buffer<Accum<B>>,
}

/// [`AttentionParts`], borrowed.
#[derive(Debug)]
pub struct Parts<'a, B: Backend> {
    /// Output.
    pub out: &'a B::Buffer<Accum<B>>,
    /// Log-sum-exp.
    pub lse: &'a B::Buffer<Accum<B>>,
    /// Largest logit.
    pub max_logit: &'a B::Buffer<Accum<B>>,
}

/// [`AttentionParts`], borrowed to be changed.
#[derive(Debug)]
pub struct PartsMut<'a, B: Backend> {
    /// Output.
    pub out: &'a mut B::Buffer<Accum<B>>,
    /// Log-sum-exp.
    pub lse: &'a mut B::Buffer<Accum<B>>,
    /// Largest logit.
    pub max_logit: &'a mut B::Buffer<Accum<B>>,
}

/// What the gradients of [`Attention`] are computed from: its operands, what it gave, and the gradient of that.
///
/// With `P = e^(logit - lse)`, `m` the dropout's multiplier, `δ = d_out · out` and `τ` the scale: `dS = P (m (d_out · v) - δ)`, times
/// `1 - (capped logit / cap)²` where there is a soft cap; `d_q = τ Σ dS k`, `d_k = τ Σ dS q`, `d_v = Σ P m d_out`.
///
/// Keys are rows of tensors, not of a cache. `k` and `v` have equally many heads, `k_rope` has as many or one.
#[derive(Debug)]
pub struct AttentionBackward<'a, B: Backend> {
    /// What was attended to.
    pub attention: Attention<'a, B, B::Elem>,
    /// `[queries, H, V]`: the result, sinks included.
    pub out: Strided<'a, B, B::Elem>,
    /// `[queries, H]`: its log-sum-exp, sinks included.
    pub lse: &'a B::Buffer<Accum<B>>,
    /// `[queries, H, V]`: the gradient of the result.
    pub d_out: Strided<'a, B, B::Elem>,
}

/// Where a gradient goes: some neighbouring values of each `[row, head]` line of a contiguous buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landing {
    /// Which of the buffers.
    pub buffer: usize,
    /// Values of a line.
    pub line: usize,
    /// First value of the gradient in its line.
    pub offset: usize,
}

impl Landing {
    /// Values from `offset` on, of lines of `line` values of a buffer.
    pub const fn new(buffer: usize, line: usize, offset: usize) -> Self {
        Self {
            buffer,
            line,
            offset,
        }
    }
}

/// Where the gradients of [`AttentionBackward`] go, none over another.
#[derive(Debug, Clone, Copy)]
pub struct Landings {
    /// Lines are `[queries, H]`.
    pub q: Landing,
    /// Lines are `[queries, H]`.
    pub q_rope: Landing,
    /// Lines are `[keys, G]`.
    pub k: Landing,
    /// Lines are `[keys, G]` or `[keys, 1]`, as many heads as `k_rope` has.
    pub k_rope: Landing,
    /// Lines are `[keys, G]`. `None` where values are the window that keys are: both gradients are added up where that of `k` goes.
    pub v: Option<Landing>,
}

/// [`Backend::attention_gradients`] by way of accumulators.
pub(crate) fn summed_gradients<B: Backend>(
    device: &B::Device,
    backward: &AttentionBackward<'_, B>,
    landings: &Landings,
    lens: &[usize],
) -> Result<Vec<B::Buffer<B::Elem>>> {
    let zeros = lens.iter().map(|&len| B::zeros(device, len));
    let mut into = zeros.collect::<Result<Vec<_>>>()?;
    B::attend_backward(device, backward, landings, &mut into)?;
    into.into_iter()
        .map(|sums| B::round(device, sums))
        .collect()
}
