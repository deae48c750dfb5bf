//! The grouped (GQA) form.

use crate::attended::PerHead;
use crate::backend::{Attention, Backend, Chosen, Landing, Landings};
use crate::error::{Result, expect_count};
use crate::heads::Heads;
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::{AttentionBias, Softmax};

use super::backward::{self, Given};
use super::{AttentionOutput, attend, narrowed, whole_groups};

/// `d_q`, `d_k`, `d_v`.
type Gradients<B, const H: usize, const G: usize, const D: usize, const V: usize> =
    (Heads<B, H, D>, Heads<B, G, D>, Heads<B, G, V>);

/// Grouped (GQA) form: `p = softmax(τ · q_h·k_g)`, `o_h = Σ p · v_g`, where head `h` of the queries belongs to group `g = ⌊h · G / H⌋`. With
/// `G = H` every head has its own keys, with `G = 1` all share them. Queries and keys may be those of different sequences.
///
/// # Errors
/// When the rows of `q` are not the segments' queries, or those of `k` and `v` not their keys; what [`expanded`](super::expanded()) refuses of the softmax.
pub fn grouped<'a, B, O, const H: usize, const G: usize, const D: usize, const V: usize>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<O>
where
    B: Backend + 'a,
    O: AttentionOutput<B, H, V>,
{
    let question = question(q, k, v, segments, None, softmax.into())?;
    attend(&q.device, question)
}

/// [`grouped`] over the selected keys that a query sees; work and memory of a query grow with `K`, not with the keys there are.
///
/// # Errors
/// As [`grouped`], and when the selection has another number of rows.
pub fn grouped_selected<
    'a,
    B,
    O,
    const H: usize,
    const G: usize,
    const D: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<O>
where
    B: Backend + 'a,
    O: AttentionOutput<B, H, V>,
{
    let chosen = selection.of(segments)?;
    let question = question(q, k, v, segments, Some(chosen), softmax.into())?;
    attend(&q.device, question)
}

/// Gradients of [`grouped`]: `d_q`, and `d_k` and `d_v`, each summed over the heads of its group.
///
/// # Errors
/// As [`grouped`], and when `out`, `lse` or `d_out` have other rows than the segments queries.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn grouped_backward<'a, B, const H: usize, const G: usize, const D: usize, const V: usize>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
) -> Result<Gradients<B, H, G, D, V>>
where
    B: Backend + 'a,
{
    let question = question(q, k, v, segments, None, softmax.into())?;
    backward(question, &q.device, &Given { out, lse, d_out }, None)
}

/// [`grouped_backward`], and the gradient of the softmax's bias is added to `d_bias`.
///
/// # Errors
/// As [`grouped_backward`], and when the softmax has no bias, or one of another shape than `d_bias`.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn grouped_backward_with_bias<
    'a,
    B,
    const H: usize,
    const G: usize,
    const D: usize,
    const V: usize,
>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
    d_bias: &mut AttentionBias<B>,
) -> Result<Gradients<B, H, G, D, V>>
where
    B: Backend + 'a,
{
    let question = question(q, k, v, segments, None, softmax.into())?;
    backward(
        question,
        &q.device,
        &Given { out, lse, d_out },
        Some(d_bias),
    )
}

/// Gradients of [`grouped_selected`]: `d_q`, and `d_k` and `d_v`, each summed over the heads of its group.
///
/// # Errors
/// As [`grouped_selected`], and when `out`, `lse` or `d_out` have other rows than the segments queries.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn grouped_selected_backward<
    'a,
    B,
    const H: usize,
    const G: usize,
    const D: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
) -> Result<Gradients<B, H, G, D, V>>
where
    B: Backend + 'a,
{
    let question = question(
        q,
        k,
        v,
        segments,
        Some(selection.of(segments)?),
        softmax.into(),
    )?;
    backward(question, &q.device, &Given { out, lse, d_out }, None)
}

/// [`grouped_selected_backward`], and the gradient of the softmax's bias is added to `d_bias`.
///
/// # Errors
/// As [`grouped_selected_backward`], and when the softmax has no bias, or one of another shape than `d_bias`.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn grouped_selected_backward_with_bias<
    'a,
    B,
    const H: usize,
    const G: usize,
    const D: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
    d_bias: &mut AttentionBias<B>,
) -> Result<Gradients<B, H, G, D, V>>
where
    B: Backend + 'a,
{
    let question = question(
        q,
        k,
        v,
        segments,
        Some(selection.of(segments)?),
        softmax.into(),
    )?;
    backward(
        question,
        &q.device,
        &Given { out, lse, d_out },
        Some(d_bias),
    )
}

/// What this form asks of the kernel.
pub(crate) fn question<'a, B, const H: usize, const G: usize, const D: usize, const V: usize>(
    q: &'a Heads<B, H, D>,
    k: &'a Heads<B, G, D>,
    v: &'a Heads<B, G, V>,
    segments: &'a Segments,
    selection: Option<Chosen<'a, B>>,
    softmax: Softmax<'a, B>,
) -> Result<Attention<'a, B, B::Elem>>
where
    B: Backend,
{
    const { whole_groups(H, G) };
    expect_count("rows of keys", k.rows(), segments.keys())?;
    expect_count("rows of values", v.rows(), segments.keys())?;
    let (q_all, k_all) = (q.view().strided(), k.view().strided());
    Ok(Attention {
        q: q_all,
        q_rope: narrowed(q_all, D, 0),
        k: k_all,
        k_rope: narrowed(k_all, D, 0),
        v: v.view().strided(),
        segments,
        pages: None,
        selection,
        softmax,
    })
}

fn backward<B, const H: usize, const G: usize, const D: usize, const V: usize>(
    question: Attention<'_, B, B::Elem>,
    device: &B::Device,
    given: &Given<'_, B, H, V>,
    d_bias: Option<&mut AttentionBias<B>>,
) -> Result<Gradients<B, H, G, D, V>>
where
    B: Backend,
{
    let (queries, keys) = (question.segments.queries(), question.segments.keys());
    let at = Landing::new;
    let landings = Landings {
        q: at(0, D, 0),
        q_rope: at(0, D, D),
        k: at(1, D, 0),
        k_rope: at(1, D, D),
        v: Some(at(2, V, 0)),
    };
    let shapes = [[queries, H, D], [keys, G, D], [keys, G, V]];
    let [q, k, v] = backward::run(device, question, given, &landings, shapes, d_bias)?;
    Ok((
        backward::heads(device, q, queries),
        backward::heads(device, k, keys),
        backward::heads(device, v, keys),
    ))
}
