//! What the gradients of all forms have in common.

use crate::attended::PerHead;
use crate::backend::{Attention, AttentionBackward, Backend, Landings};
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

/// The gradients, in tensors of these shapes, and that of the bias is added to `d_bias`.
pub(super) fn run<B: Backend, const H: usize, const V: usize, const N: usize>(
    device: &B::Device,
    question: Attention<'_, B, B::Elem>,
    given: &Given<'_, B, H, V>,
    landings: &Landings,
    shapes: [[usize; 3]; N],
    d_bias: Option<&mut AttentionBias<B>>,
) -> Result<[B::Buffer<B::Elem>; N]> {
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
    let lens = shapes.map(|shape| product("a gradient of attention", &shape));
    let lens = lens.into_iter().collect::<Result<Vec<_>>>()?;
    let gradients = B::attention_gradients(device, &backward, landings, &lens)?;
    if let Some(d_bias) = d_bias {
        B::bias_backward(device, &backward, &mut d_bias.values)?;
    }
    gradients.try_into().map_err(|gradients: Vec<_>| {
        Error::Device(format!(
            "attention has {N} gradients, not {}",
            gradients.len()
        ))
    })
}

/// A gradient.
pub(super) fn heads<B: Backend, const N: usize, const D: usize>(
    device: &B::Device,
    buffer: B::Buffer<B::Elem>,
    rows: usize,
) -> Heads<B, N, D> {
    Heads {
        device: device.clone(),
        buffer,
        rows,
    }
}

/// A gradient that the heads share.
pub(super) fn rows<B: Backend, const W: usize>(
    device: &B::Device,
    buffer: B::Buffer<B::Elem>,
    rows: usize,
) -> Rows<B, W> {
    Rows {
        device: device.clone(),
        buffer,
        rows,
    }
}
