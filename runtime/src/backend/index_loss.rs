//! The loss that trains an indexer.

use super::{Accum, Attention, Backend, Strided};
use crate::indexer::{LossEpsilon, LossReduction};

/// How far an indexer is from attention: `Σ KL(P ‖ softmax(I))` over queries, reduced to one number (features M-01).
///
/// `P` is `Σ_h e^(logit - lse)` over the heads of attention, divided by its sum; `I` the indexer's scores. Both cover the same keys: those
/// that attention's segments, and its selection where there is one, let a query see. Nothing is dropped. Of attention, queries and keys
/// are read, not values; they get no gradient (features M-04).
#[derive(Debug)]
pub struct IndexLoss<'a, B: Backend> {
    /// What the indexer is compared with. Keys are rows of tensors, not of a cache.
    pub attention: Attention<'a, B, B::Elem>,
    /// `[queries, H]`: log-sum-exp that attention gave.
    pub lse: &'a B::Buffer<Accum<B>>,
    /// `[queries, HI, DI]`.
    pub q: Strided<'a, B, B::Elem>,
    /// `[keys, 1, DI]`.
    pub k: Strided<'a, B, B::Elem>,
    /// `[queries, HI]`.
    pub weights: &'a B::Buffer<Accum<B>>,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether products below 0 count as 0.
    pub relu: bool,
    /// How queries are added up.
    pub reduction: LossReduction,
    /// What keeps logarithms finite.
    pub epsilon: LossEpsilon,
    /// Multiplies the gradients, and not the loss.
    pub factor: f64,
}

/// The result of [`IndexLoss`].
#[derive(Debug)]
pub struct IndexLossParts<B: Backend> {
    /// The loss.
    pub loss: f64,
    /// Gradient of the indexer's queries, `[queries, HI, DI]`.
    pub q: B::Buffer<Accum<B>>,
    /// Of its keys, `[keys, DI]`.
    pub k: B::Buffer<Accum<B>>,
    /// Of its heads' weights, `[queries, HI]`.
    pub weights: B::Buffer<Accum<B>>,
}
