//! Attention over whole sequences: expanded, absorbed, grouped; over all keys that a query sees or over a few selected ones. Softmax runs
//! block by block: no matrix of queries by keys is ever stored, neither forward nor backward.
//!
//! The `.._backward` functions take the operands again, with what the forward function gave: `out` and `lse`, sinks included, before any
//! gate; and `d_out`, the gradient of `out`. With `P = e^(logit - lse)` and the dropout's multipliers `m`,
//! `d_v = Σ P m d_out`, `dS = P (m (d_out · v) - d_out · out)`, `d_q = τ Σ dS k` and `d_k = τ Σ dS q`, a soft cap's derivative
//! multiplied to `dS`; `dS` without it is the gradient of the bias, which the `.._with_bias` ones add to a tensor of the bias's shape.
//! Logits are computed again, block by block; rows that see nothing and keys that nobody sees get zeros.

mod absorbed;
mod backward;
mod context;
mod expanded;
mod grouped;
mod output;

pub(crate) use absorbed::question as absorbed_question;
pub use absorbed::{
    absorbed, absorbed_backward, absorbed_backward_with_bias, absorbed_selected,
    absorbed_selected_backward, absorbed_selected_backward_with_bias,
};
pub use context::over_context;
pub(crate) use expanded::question as expanded_question;
pub use expanded::{
    expanded, expanded_backward, expanded_backward_with_bias, expanded_selected,
    expanded_selected_backward, expanded_selected_backward_with_bias,
};
pub(crate) use grouped::question as grouped_question;
pub use grouped::{
    grouped, grouped_backward, grouped_backward_with_bias, grouped_selected,
    grouped_selected_backward, grouped_selected_backward_with_bias,
};
pub use output::AttentionOutput;

use crate::backend::{Attention, Backend, Strided};
use crate::error::{Result, expect_count, product};
use crate::segments::Segments;
use crate::softmax::Softmax;

/// Refuses, when compiled, heads of queries that do not fall into equal groups.
pub(crate) const fn whole_groups(heads: usize, groups: usize) {
    assert!(
        groups > 0 && heads.is_multiple_of(groups),
        "the heads of queries do not fall into equal groups"
    );
}

/// Runs attention, its softmax checked.
pub(crate) fn attend<B, E, O, const H: usize, const V: usize>(
    device: &B::Device,
    attention: Attention<'_, B, E>,
) -> Result<O>
where
    B: Backend,
    E: crate::element::Scalar,
    O: AttentionOutput<B, H, V>,
{
    let rows = attention.q.rows;
    let attention = Attention {
        softmax: checked::<B, H, V>(rows, attention.segments, attention.softmax)?,
        ..attention
    };
    O::attend(device, &attention)
}

/// The softmax of attention of `rows` rows of queries, checked, as the output's size and the segments' rows are.
pub(crate) fn checked<'a, B: Backend, const H: usize, const V: usize>(
    rows: usize,
    segments: &Segments,
    softmax: Softmax<'a, B>,
) -> Result<Softmax<'a, B>> {
    expect_count("rows of queries", rows, segments.queries())?;
    product("attention's output", &[rows, H, V])?;
    softmax.checked(H, segments)
}

/// Values `offset .. offset + width` of every head.
pub(crate) fn narrowed<B: Backend, S: crate::element::Scalar>(
    all: Strided<'_, B, S>,
    offset: usize,
    width: usize,
) -> Strided<'_, B, S> {
    Strided {
        offset: all.offset + offset,
        width,
        ..all
    }
}
