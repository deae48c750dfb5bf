//! What only training computes: an indexer's loss (features 1.M) and QK-clip (1.N).

/// QK-clip, MuonClip's bound on logits (features N-01): head `h` whose largest logit is `s` is scaled by `η = min(1, τ_c / s)`, its
/// query rows by `η^α`, its own key rows by `η^(1 - α)`, rows that meet a key shared by the heads by `η`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkClip {
    /// `τ_c`, above 0.
    pub threshold: f64,
    /// `α`, between 0 and 1.
    pub alpha: f64,
}

/// The loss that trains an indexer: `coeff · Σ KL(P ‖ softmax(I))` over query rows, `P` the attention probabilities summed over heads and
/// divided by their sum (features M-01).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexerLoss {
    /// What multiplies it, above 0.
    pub coeff: f64,
    /// Which keys both distributions cover, and what else is trained.
    pub stage: LossStage,
    /// How rows are added up.
    pub reduction: LossReduction,
    /// What keeps logarithms finite.
    pub epsilon: LossEpsilon,
}

/// A stage of an indexer's training (features M-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossStage {
    /// `dense`: attention and both distributions cover every visible key, and only the indexer is trained.
    Dense,
    /// `sparse`: attention and both distributions cover the selected keys, and the indexer is trained beside the layer.
    Sparse,
}

/// How the loss of the rows becomes one number (features M-03).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossReduction {
    /// `mean_valid`: the mean over the rows that see a key (Megatron).
    MeanValid,
    /// `mean_all`: the sum divided by the number of all rows, padding included (MaxText).
    MeanAll,
    /// `sum`: the sum (Megatron with `calculate_per_token_loss`).
    Sum,
}

/// What keeps the loss's logarithms finite (features M-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossEpsilon {
    /// `clamp`: the target is at least 1e-10 inside its logarithm; the student's logarithm is that of its softmax (Megatron).
    Clamp,
    /// `add`: 1e-8 is added inside both logarithms and to the sum that the target is divided by (MaxText).
    Add,
}
