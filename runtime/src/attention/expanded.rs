//! The expanded (MHA) form.

use crate::attended::PerHead;
use crate::backend::{Attention, Backend, Chosen, Landing, Landings};
use crate::error::{Result, expect_count};
use crate::heads::Heads;
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::Rows;
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::{AttentionBias, Softmax};

use super::backward::{self, Given};
use super::{AttentionOutput, attend, narrowed};

/// `d_q`, `d_kv`, `d_k_rope`.
type Gradients<B, const H: usize, const QK: usize, const KV: usize, const R: usize> =
    (Heads<B, H, QK>, Heads<B, H, KV>, Rows<B, R>);

/// Expanded (MHA) form: `p = softmax(τ · (q_n·k_n + q_r·k_r))`, `o_h = Σ p · v_h`.
///
/// A head of `q` is `QK - R` position-free values, then `R` rotated ones. A head of `kv` is `QK - R` key values, then `V` values. `k_rope` is
/// shared by the heads.
///
/// # Errors
/// When the rows of `q` are not the segments' queries, or those of `kv` and `k_rope` not their keys; when a constant of the softmax is
/// unusable, or its bias not one for these heads, queries and keys.
pub fn expanded<
    'a,
    B,
    L,
    O,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<O>
where
    B: Backend + 'a,
    L: RopeLayout,
    O: AttentionOutput<B, H, V>,
{
    const { whole_heads(QK, KV, R, V) };
    let question = question(q, kv, k_rope, segments, None, softmax.into())?;
    attend(&q.device, question)
}

/// [`expanded`] over the selected keys that a query sees; work and memory of a query grow with `K`, not with the keys there are.
///
/// # Errors
/// As [`expanded`], and when the selection has another number of rows.
pub fn expanded_selected<
    'a,
    B,
    L,
    O,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<O>
where
    B: Backend + 'a,
    L: RopeLayout,
    O: AttentionOutput<B, H, V>,
{
    const { whole_heads(QK, KV, R, V) };
    let chosen = selection.of(segments)?;
    let question = question(q, kv, k_rope, segments, Some(chosen), softmax.into())?;
    attend(&q.device, question)
}

/// Gradients of [`expanded`]: `d_q`, `d_kv`, and `d_k_rope` summed over the heads.
///
/// # Errors
/// As [`expanded`], and when `out`, `lse` or `d_out` have other rows than the segments queries.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn expanded_backward<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
) -> Result<Gradients<B, H, QK, KV, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let question = question(q, kv, k_rope, segments, None, softmax.into())?;
    backward(question, &q.device, &Given { out, lse, d_out }, None)
}

/// [`expanded_backward`], and the gradient of the softmax's bias is added to `d_bias`.
///
/// # Errors
/// As [`expanded_backward`], and when the softmax has no bias, or one of another shape than `d_bias`.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn expanded_backward_with_bias<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
    d_bias: &mut AttentionBias<B>,
) -> Result<Gradients<B, H, QK, KV, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let question = question(q, kv, k_rope, segments, None, softmax.into())?;
    backward(
        question,
        &q.device,
        &Given { out, lse, d_out },
        Some(d_bias),
    )
}

/// Gradients of [`expanded_selected`]: `d_q`, `d_kv`, and `d_k_rope` summed over the heads.
///
/// # Errors
/// As [`expanded_selected`], and when `out`, `lse` or `d_out` have other rows than the segments queries.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn expanded_selected_backward<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
) -> Result<Gradients<B, H, QK, KV, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let question = question(
        q,
        kv,
        k_rope,
        segments,
        Some(selection.of(segments)?),
        softmax.into(),
    )?;
    backward(question, &q.device, &Given { out, lse, d_out }, None)
}

/// [`expanded_selected_backward`], and the gradient of the softmax's bias is added to `d_bias`.
///
/// # Errors
/// As [`expanded_selected_backward`], and when the softmax has no bias, or one of another shape than `d_bias`.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn expanded_selected_backward_with_bias<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
    out: &Heads<B, H, V>,
    lse: &PerHead<B, H>,
    d_out: &Heads<B, H, V>,
    d_bias: &mut AttentionBias<B>,
) -> Result<Gradients<B, H, QK, KV, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let question = question(
        q,
        kv,
        k_rope,
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
pub(crate) fn question<'a, B, L, const H: usize, const QK: usize, const KV: usize, const R: usize>(
    q: &'a Heads<B, H, QK>,
    kv: &'a Heads<B, H, KV>,
    k_rope: &'a RopeKey<B, L, R>,
    segments: &'a Segments,
    selection: Option<Chosen<'a, B>>,
    softmax: Softmax<'a, B>,
) -> Result<Attention<'a, B, B::Elem>>
where
    B: Backend,
    L: RopeLayout,
{
    const {
        assert!(R <= QK, "the rotated part is wider than the query head");
        assert!(QK - R <= KV, "a head of keys and values is QK - R + V wide");
    };
    expect_count("rows of keys", kv.rows(), segments.keys())?;
    expect_count("rows of rotated keys", k_rope.rows(), segments.keys())?;
    let q_all = q.view().strided();
    let kv_all = kv.view().strided();
    Ok(Attention {
        q: narrowed(q_all, 0, QK - R),
        q_rope: narrowed(q_all, QK - R, R),
        k: narrowed(kv_all, 0, QK - R),
        k_rope: k_rope.view().strided(),
        v: narrowed(kv_all, QK - R, KV + R - QK),
        segments,
        pages: None,
        selection,
        softmax,
    })
}

/// Refuses, when compiled, heads of keys and values of another width than theirs together.
const fn whole_heads(qk: usize, kv: usize, r: usize, v: usize) {
    assert!(
        r <= qk && kv == qk - r + v,
        "a head of keys and values is QK - R + V wide"
    );
}

fn backward<B, const H: usize, const QK: usize, const KV: usize, const R: usize, const V: usize>(
    question: Attention<'_, B, B::Elem>,
    device: &B::Device,
    given: &Given<'_, B, H, V>,
    d_bias: Option<&mut AttentionBias<B>>,
) -> Result<Gradients<B, H, QK, KV, R>>
where
    B: Backend,
{
    const { whole_heads(QK, KV, R, V) };
    let (queries, keys) = (question.segments.queries(), question.segments.keys());
    let at = Landing::new;
    let landings = Landings {
        q: at(0, QK, 0),
        q_rope: at(0, QK, QK - R),
        k: at(1, KV, 0),
        k_rope: at(2, R, 0),
        v: Some(at(1, KV, QK - R)),
    };
    let shapes = [[queries, H, QK], [keys, H, KV], [keys, 1, R]];
    let [q, kv, k_rope] = backward::run(device, question, given, &landings, shapes, d_bias)?;
    Ok((
        backward::heads(device, q, queries),
        backward::heads(device, kv, keys),
        backward::rows(device, k_rope, keys),
    ))
}
