//! The indexer (features 1.L), whose queries and keys are turned by halves whatever the layer's rope says.

use super::super::codes;
use super::super::defaults::Reader;
use super::super::parts::{Indexer, IndexerLoss, Lightning};
use crate::diagnostic::Diagnostic;
use crate::layer::{RopeLayout, SplitOrder};
use crate::span::Spanned;

const PATH: &str = "submodules.core_attention.submodules.indexer";

/// The indexer; `None` where attention is dense, or where it was refused.
pub(super) fn read(reader: &mut Reader<'_, '_>, lora: bool) -> Option<Indexer> {
    let on = reader.flag("use_indexer", false);
    if !on.value {
        return None; // its other keys are judged as ones that do nothing
    }
    if !lora {
        let message = "the indexer reads the query latent, and `q_lora_rank` is 0";
        reader.config.report(
            Diagnostic::error(codes::REFUSED_THERE, message, on.span, "refused")
                .note("MaxText has no indexer beside plain queries")
                .help("state `q_lora_rank`, or remove `use_indexer`"),
        );
    }
    lint_inexact(reader);
    let path = |param: &str| format!("{PATH}.params.{param}");
    let num_heads = reader.size("indexer_n_heads", &path("num_heads"), 64);
    let head_dim = reader.size("indexer_head_dim", &path("head_dim"), 128);
    let topk = reader.size("indexer_topk", &path("topk"), 2048);
    let loss = loss(reader);
    reader.comments.add(
        &path("rope_layout"),
        "MaxText's indexer turns halves (i, i+d/2), whatever rope_interleave says",
    );
    reader.comments.add(
        &format!("{PATH}.submodules.linear_weights_proj.params.dtype"),
        "MaxText keeps these weights in f32",
    );
    reader.comments.add(
        &format!("{PATH}.submodules.k_norm.params.eps"),
        "flax's own, whatever normalization_layer_epsilon says",
    );
    Some(Indexer::Lightning(Box::new(Lightning {
        num_heads,
        head_dim,
        topk,
        rope: Some((RopeLayout::Half, SplitOrder::RopeFirst)),
        from_hidden: false,
        log_position: false,
        k_norm: "LayerNorm",
        k_norm_eps: Spanned::unplaced(1e-6),
        full_precision_weights: true,
        hadamard: false,
        relu: Spanned::unplaced(true),
        loss,
        forced: None,
        pool: None,
        shared: false,
    })))
}

/// MaxText may pick other keys than the best `topk`.
fn lint_inexact(reader: &mut Reader<'_, '_>) {
    let approximate = reader.flag("indexer_use_approx_top_k", false);
    reader.config.entry("indexer_approx_top_k_recall");
    if approximate.value {
        reader.config.report(
            Diagnostic::warning(
                codes::DIFFERS_THERE,
                "MaxText picks keys approximately here",
                approximate.span,
                "may miss some of the best",
            )
            .note("the imported layer picks the best ones, of equal scores the earlier"),
        );
    }
    let exact = reader.flag("indexer_mask_exact_topk", true);
    if !exact.value {
        reader.config.report(
            Diagnostic::warning(
                codes::DIFFERS_THERE,
                "MaxText picks more than `indexer_topk` keys where scores are equal",
                exact.span,
                "keeps every score at the threshold",
            )
            .note("the imported layer picks exactly so many, of equal scores the earlier"),
        );
    }
}

/// The loss that trains the indexer (features 1.M).
fn loss(reader: &mut Reader<'_, '_>) -> Option<IndexerLoss> {
    let sparse = reader.flag("indexer_sparse_training", false);
    let coeff = reader.optional("indexer_loss_scaling_factor")?;
    if coeff.value == 0.0 {
        return None;
    }
    if !sparse.value {
        reader.config.report(dense_stage(
            "MaxText",
            "`trainable_parameters_mask`",
            coeff.span,
        ));
    }
    Some(IndexerLoss {
        coeff,
        stage: Spanned::new(if sparse.value { "sparse" } else { "dense" }, sparse.span),
        reduction: Spanned::unplaced("mean_all"),
        epsilon: "add",
    })
}

/// The dense stage of other systems covers every key with the loss alone.
pub(in crate::import) fn dense_stage(
    owner: &str,
    freezes: &str,
    span: crate::span::Span,
) -> Diagnostic {
    let message = format!("{owner} attends to the picked keys while a dense loss covers every one");
    Diagnostic::warning(codes::DIFFERS_THERE, message, span, "a dense loss")
        .note(format!("in the imported layer's dense stage attention covers every key too, and only the indexer is trained; there, {freezes} says what is"))
}
