//! The slots of a `LightningIndexer`.

use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::modules::{self, Module};
use crate::check::norms::{self, Said};
use crate::check::slots::{Known, Slots};
use crate::check::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::NormParams;
use crate::reference::INDEXER_SLOTS;
use crate::span::{Span, Spanned};

#[rustfmt::skip] // a table
const SLOTS: Known = Known {
    module: "LightningIndexer",
    slots: &INDEXER_SLOTS,
    foreign: &[
        ("wq_b", Some("linear_wq_b"), "here it is called `linear_wq_b`"),
        ("wk", Some("linear_wk"), "here it is called `linear_wk`"),
        ("weights_proj", Some("linear_weights_proj"), "here it is called `linear_weights_proj`"),
        ("k_layernorm", Some("k_norm"), "here it is called `k_norm`"),
        ("softmax_scaling", None, "write `query_scaling: { type: log_position }` among the indexer's parameters"),
        ("index_kpool_compress_gate", None, "write `pool` among the indexer's parameters"),
        ("index_kpool_compress_ape", None, "write `pool` among the indexer's parameters"),
    ],
};

/// What the slots say; a part is absent where it was refused.
pub(super) struct Parts {
    pub(super) k_norm: Option<NormParams>,
    pub(super) q_input_norm: Option<Option<NormParams>>,
    pub(super) full_precision_weights: Option<bool>,
}

impl Parts {
    pub(super) fn read(
        submodule: &Submodule,
        from_latent: Option<Spanned<bool>>,
        out: &mut Diagnostics,
    ) -> Self {
        let mut slots = Slots::read(&submodule.spec, &SLOTS, out);
        for name in ["linear_wq_b", "linear_wk"] {
            if let Some(slot) = slots.require(name) {
                projection(slot, false, out);
            }
        }
        let full_precision_weights = slots
            .require("linear_weights_proj")
            .and_then(|slot| projection(slot, true, out));
        let k_norm = slots.require("k_norm").and_then(|slot| norm(slot, out));
        let input_norm = slots.get("q_input_norm");
        if let (Some(slot), Some(input)) = (input_norm, from_latent.filter(|input| input.value)) {
            refuse_input_norm(slot, input.span, out);
        }
        let q_input_norm = match input_norm {
            Some(slot) => norm(slot, out).map(Some),
            None => Some(None),
        };
        slots.finish(out);
        Self {
            k_norm,
            q_input_norm,
            full_precision_weights,
        }
    }
}

/// A projection of the indexer, which has no bias; whether it is computed in f32, where it may say so.
fn projection(slot: &Submodule, may_say: bool, out: &mut Diagnostics) -> Option<bool> {
    modules::in_slot(slot, &[Module::Linear], |_| None, out)?;
    let mut table = Table::params(&slot.spec, Place::Leaf);
    modules::refuse_bias(&mut table, &slot.slot.value, out);
    let full_precision = if may_say {
        modules::full_precision(&mut table, out)
    } else {
        Some(false)
    };
    table.finish(out);
    full_precision
}

fn norm(slot: &Submodule, out: &mut Diagnostics) -> Option<NormParams> {
    match norms::among(slot, &[Module::LayerNorm, Module::RmsNorm], out)? {
        Said::Norm(params) => params,
        Said::Nothing => None,
    }
}

fn refuse_input_norm(slot: &Submodule, input: Span, out: &mut Diagnostics) {
    let message = "`q_input_norm` norms the hidden state, and the indexer's queries come from the query latent";
    let of_latent = Diagnostic::error(
        codes::Q_INPUT_NORM_OF_LATENT,
        message,
        slot.slot.span,
        "nothing to norm",
    );
    out.push(
        of_latent
            .and(input, "already normed")
            .help("remove `q_input_norm`, or write `query_input: hidden`"),
    );
}
