//! Attention itself: over every visible key, or over those that an indexer picks.

use super::codes;
use super::indexer;
use super::latent::sizes::Rank;
use super::mask::Mask;
use super::modules::{self, Module};
use super::slots::{Known, Slots};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::{Core, MaskKind, Rope};
use crate::reference::SPARSE_SLOTS;
use crate::span::{Span, Spanned};

const SLOTS: Known = Known {
    module: "SparseAttention",
    slots: &SPARSE_SLOTS,
    foreign: &[
        ("wq_b", None, "write it in the indexer, as `linear_wq_b`"),
        ("wk", None, "write it in the indexer, as `linear_wk`"),
        (
            "weights_proj",
            None,
            "write it in the indexer, as `linear_weights_proj`",
        ),
        ("k_norm", None, "write it in the indexer"),
    ],
};

/// What a sparse core must agree with; absent where it was refused.
pub(super) struct Surroundings<'a> {
    /// Where the attention module stands.
    pub(super) module: Span,
    /// The layer's rope and where it, or what decides on it, was written.
    pub(super) rope: Option<(&'a Rope, Span)>,
    /// How much of a head is rotated.
    pub(super) rotated: Option<Spanned<u32>>,
    /// The rank of the queries.
    pub(super) rank: Rank,
    /// Where the query's norm stands, if it is inside the up projection.
    pub(super) normed_in_projection: Option<Span>,
    pub(super) mask: Option<Mask>,
    /// Where a bias of the logits is asked for.
    pub(super) bias: Option<Span>,
}

/// The core of latent attention.
pub(super) fn core(
    slot: &Submodule,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) -> Option<Core> {
    let allowed = [Module::DotProductAttention, Module::SparseAttention];
    match modules::in_slot(slot, &allowed, |_| None, out)? {
        Module::SparseAttention => sparse(slot, around, out),
        _ => {
            modules::no_params(&slot.spec, out);
            Some(Core::Dense)
        }
    }
}

/// Where the loss of a core's indexer stands, if it has one.
pub(super) fn loss(core: &Submodule) -> Option<Span> {
    let indexer = core.spec.submodule("indexer")?;
    let loss = indexer
        .spec
        .params
        .iter()
        .find(|param| param.key.value == "loss")?;
    Some(loss.key.span)
}

fn sparse(slot: &Submodule, around: &Surroundings<'_>, out: &mut Diagnostics) -> Option<Core> {
    modules::no_params(&slot.spec, out);
    let mut slots = Slots::read(&slot.spec, &SLOTS, out);
    let submodule = slots.require("indexer");
    slots.finish(out);
    let core = slot.spec.module.span;
    refuse_mask(core, around, out);
    refuse_bias(core, around, out);
    let indexer = submodule.and_then(|submodule| indexer::check(submodule, around, out));
    indexer.map(Core::Sparse)
}

/// An indexer scores what came before the query: all of it, in order (L-11).
fn refuse_mask(core: Span, around: &Surroundings<'_>, out: &mut Diagnostics) {
    let Some(mask) = around.mask else {
        return;
    };
    let causal = mask.value.kind == MaskKind::Causal;
    let (message, span, label, help) = match mask.beside {
        Some(beside) => (
            format!(
                "an indexer picks from all earlier tokens, which `{}` changes",
                beside.key
            ),
            beside.span,
            "no indexer scores such a mask",
            format!(
                "remove `{}`, or write `core_attention: DotProductAttention`",
                beside.key
            ),
        ),
        None if !causal => (
            "an indexer picks from earlier tokens alone".to_owned(),
            mask.span,
            "not a causal mask",
            "write `causal` or `padding_causal`, or `core_attention: DotProductAttention`"
                .to_owned(),
        ),
        None => return,
    };
    let against = Diagnostic::error(codes::INDEXER_MASK, message, span, label);
    out.push(
        against
            .and(core, "attends to what an indexer picks")
            .help(help),
    );
}

/// A bias would come after the choice of keys that it should have had a say in.
fn refuse_bias(core: Span, around: &Surroundings<'_>, out: &mut Diagnostics) {
    let Some(bias) = around.bias else {
        return;
    };
    let message = "an indexer picks keys without the bias that logits then have";
    let against = Diagnostic::error(
        codes::SPARSE_WITH_BIAS,
        message,
        bias,
        "not seen by the indexer",
    );
    out.push(
        against
            .and(core, "attends to what an indexer picks")
            .help("remove `core_attention_bias`, or write `core_attention: DotProductAttention`"),
    );
}
