//! What the gradients of all forms have in common.

use crate::attended::PerHead;
use crate::backend::{Accum, Attention, AttentionBackward, Backend, Landings};
use crate::error::{Error, Result, expect_count, product};
use crate::heads::Heads;
use crate::rows::Rows;
use crate::softmax::AttentionBias;

/// What the forward function gave, and the gradient of that.
pub(super) struct Given<'a, B: Backend, const H: usize, const V: usize> {
    pub(super) out: &'a Heads<B, H, V>,
    pub(super) lse: &'a PerHead<B, H>,
    pub(super) d_out: &'a Heads<B, H, V>,
}

/// Writes the gradients to buffers of zeros, and adds that of the bias to `d_bias`.
pub(super) fn run<B: Backend, const H: usize, const V: usize>(
    device: &B::Device,
    question: Attention<'_, B, B::Elem>,
    given: &Given<'_, B, H, V>,
    landings: &Landings,
    into: &mut [B::Buffer<Accum<B>>],
    d_bias: Option<&mut AttentionBias<B>>,
) -> Result<()> {
    let rows = question.segments.queries();
    expect_count("rows of queries", question.q.rows, rows)?;
    expect_count("rows of attention's output", given.out.rows(), rows)?;
    expect_count("rows of attention's log-sum-exp", given.lse.rows(), rows)?;
    expect_count("rows of the output's gradient", given.d_out.rows(), rows)?;
    let softmax = question.softmax.checked(H, question.segments)?;
    if let Some(d_bias) = &d_bias {
        let Some(bias) = softmax.added() else {
            return Err(Error::BadConstant(
                "there is a gradient of a bias, but the softmax has no bias".to_owned(),
            ));
        };
        if d_bias.shape() != bias.shape() {
            let what = "the gradient of the attention bias";
            return Err(Error::shape(what, &d_bias.shape(), &bias.shape()));
        }
    }
    let backward = AttentionBackward {
        attention: Attention {
            softmax,
            ..question
        },
        out: given.out.view().strided(),
        lse: &given.lse.buffer,
        d_out: given.d_out.view().strided(),
    };
    B::attend_backward(device, &backward, landings, into)?;
    match d_bias {
        Some(d_bias) => B::bias_backward(device, &backward, &mut d_bias.values),
        None => Ok(()),
    }
}

/// A buffer for the gradient of a tensor of this shape.
pub(super) fn zeros<B: Backend>(
    device: &B::Device,
    shape: [usize; 3],
) -> Result<B::Buffer<Accum<B>>> {
    B::zeros(device, product("a gradient of attention", &shape)?)
}

/// A gradient, rounded.
pub(super) fn heads<B: Backend, const N: usize, const D: usize>(
    device: &B::Device,
    buffer: B::Buffer<Accum<B>>,
    rows: usize,
) -> Result<Heads<B, N, D>> {
    Ok(Heads {
        device: device.clone(),
        buffer: B::round(device, buffer)?,
        rows,
    })
}

/// A gradient that the heads share, rounded.
pub(super) fn rows<B: Backend, const W: usize>(
    device: &B::Device,
    buffer: B::Buffer<Accum<B>>,
    rows: usize,
) -> Result<Rows<B, W>> {
    Ok(Rows {
        device: device.clone(),
        buffer: B::round(device, buffer)?,
        rows,
    })
}
