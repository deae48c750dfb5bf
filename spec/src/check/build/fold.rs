//! `fold`: weights that are combined when they are loaded.

use super::phases::Phases;
use crate::build::{Fold, Phase};
use crate::check::About;
use crate::check::codes;
use crate::check::value::Table;
use crate::check::words::{Others, Words};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Layer, Projections};
use crate::span::Spanned;

const FOLDS: Words<'static, Fold> = Words {
    choices: &[("input_projections", Fold::InputProjections)],
    aliases: &[
        ("down_projections", "input_projections"),
        ("fused_qkv_a_proj", "input_projections"),
        ("mla_down_proj_fusion", "input_projections"),
        ("fuse_wk_weights_proj", "input_projections"),
    ],
    others: Some(&Others {
        code: codes::NEVER_FOLDED,
        verdict: "would save nothing",
        label: "not folded",
        words: &[
            ("q_up_kv_up", PRODUCT),
            ("w_uq_w_uk", PRODUCT),
            ("absorbed_queries", PRODUCT),
            ("kv_up_proj", OUTPUT),
            ("w_uv_w_o", OUTPUT),
            ("absorbed_output", OUTPUT),
            ("layernorm", NORM),
            ("norm_weights", NORM),
            ("gamma", NORM),
            ("softmax_scale", SCALE),
            ("scale", SCALE),
            ("rope", ROPE),
            ("rope_layout", ROPE),
        ],
    }),
};

const PRODUCT: &str = "remove it: the product of a head's W_UQ and W_UK has r_q · r_kv numbers, and the two have d_n (r_q + r_kv); it is smaller \
                       only where r_q < d_n r_kv / (r_kv - d_n), below 171 for d_n = 128 and r_kv = 512";
const OUTPUT: &str = "remove it: the product of a head's W_O and W_UV has h · r_kv numbers, and the two have d_v (h + r_kv), which is less where \
                      d_v < h r_kv / (h + r_kv), below 478 for h = 7168 and r_kv = 512";
const NORM: &str = "remove it: a norm multiplies by its weight in the same pass over the rows that divides by their length";
const SCALE: &str = "remove it: kernels multiply logits by it, and by log2(e), in the instruction that subtracts the largest one";
const ROPE: &str = "remove it: rope reads either order of a checkpoint in one pass; `cache.rope_layout` says how keys are cached";

/// Reads the key; a list without what was refused.
pub(super) fn read(
    table: &mut Table<'_>,
    phases: &Phases,
    about: &About,
    layer: Option<&Layer>,
    out: &mut Diagnostics,
) -> Vec<Fold> {
    let Some(field) = table.take("fold") else {
        return Vec::new();
    };
    let found = field.words(&FOLDS, out);
    if let (Some(first), Some(train)) = (found.first(), phases.find(&[Phase::Train])) {
        let message = "weights are folded when they are loaded, and `train` changes them apart";
        let folded = Diagnostic::error(
            codes::FOLDED_IN_TRAINING,
            message,
            first.span,
            "one matrix instead of several",
        );
        out.push(
            folded
                .and(train.span, "each has a gradient of its own")
                .help("remove `fold`, or `train` from `phases`; `linear_qkv_down_proj` is one matrix in training too"),
        );
    }
    for fold in &found {
        if let Some(layer) = layer {
            refuse_lacking(*fold, about, layer, out);
        }
    }
    let mut list: Vec<Fold> = found.iter().map(|fold| fold.value).collect();
    list.sort();
    list
}

/// Refuses what the layer has nothing of to combine.
fn refuse_lacking(fold: Spanned<Fold>, about: &About, layer: &Layer, out: &mut Diagnostics) {
    let Some((_, module)) = about.attention else {
        return;
    };
    if fold.value.is_of(layer) {
        return;
    }
    let seen = match layer.projections {
        Projections::Latent(_) => {
            "has fewer than two projections of its input to latents or to an indexer's keys and weights, all in one type and without a bias"
        }
        Projections::Grouped(_) | Projections::Cross(_) => {
            "makes heads of its input: `linear_qkv` is one matrix for all of them"
        }
    };
    let message = format!(
        "`fold` names `{}`, and there is nothing to combine",
        fold.value.word()
    );
    let lacks = Diagnostic::error(codes::NOTHING_TO_FOLD, message, fold.span, "stands alone");
    out.push(lacks.and(module, seen).help("remove `fold`"));
}
