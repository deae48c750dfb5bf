//! The absorbed (MQA) form.

use crate::attended::PerHead;
use crate::backend::{Attention, Backend, Chosen, Landing, Landings};
use crate::error::{Result, expect_count};
use crate::heads::{Heads, HeadsView};
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::{Rows, RowsView};
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::{AttentionBias, Softmax};

use super::backward::{self, Given};
use super::{AttentionOutput, attend};

/// `d_q_latent`, `d_q_rope`, `d_latent`, `d_k_rope`.
type Gradients<B, const H: usize, const C: usize, const R: usize> =
    (Heads<B, H, C>, Heads<B, H, R>, Rows<B, C>, Rows<B, R>);

/// Absorbed (MQA) form: `p = softmax(τ · (q̃_h·ĉ + q_r·k_r))`, `z_h = Σ p · ĉ`, all heads sharing the latent ĉ as key and value.
///
/// # Errors
/// As [`expanded`](super::expanded()).
pub fn absorbed<'a, B, L, O, const H: usize, const C: usize, const R: usize>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<O>
where
    B: Backend + 'a,
    L: RopeLayout,
    O: AttentionOutput<B, H, C>,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    let question = question(q_latent, q_rope, latent, k_rope, segments, None, softmax)?;
    attend(&q_latent.device, question)
}

/// [`absorbed`] over the selected keys that a query sees; work and memory of a query grow with `K`, not with the keys there are.
///
/// # Errors
/// As [`absorbed`], and when the selection has another number of rows.
pub fn absorbed_selected<
    'a,
    B,
    L,
    O,
    const H: usize,
    const C: usize,
    const R: usize,
    const K: usize,
>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<O>
where
    B: Backend + 'a,
    L: RopeLayout,
    O: AttentionOutput<B, H, C>,
{
    let chosen = Some(selection.of(segments)?);
    let (latent, softmax) = (latent.into(), softmax.into());
    let question = question(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)?;
    attend(&q_latent.device, question)
}

/// Gradients of [`absorbed`]: `d_q_latent`, `d_q_rope`, `d_latent`, the latent's part as key and as value, and `d_k_rope`, both summed over
/// the heads.
///
/// # Errors
/// As [`absorbed`], and when `z`, `lse` or `d_z` have other rows than the segments queries.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn absorbed_backward<'a, B, L, const H: usize, const C: usize, const R: usize>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    z: &Heads<B, H, C>,
    lse: &PerHead<B, H>,
    d_z: &Heads<B, H, C>,
) -> Result<Gradients<B, H, C, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    let chosen = None;
    let question = question(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)?;
    let given = Given {
        out: z,
        lse,
        d_out: d_z,
    };
    backward(question, &q_latent.device, &given, None)
}

/// [`absorbed_backward`], and the gradient of the softmax's bias is added to `d_bias`.
///
/// # Errors
/// As [`absorbed_backward`], and when the softmax has no bias, or one of another shape than `d_bias`.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn absorbed_backward_with_bias<'a, B, L, const H: usize, const C: usize, const R: usize>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    z: &Heads<B, H, C>,
    lse: &PerHead<B, H>,
    d_z: &Heads<B, H, C>,
    d_bias: &mut AttentionBias<B>,
) -> Result<Gradients<B, H, C, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    let chosen = None;
    let question = question(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)?;
    let given = Given {
        out: z,
        lse,
        d_out: d_z,
    };
    backward(question, &q_latent.device, &given, Some(d_bias))
}

/// Gradients of [`absorbed_selected`]: `d_q_latent`, `d_q_rope`, `d_latent`, the latent's part as key and as value, and `d_k_rope`, both summed over
/// the heads.
///
/// # Errors
/// As [`absorbed_selected`], and when `z`, `lse` or `d_z` have other rows than the segments queries.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn absorbed_selected_backward<
    'a,
    B,
    L,
    const H: usize,
    const C: usize,
    const R: usize,
    const K: usize,
>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
    z: &Heads<B, H, C>,
    lse: &PerHead<B, H>,
    d_z: &Heads<B, H, C>,
) -> Result<Gradients<B, H, C, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    let chosen = Some(selection.of(segments)?);
    let question = question(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)?;
    let given = Given {
        out: z,
        lse,
        d_out: d_z,
    };
    backward(question, &q_latent.device, &given, None)
}

/// [`absorbed_selected_backward`], and the gradient of the softmax's bias is added to `d_bias`.
///
/// # Errors
/// As [`absorbed_selected_backward`], and when the softmax has no bias, or one of another shape than `d_bias`.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn absorbed_selected_backward_with_bias<
    'a,
    B,
    L,
    const H: usize,
    const C: usize,
    const R: usize,
    const K: usize,
>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
    z: &Heads<B, H, C>,
    lse: &PerHead<B, H>,
    d_z: &Heads<B, H, C>,
    d_bias: &mut AttentionBias<B>,
) -> Result<Gradients<B, H, C, R>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    let chosen = Some(selection.of(segments)?);
    let question = question(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)?;
    let given = Given {
        out: z,
        lse,
        d_out: d_z,
    };
    backward(question, &q_latent.device, &given, Some(d_bias))
}

/// What this form asks of the kernel.
pub(crate) fn question<'a, B, L, const H: usize, const C: usize, const R: usize>(
    q_latent: &'a Heads<B, H, C>,
    q_rope: HeadsView<'a, B, H, R>,
    latent: RowsView<'a, B, C>,
    k_rope: &'a RopeKey<B, L, R>,
    segments: &'a Segments,
    selection: Option<Chosen<'a, B>>,
    softmax: Softmax<'a, B>,
) -> Result<Attention<'a, B, B::Elem>>
where
    B: Backend,
    L: RopeLayout,
{
    expect_count("rows of rotated queries", q_rope.rows(), q_latent.rows())?;
    expect_count("rows of latents", latent.rows(), segments.keys())?;
    expect_count("rows of rotated keys", k_rope.rows(), segments.keys())?;
    Ok(Attention {
        q: q_latent.view().strided(),
        q_rope: q_rope.strided(),
        k: latent.strided(),
        k_rope: k_rope.view().strided(),
        v: latent.strided(),
        segments,
        pages: None,
        selection,
        softmax,
    })
}

fn backward<B, const H: usize, const C: usize, const R: usize>(
    question: Attention<'_, B, B::Elem>,
    device: &B::Device,
    given: &Given<'_, B, H, C>,
    d_bias: Option<&mut AttentionBias<B>>,
) -> Result<Gradients<B, H, C, R>>
where
    B: Backend,
{
    let (queries, keys) = (question.segments.queries(), question.segments.keys());
    let whole = |buffer, line| Landing::new(buffer, line, 0);
    let landings = Landings {
        q: whole(0, C),
        q_rope: whole(1, R),
        k: whole(2, C),
        k_rope: whole(3, R),
        v: None,
    };
    let shapes = [[queries, H, C], [queries, H, R], [keys, 1, C], [keys, 1, R]];
    let [q_latent, q_rope, latent, k_rope] =
        backward::run(device, question, given, &landings, shapes, d_bias)?;
    Ok((
        backward::heads(device, q_latent, queries),
        backward::heads(device, q_rope, queries),
        backward::rows(device, latent, keys),
        backward::rows(device, k_rope, keys),
    ))
}
