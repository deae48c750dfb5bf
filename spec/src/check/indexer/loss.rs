//! `loss`: how an indexer is trained (features 1.M).

use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::text::wrong_kind;
use crate::check::value::{Field, Stated, Table};
use crate::check::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{IndexerLoss, LossEpsilon, LossReduction, LossStage, Pool};
use crate::node::NodeKind;

const STAGES: Words<'static, LossStage> = Words {
    choices: &[("dense", LossStage::Dense), ("sparse", LossStage::Sparse)],
    aliases: &[
        ("warmup", "dense"),
        ("warm_up", "dense"),
        ("dense_warmup", "dense"),
        ("topk", "sparse"),
    ],
    others: None,
};

const REDUCTIONS: Words<'static, LossReduction> = Words {
    choices: &[
        ("mean_valid", LossReduction::MeanValid),
        ("mean_all", LossReduction::MeanAll),
        ("sum", LossReduction::Sum),
    ],
    aliases: &[("per_token", "sum"), ("none", "sum")],
    others: None,
};

const EPSILONS: Words<'static, LossEpsilon> = Words {
    choices: &[("clamp", LossEpsilon::Clamp), ("add", LossEpsilon::Add)],
    aliases: &[("clamp_min", "clamp"), ("added", "add")],
    others: None,
};

/// `loss: { stage, coeff, reduction, epsilon }`.
pub(super) fn loss(field: &Field<'_>, out: &mut Diagnostics) -> Option<IndexerLoss> {
    if !matches!(field.value.kind, NodeKind::Map(_)) {
        let wrong = wrong_kind(field.name(), "a mapping", field.value);
        out.push(wrong.help("write `loss: { stage: .., coeff: 1.0, reduction: .., epsilon: .. }`"));
        return None;
    }
    let place = Place::Training;
    let mut table = Table::map(field.name(), None, field.value, field.key.span, place, out)?;
    let stage = table
        .require("stage")
        .and_then(|field| field.word(&STAGES, out));
    let coeff = table.require("coeff").and_then(|field| {
        field.bounded(
            "greater than 0 and at most 1e6",
            |coeff| coeff > 0.0 && coeff <= 1e6,
            out,
        )
    });
    let reduction = table
        .require("reduction")
        .and_then(|field| field.word(&REDUCTIONS, out));
    let epsilon = table
        .require("epsilon")
        .and_then(|field| field.word(&EPSILONS, out));
    table.finish(out);
    Some(IndexerLoss {
        stage: stage?.value,
        coeff: coeff?,
        reduction: reduction?.value,
        epsilon: epsilon?.value,
    })
}

/// What an indexer with a loss can't have.
pub(super) fn refuse_beside(
    loss: &Stated<IndexerLoss>,
    pool: &Stated<Pool>,
    share_topk: &Stated<bool>,
    out: &mut Diagnostics,
) {
    let Some((loss, key)) = loss.given() else {
        return;
    };
    if let Some((_, pool)) = pool.given() {
        let message =
            "the loss compares probabilities of keys, and this indexer scores pools of them";
        let label = "no target for a pool";
        let pooled = Diagnostic::error(codes::LOSS_OF_POOLS, message, key, label);
        out.push(pooled.and(pool, "pools its keys").help("remove `loss`"));
    }
    if let (LossStage::Dense, Some((true, share))) = (loss.stage, share_topk.given()) {
        let message = "the dense stage attends to every key, so there is no choice to share";
        let label = "picks nothing in training";
        let shared = Diagnostic::error(codes::DENSE_LOSS_SHARED, message, key, label);
        out.push(
            shared
                .and(share, "hands over what is picked")
                .help("write `stage: sparse`, or remove `share_topk`"),
        );
    }
}
