//! What only training computes.

use super::Facts;
use crate::layer::{IndexerLoss, LossEpsilon, LossReduction, LossStage, QkClip};

/// The bound on logits.
pub(super) fn clip(facts: &mut Facts, clip: Option<&QkClip>) {
    let said = clip.map(|QkClip { threshold, alpha }| format!("at {threshold}, α {alpha}"));
    facts.mathematics_if_any("QK-clip (training)", said);
}

/// An indexer's loss.
pub(super) fn loss(facts: &mut Facts, loss: Option<&IndexerLoss>) {
    let said = loss.map(
        |IndexerLoss {
             coeff,
             stage,
             reduction,
             epsilon,
         }| {
            let stage = match stage {
                LossStage::Dense => "every visible key",
                LossStage::Sparse => "the picked keys",
            };
            let reduction = match reduction {
                LossReduction::MeanValid => "mean of the rows that see a key",
                LossReduction::MeanAll => "mean of all rows",
                LossReduction::Sum => "sum",
            };
            let epsilon = match epsilon {
                LossEpsilon::Clamp => "clamped logarithms",
                LossEpsilon::Add => "epsilon added in logarithms",
            };
            format!("{coeff} times, over {stage}, {reduction}, {epsilon}")
        },
    );
    facts.mathematics_if_any("indexer's loss (training)", said);
}
