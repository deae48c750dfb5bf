//! Keys that people write in `qk_clip` and in an indexer's `loss`.

use super::{Foreign, idle, moved, renamed};

#[rustfmt::skip] // a table: one option a line
pub(super) const TRAINING: &[Foreign] = &[
    // QK-clip
    renamed("qk_clip_threshold", "threshold", "write `threshold`"),
    renamed("tau", "threshold", "write `threshold`"),
    renamed("qk_clip_alpha", "alpha", "write `alpha`"),
    idle("log_max_attention_logit", "remove it: each head's largest logit is always kept beside `qk_clip`"),
    // an indexer's loss
    renamed("dsa_indexer_loss_coeff", "coeff", "write `coeff`"),
    renamed("indexer_loss_scaling_factor", "coeff", "write `coeff`"),
    renamed("coefficient", "coeff", "write `coeff`"),
    renamed("weight", "coeff", "write `coeff`"),
    renamed("dsa_indexer_use_sparse_loss", "stage", "write `stage: dense` or `stage: sparse`"),
    renamed("indexer_sparse_training", "stage", "write `stage: dense` or `stage: sparse`"),
    renamed("calculate_per_token_loss", "reduction", "write `reduction: sum` for true, `reduction: mean_valid` for false"),
    renamed("eps", "epsilon", "write `epsilon: clamp` (Megatron) or `epsilon: add` (MaxText), which have numbers of their own"),
    moved("dropout", "write `attention_dropout` among the parameters of the attention module"),
];
