//! The `rope` parameter, from numbers.

use super::{entry, flag, real, size, word};
use crate::node::{Entry, Node, NodeKind};
use crate::span::{Span, Spanned};

/// `type: plain`.
pub(in crate::import) fn plain(
    kind: Span,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
) -> Vec<Entry> {
    vec![
        word("type", "plain", kind),
        real("theta", theta),
        word("layout", layout.value, layout.span),
    ]
}

/// `type: linear`.
pub(in crate::import) fn linear(
    kind: Span,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
    factor: Spanned<f64>,
) -> Vec<Entry> {
    vec![
        word("type", "linear", kind),
        real("theta", theta),
        word("layout", layout.value, layout.span),
        real("factor", factor),
    ]
}

/// What `type: yarn` states.
pub(in crate::import) struct Yarn<'a> {
    /// Where the type is written.
    pub(in crate::import) kind: Span,
    pub(in crate::import) theta: Spanned<f64>,
    pub(in crate::import) layout: Spanned<&'a str>,
    pub(in crate::import) factor: Spanned<f64>,
    pub(in crate::import) original: Spanned<u32>,
    pub(in crate::import) beta_fast: Spanned<f64>,
    pub(in crate::import) beta_slow: Spanned<f64>,
    pub(in crate::import) magnitude: Magnitude,
    /// 0 where the softmax scale is not corrected.
    pub(in crate::import) mscale_all_dim: Spanned<f64>,
    pub(in crate::import) truncate: Spanned<bool>,
}

/// What cos and sin are multiplied by.
pub(in crate::import) enum Magnitude {
    /// `g(f, mscale) / g(f, mscale_all_dim)`.
    Mscale(Spanned<f64>),
    /// `attention_factor`.
    Constant(Spanned<f64>),
}

/// `type: yarn`.
pub(in crate::import) fn yarn(yarn: Yarn<'_>) -> Vec<Entry> {
    vec![
        word("type", "yarn", yarn.kind),
        real("theta", yarn.theta),
        word("layout", yarn.layout.value, yarn.layout.span),
        real("factor", yarn.factor),
        size("original_max_position_embeddings", yarn.original),
        real("beta_fast", yarn.beta_fast),
        real("beta_slow", yarn.beta_slow),
        match yarn.magnitude {
            Magnitude::Mscale(mscale) => real("mscale", mscale),
            Magnitude::Constant(factor) => real("attention_factor", factor),
        },
        real("mscale_all_dim", yarn.mscale_all_dim),
        flag("truncate", yarn.truncate),
    ]
}

/// The whole parameter.
pub(in crate::import) fn node(entries: Vec<Entry>, span: Span) -> Node {
    Node {
        kind: NodeKind::Map(entries),
        span,
    }
}

/// `{ type: none }`.
pub(in crate::import) fn none() -> Node {
    node(
        vec![entry("type", super::string("none", Span::NONE))],
        Span::NONE,
    )
}
