//! The loss that trains an indexer: how far its scores are from what attention does (features 1.M).
//!
//! For a query `t`, over the keys that it sees, or over the selected ones of them:
//! `P(t, ·) = Σ_h e^(logit_h(t, ·) - lse_h(t))`, divided by its sum, and the loss is `KL(P ‖ softmax(I(t, ·)))`. Queries, keys and log-sum-exp of
//! attention are constants here; gradients reach the indexer's queries, its key and its heads' weights alone (M-04). Which keys were
//! selected has no gradient.
//!
//! Logits and scores are computed again, some queries at a time; nothing is ever as large as queries times keys.

use crate::attended::PerHead;
use crate::attention::{absorbed_question, expanded_question, grouped_question, narrowed};
use crate::backend::{Attention, Backend, IndexLoss};
use crate::error::{Result, expect_count, finite, product};
use crate::heads::{Heads, HeadsView};
use crate::indexer::Selecting;
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::{Rows, RowsView};
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::Softmax;

/// The constants of an indexer's loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexerLoss {
    /// What multiplies it.
    pub coeff: f64,
    /// How queries are added up.
    pub reduction: LossReduction,
    /// What keeps logarithms finite.
    pub epsilon: LossEpsilon,
}

/// How the losses of queries become one number (features M-03).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossReduction {
    /// The mean over the queries that see a key (Megatron).
    MeanValid,
    /// The sum divided by the number of all rows, padding included (MaxText).
    MeanAll,
    /// The sum (Megatron with `calculate_per_token_loss`).
    Sum,
}

/// What keeps the loss's logarithms finite (features M-01). The gradients are those of the formula as it then stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossEpsilon {
    /// `P` is at least 1e-10 inside its logarithm; the student's logarithm is that of its softmax (Megatron).
    Clamp,
    /// 1e-8 is added inside both logarithms and to the sum that `P` is divided by (MaxText).
    Add,
}

/// An indexer's loss and its gradients.
#[derive(Debug)]
pub struct IndexerGradients<B: Backend, const HI: usize, const DI: usize> {
    /// The loss, the coefficient in it; not multiplied by the `scale` of the gradients.
    pub loss: f64,
    /// Gradient of the indexer's queries.
    pub q: Heads<B, HI, DI>,
    /// Gradient of its keys.
    pub k: Rows<B, DI>,
    /// Gradient of its heads' weights.
    pub weights: PerHead<B, HI>,
}

/// An indexer's operands, and what is made of them.
struct Student<'a, B: Backend, const HI: usize, const DI: usize> {
    q: &'a Heads<B, HI, DI>,
    k: RowsView<'a, B, DI>,
    weights: &'a PerHead<B, HI>,
    selecting: &'a Selecting,
    loss: &'a IndexerLoss,
    scale: f64,
}

/// The loss where attention is [`expanded`](crate::attention::expanded()): `lse` is what it gave, with the same `segments`, `softmax` and, where
/// there is one, `selection`. Gradients are multiplied by `scale`, which is that of all losses of a step.
///
/// # Errors
/// When rows are not the segments' queries or keys, or constants not finite.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn loss_expanded<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const K: usize,
    const HI: usize,
    const DI: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    lse: &PerHead<B, H>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    selection: Option<&Selection<B, K>>,
    index_q: &Heads<B, HI, DI>,
    index_k: impl Into<RowsView<'a, B, DI>>,
    index_weights: &PerHead<B, HI>,
    selecting: &Selecting,
    loss: &IndexerLoss,
    scale: f64,
) -> Result<IndexerGradients<B, HI, DI>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let chosen = selection.map(|chosen| chosen.of(segments)).transpose()?;
    let question = expanded_question(q, kv, k_rope, segments, chosen, softmax.into())?;
    let student = Student {
        q: index_q,
        k: index_k.into(),
        weights: index_weights,
        selecting,
        loss,
        scale,
    };
    student.compared(question, lse)
}

/// [`loss_expanded`] where attention is [`absorbed`](crate::attention::absorbed()).
///
/// # Errors
/// As [`loss_expanded`].
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn loss_absorbed<
    'a,
    B,
    L,
    const H: usize,
    const C: usize,
    const R: usize,
    const K: usize,
    const HI: usize,
    const DI: usize,
>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    lse: &PerHead<B, H>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    selection: Option<&Selection<B, K>>,
    index_q: &Heads<B, HI, DI>,
    index_k: impl Into<RowsView<'a, B, DI>>,
    index_weights: &PerHead<B, HI>,
    selecting: &Selecting,
    loss: &IndexerLoss,
    scale: f64,
) -> Result<IndexerGradients<B, HI, DI>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    let chosen = selection.map(|chosen| chosen.of(segments)).transpose()?;
    let question = absorbed_question(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)?;
    let student = Student {
        q: index_q,
        k: index_k.into(),
        weights: index_weights,
        selecting,
        loss,
        scale,
    };
    student.compared(question, lse)
}

/// [`loss_expanded`] where attention is [`grouped`](crate::attention::grouped()); values do not enter the loss, nor this function.
///
/// # Errors
/// As [`loss_expanded`].
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn loss_grouped<
    'a,
    B,
    const H: usize,
    const G: usize,
    const D: usize,
    const K: usize,
    const HI: usize,
    const DI: usize,
>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    lse: &PerHead<B, H>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
    selection: Option<&Selection<B, K>>,
    index_q: &Heads<B, HI, DI>,
    index_k: impl Into<RowsView<'a, B, DI>>,
    index_weights: &PerHead<B, HI>,
    selecting: &Selecting,
    loss: &IndexerLoss,
    scale: f64,
) -> Result<IndexerGradients<B, HI, DI>>
where
    B: Backend + 'a,
{
    let chosen = selection.map(|chosen| chosen.of(segments)).transpose()?;
    let question = grouped_question(q, k, k, segments, chosen, softmax.into())?;
    let student = Student {
        q: index_q,
        k: index_k.into(),
        weights: index_weights,
        selecting,
        loss,
        scale,
    };
    student.compared(question, lse)
}

impl<B: Backend, const HI: usize, const DI: usize> Student<'_, B, HI, DI> {
    /// The loss against attention.
    fn compared<const H: usize>(
        &self,
        question: Attention<'_, B, B::Elem>,
        lse: &PerHead<B, H>,
    ) -> Result<IndexerGradients<B, HI, DI>> {
        let (queries, keys) = (question.segments.queries(), question.segments.keys());
        expect_count("rows of queries", question.q.rows, queries)?;
        expect_count("rows of attention's log-sum-exp", lse.rows(), queries)?;
        expect_count("rows of an indexer's queries", self.q.rows(), queries)?;
        expect_count("rows of an indexer's weights", self.weights.rows(), queries)?;
        expect_count("rows of an indexer's keys", self.k.rows(), keys)?;
        self.selecting.checked(usize::MAX)?;
        let coeff = finite("the coefficient of an indexer's loss", self.loss.coeff)?;
        let scale = finite("the scale of the losses", self.scale)?;
        product("gradients of an indexer's queries", &[queries, HI, DI])?;
        product("gradients of an indexer's keys", &[keys, DI])?;
        let softmax = question.softmax.checked(H, question.segments)?;
        let loss = IndexLoss {
            attention: Attention {
                v: narrowed(question.v, 0, 0),
                softmax,
                ..question
            },
            lse: &lse.buffer,
            q: self.q.view().strided(),
            k: self.k.strided(),
            weights: &self.weights.buffer,
            scale: self.selecting.scale,
            relu: self.selecting.relu,
            reduction: self.loss.reduction,
            epsilon: self.loss.epsilon,
            factor: coeff * scale,
        };
        let device = &self.q.device;
        let parts = B::index_loss(device, &loss)?;
        Ok(IndexerGradients {
            loss: coeff * parts.loss,
            q: Heads {
                device: device.clone(),
                buffer: B::round(device, parts.q)?,
                rows: queries,
            },
            k: Rows {
                device: device.clone(),
                buffer: B::round(device, parts.k)?,
                rows: keys,
            },
            weights: PerHead {
                device: device.clone(),
                buffer: parts.weights,
                rows: queries,
            },
        })
    }
}
