//! The slots of `SelfAttention`.

use crate::check::codes;
use crate::check::gate::{self, Wanted};
use crate::check::modules::{self, Module};
use crate::check::norms::{self, Said};
use crate::check::slots::{Known, Slots};
use crate::check::text::quoted;
use crate::check::value::Stated;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{ModuleSpec, Submodule};
use crate::layer::{Gate, GateGranularity, GateSource, HeadNorms, NormParams, QkvProjection};
use crate::reference::SELF_SLOTS;
use crate::span::Span;

const SLOTS: Known = Known {
    module: "SelfAttention",
    slots: &SELF_SLOTS,
    foreign: FOREIGN,
};

/// Other systems' slots and names of weights, with what to do.
#[rustfmt::skip] // a table
const FOREIGN: &[(&str, Option<&str>, &str)] = &[
    ("qkv_proj", Some("linear_qkv"), "here it is called `linear_qkv`"),
    ("c_attn", Some("linear_qkv"), "here it is called `linear_qkv`"),
    ("q_proj", Some("linear_q"), "here it is called `linear_q`; `linear_qkv` loads all three as well"),
    ("k_proj", Some("linear_kv"), "fill `linear_kv` for keys and values, or `linear_qkv` for all three"),
    ("v_proj", Some("linear_kv"), "fill `linear_kv` for keys and values, or `linear_qkv` for all three"),
    ("o_proj", Some("linear_proj"), "here it is called `linear_proj`"),
    ("q_norm", Some("q_layernorm"), "here it is called `q_layernorm`"),
    ("k_norm", Some("k_layernorm"), "here it is called `k_layernorm`"),
    ("g_proj", Some("linear_gate_proj"), "here it is called `linear_gate_proj`"),
    ("gate_proj", Some("linear_gate_proj"), "here it is called `linear_gate_proj`"),
    ("indexer", None, "remove it: sparse attention needs latents, so `module: MLASelfAttention`"),
    ("linear_q_proj", Some("linear_q"), "here it is called `linear_q`; the longer name is `MLASelfAttention`'s"),
    ("linear_q_down_proj", None, "remove it: only `MLASelfAttention` makes latents"),
    ("linear_q_up_proj", None, "remove it: only `MLASelfAttention` makes latents"),
    ("linear_kv_down_proj", None, "remove it: only `MLASelfAttention` makes latents"),
    ("linear_kv_up_proj", None, "remove it: only `MLASelfAttention` makes latents"),
    ("linear_qkv_down_proj", None, "remove it: only `MLASelfAttention` makes latents"),
    ("kv_layernorm", None, "remove it: only `MLASelfAttention` makes latents; heads' keys are normed by `k_layernorm`"),
];

/// What the slots say about the layer; a part is absent where it was refused.
pub(super) struct Parts {
    pub(super) input_norm: Option<Option<NormParams>>,
    pub(super) qkv: Option<QkvProjection>,
    pub(super) norms: Option<HeadNorms>,
    pub(super) core: Option<()>,
    /// The gate; `Some(None)` without one.
    pub(super) gate: Option<Option<Gate>>,
    pub(super) output_bias: Option<bool>,
}

impl Parts {
    /// Checks every slot. `l2` is where `qk_l2_norm` stands.
    pub(super) fn read(
        spec: &ModuleSpec,
        l2: Option<Span>,
        gate: Stated<Wanted>,
        out: &mut Diagnostics,
    ) -> Self {
        let mut slots = Slots::read(spec, &SLOTS, out);
        let input_norm = norms::optional(slots.get("input_layernorm"), out);
        let qkv = qkv(&mut slots, out);
        let norms = head_norms(&slots, l2, out);
        let core = slots
            .require("core_attention")
            .and_then(|slot| core(slot, out));
        let gate = self::gate(&mut slots, gate, out);
        let output_bias = output(&mut slots, out);
        slots.finish(out);
        Self {
            input_norm,
            qkv,
            norms,
            core,
            gate,
            output_bias,
        }
    }
}

/// The joint projection, or the two separate ones.
fn qkv(slots: &mut Slots<'_>, out: &mut Diagnostics) -> Option<QkvProjection> {
    let separate = slots.get("linear_q").or(slots.get("linear_kv"));
    match (slots.get("linear_qkv"), separate) {
        (Some(fused), None) => projection(fused, out).map(|bias| QkvProjection::Fused { bias }),
        (Some(fused), Some(other)) => {
            let message = format!(
                "queries, keys and values are made by `linear_qkv`, and again by `{}`",
                other.slot.value
            );
            let label = "makes all three";
            let twice =
                Diagnostic::error(codes::TWO_QKV_PROJECTIONS, message, fused.slot.span, label);
            out.push(
                twice
                    .and(other.slot.span, "makes some of them again")
                    .help("keep `linear_qkv`, or `linear_q` and `linear_kv`"),
            );
            None
        }
        (None, Some(_)) => {
            let q_bias = slots
                .require("linear_q")
                .and_then(|slot| projection(slot, out));
            let kv_bias = slots
                .require("linear_kv")
                .and_then(|slot| projection(slot, out));
            Some(QkvProjection::Separate {
                q_bias: q_bias?,
                kv_bias: kv_bias?,
            })
        }
        (None, None) => {
            slots.require("linear_qkv");
            None
        }
    }
}

/// A projection of the layer's input; answers its bias. Also `CrossAttention`'s.
pub(in crate::check) fn projection(slot: &Submodule, out: &mut Diagnostics) -> Option<bool> {
    let norm_inside = |module| {
        (module == Module::LayerNormColumnParallelLinear).then(|| {
            let name = slot.slot.value.as_str();
            let message = format!("`{name}` would norm the layer's input");
            let label = "has a norm inside";
            let span = slot.spec.module.span;
            Diagnostic::error(codes::NORM_OF_THE_INPUT, message, span, label).help(format!(
                "write `{name}: ColumnParallelLinear`, and the norm in `input_layernorm`"
            ))
        })
    };
    modules::in_slot(slot, &[Module::ColumnParallelLinear], norm_inside, out)?;
    modules::bias(&slot.spec, out)
}

/// Attention over every visible key. Also `CrossAttention`'s.
pub(in crate::check) fn core(slot: &Submodule, out: &mut Diagnostics) -> Option<()> {
    let module = &slot.spec.module;
    if ["SparseAttention", "DSAttention"].contains(&module.value.as_str()) {
        let message = "sparse attention needs latents";
        let label = "an indexer picks among latents";
        let sparse = Diagnostic::error(codes::SPARSE_WITHOUT_LATENT, message, module.span, label);
        out.push(sparse.help("write `core_attention: DotProductAttention`, or `module: MLASelfAttention` for the layer"));
        return None;
    }
    modules::in_slot(slot, &[Module::DotProductAttention], |_| None, out)?;
    modules::no_params(&slot.spec, out);
    Some(())
}

/// `linear_proj`'s bias. Also `CrossAttention`'s.
pub(in crate::check) fn output(slots: &mut Slots<'_>, out: &mut Diagnostics) -> Option<bool> {
    let slot = slots.require("linear_proj")?;
    modules::in_slot(slot, &[Module::RowParallelLinear], |_| None, out)?;
    modules::bias(&slot.spec, out)
}

/// Learned norms of heads; none beside `qk_l2_norm`.
fn head_norms(slots: &Slots<'_>, l2: Option<Span>, out: &mut Diagnostics) -> Option<HeadNorms> {
    let mut norm = |name| match slots.get(name) {
        None => Some(None),
        Some(slot) => {
            let norm = head_norm(slot, out)?;
            if let (Some(l2), Some(_)) = (l2, norm) {
                let message =
                    format!("heads would be normed twice, by `{name}` and by `qk_l2_norm`");
                let label = "a learned norm";
                let span = slot.spec.module.span;
                let twice = Diagnostic::error(codes::TWO_HEAD_NORMS, message, span, label);
                out.push(twice.and(l2, "a norm without weights").help(format!(
                    "remove `qk_l2_norm`, or write `{name}: IdentityOp`"
                )));
            }
            Some(norm)
        }
    };
    let (q, k) = (norm("q_layernorm"), norm("k_layernorm"));
    Some(HeadNorms::Learned { q: q?, k: k? })
}

/// Where a head's norm stands, if there is one.
pub(super) fn head_norm_in(spec: &ModuleSpec) -> Option<Span> {
    let norms = ["q_layernorm", "k_layernorm"].map(|slot| spec.submodule(slot));
    let modules = norms.into_iter().flatten().map(|slot| &slot.spec.module);
    modules
        .into_iter()
        .find(|module| module.value != Module::IdentityOp.name())
        .map(|module| module.span)
}

/// What norms a head: `Some(None)` for nothing, `None` where it was refused.
fn head_norm(slot: &Submodule, out: &mut Diagnostics) -> Option<Option<NormParams>> {
    let module = &slot.spec.module;
    if module.value == "L2Norm" {
        let name = quoted(&slot.slot.value);
        let message = format!("`{name}` holds a learned norm, and `L2Norm` learns nothing");
        let label = "not in this slot";
        let wrong = Diagnostic::error(codes::WRONG_MODULE_IN_SLOT, message, module.span, label);
        out.push(wrong.help("write `qk_l2_norm: true` and `qk_l2_norm_eps` among the parameters, and leave the slot empty"));
        return None;
    }
    let allowed = [Module::RmsNorm, Module::LayerNorm, Module::IdentityOp];
    match norms::among(slot, &allowed, out)? {
        Said::Nothing => Some(None),
        Said::Norm(params) => params.map(Some),
    }
}

/// The output gate: in `linear_qkv` where there is one, else in a projection of its own.
fn gate(
    slots: &mut Slots<'_>,
    wanted: Stated<Wanted>,
    out: &mut Diagnostics,
) -> Option<Option<Gate>> {
    let (Stated::Given { value, key }, Some(fused)) = (wanted, slots.get("linear_qkv")) else {
        return gate::check(wanted, slots, out);
    };
    let refused = |message, span, label| {
        Diagnostic::error(codes::GATE_OF_QKV, message, span, label)
            .and(fused.slot.span, "holds each query's gate")
    };
    if let Some(own) = slots.get("linear_gate_proj") {
        let message = "the gate is made twice, by `linear_qkv` and by `linear_gate_proj`";
        let twice = refused(message, own.slot.span, "a projection of its own");
        out.push(twice.help(
            "remove `linear_gate_proj`, or fill `linear_q` and `linear_kv` instead of `linear_qkv`",
        ));
        return None;
    }
    if value == Wanted::PerHead {
        let message = "`linear_qkv` holds a gate per element, not per head";
        let wrong = refused(message, key, "asks for one gate per head");
        out.push(wrong.help(
            "write `attention_output_gate: per_element`, or fill `linear_q`, `linear_kv` and `linear_gate_proj`",
        ));
        return None;
    }
    Some(Some(Gate {
        granularity: GateGranularity::PerElement,
        source: GateSource::Qkv,
    }))
}
