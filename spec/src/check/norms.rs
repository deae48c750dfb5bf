//! Latent norms: in a slot of their own, fused into the up projection, or not at all.

use super::codes;
use super::foreign::Place;
use super::modules::{self, Module};
use super::slots::Slots;
use super::text::shown;
use super::value::{Field, Table};
use super::words::{Others, Words};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{ModuleSpec, Submodule};
use crate::layer::{Norm, NormKind, NormParams};
use crate::span::Span;

const KINDS: Words<'static, NormKind> = Words {
    choices: &[
        ("RMSNorm", NormKind::RmsNorm),
        ("LayerNorm", NormKind::LayerNorm),
    ],
    aliases: &[("rms", "RMSNorm"), ("ln", "LayerNorm")],
    others: Some(&Others {
        code: codes::GATED_NORM_INSIDE_LINEAR,
        verdict: "can't stand inside a projection",
        label: "has two projections of its own",
        words: &[(
            "GatedRMSNorm",
            "write the norm in its own slot, and `ColumnParallelLinear` here",
        )],
    }),
};

/// Largest rank of a gated norm.
const LARGEST_RANK: u32 = 1 << 20;

/// What a norm slot or an up projection says about the norm of a latent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said {
    /// No norm here.
    Nothing,
    /// This norm; `None` where its parameters were refused.
    Norm(Option<NormParams>),
}

/// The norm slot of a path (`q_layernorm`, `kv_layernorm`). `None`: refused.
pub(super) fn slot(submodule: &Submodule, out: &mut Diagnostics) -> Option<Said> {
    let allowed = [
        Module::RmsNorm,
        Module::LayerNorm,
        Module::GatedRmsNorm,
        Module::IdentityOp,
    ];
    among(submodule, &allowed, out)
}

/// A norm slot that one of these modules fills. `None`: refused.
pub(super) fn among(
    submodule: &Submodule,
    allowed: &[Module],
    out: &mut Diagnostics,
) -> Option<Said> {
    let module = modules::in_slot(submodule, allowed, |_| None, out)?;
    let spec = &submodule.spec;
    if module == Module::IdentityOp {
        identity(spec, out);
        return Some(Said::Nothing);
    }
    let mut table = Table::params(spec, Place::Leaf);
    let eps = eps(&mut table, out);
    let kind = match module {
        Module::LayerNorm => Some(NormKind::LayerNorm),
        Module::GatedRmsNorm => table
            .require("rank")
            .and_then(|field| field.integer(1, LARGEST_RANK, out))
            .map(|rank| NormKind::GatedRmsNorm { rank: rank.value }),
        _ => Some(NormKind::RmsNorm),
    };
    table.finish(out);
    let params = eps.zip(kind).map(|(eps, kind)| NormParams { kind, eps });
    Some(Said::Norm(params))
}

/// A norm slot that may be left out, as `IdentityOp` is left out. `None`: refused.
pub(super) fn optional(
    submodule: Option<&Submodule>,
    out: &mut Diagnostics,
) -> Option<Option<NormParams>> {
    let Some(submodule) = submodule else {
        return Some(None);
    };
    match slot(submodule, out)? {
        Said::Nothing => Some(None),
        Said::Norm(params) => Some(Some(params?)),
    }
}

/// A norm slot, which must be written even where it is empty (T-03).
pub(super) fn require_slot<'a>(
    slots: &Slots<'a>,
    slot: &'static str,
    up: &str,
    out: &mut Diagnostics,
) -> Option<&'a Submodule> {
    let found = slots.get(slot);
    if found.is_none() && !slots.is_expected(slot) {
        let message = format!("the slot `{slot}` is missing");
        let label = "whether the latent is normed must be said";
        let missing = Diagnostic::error(codes::MISSING_NORM_SLOT, message, slots.anchor(), label);
        out.push(missing.help(match slots.get(up).map(|up| up.spec.module.value.as_str()) {
            Some("LayerNormColumnParallelLinear") => format!("add `{slot}: IdentityOp`: the norm is in `{up}`"),
            _ => format!("add `{slot}: {{ module: RMSNorm, params: {{ eps: .. }} }}`, or `{slot}: IdentityOp` for none"),
        }));
    }
    found
}

/// The up projection of a path (`linear_q_up_proj`, `linear_kv_up_proj`). `None`: refused.
pub(super) fn up_projection(submodule: &Submodule, out: &mut Diagnostics) -> Option<Said> {
    let allowed = [
        Module::ColumnParallelLinear,
        Module::LayerNormColumnParallelLinear,
    ];
    let module = modules::in_slot(submodule, &allowed, |_| None, out)?;
    let mut table = Table::params(&submodule.spec, Place::Leaf);
    modules::refuse_bias(&mut table, &submodule.slot.value, out);
    let said = match module {
        Module::LayerNormColumnParallelLinear => Said::Norm(fused(&mut table, out)),
        _ => Said::Nothing,
    };
    table.finish(out);
    Some(said)
}

fn fused(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<NormParams> {
    let kind = match table.take("normalization") {
        Some(field) => field.word(&KINDS, out).map(|kind| kind.value),
        None => {
            if !table.is_misspelt("normalization") {
                let message = "`LayerNormColumnParallelLinear` lacks `normalization`";
                let missing = Diagnostic::error(
                    codes::MISSING_NORMALIZATION,
                    message,
                    table.anchor(),
                    "which norm is fused in?",
                );
                out.push(
                    missing.help("add `normalization: RMSNorm` or `normalization: LayerNorm`"),
                );
            }
            None
        }
    };
    let eps = eps(table, out);
    Some(NormParams {
        kind: kind?,
        eps: eps?,
    })
}

fn identity(spec: &ModuleSpec, out: &mut Diagnostics) {
    if let Some(first) = spec.params.first() {
        let message = "`IdentityOp` takes no parameters";
        let params = Diagnostic::error(
            codes::PARAMS_OF_IDENTITY,
            message,
            first.key.span,
            "would be ignored",
        );
        out.push(params.and(spec.module.span, "computes nothing").help(
            "remove the parameters, or name the norm that they belong to, such as `RMSNorm`",
        ));
    }
}

/// `eps`, which has no default: checkpoints and their configs disagree on it.
fn eps(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<f64> {
    let Some(field) = table.take("eps") else {
        if !table.is_misspelt("eps") {
            let message = "this norm lacks `eps`";
            let missing = Diagnostic::error(
                codes::MISSING_EPS,
                message,
                table.anchor(),
                "needs `params: { eps: .. }`",
            );
            out.push(
                missing
                    .note("latent norms often use 1e-6 whatever the config's `rms_norm_eps` says")
                    .help("add the `eps` that the model's own code uses, such as `eps: 1.0e-6`"),
            );
        }
        return None;
    };
    eps_value(&field, out)
}

/// What may be added below a norm's root.
pub(super) fn eps_value(field: &Field<'_>, out: &mut Diagnostics) -> Option<f64> {
    let eps = field.number(out)?;
    if eps.value > 0.0 && eps.value < 0.1 {
        return Some(eps.value);
    }
    let message = format!(
        "`{}` must be greater than 0 and less than 0.1, found {}",
        field.name(),
        shown(field.value)
    );
    let outside = Diagnostic::error(
        codes::EPS_OUT_OF_BOUNDS,
        message,
        eps.span,
        "outside of these bounds",
    );
    out.push(outside.help("give the `eps` that the model's own code uses, such as `1.0e-6`"));
    None
}

/// Joins what the slot and the up projection of one path say.
pub(super) fn join(
    slot: Option<(&Submodule, Option<Said>)>,
    up: Option<(&Submodule, Option<Said>)>,
    out: &mut Diagnostics,
) -> Option<Norm> {
    let (norm_slot, in_slot) = slot?;
    let (up_slot, in_up) = up?;
    match (in_slot?, in_up?) {
        (Said::Nothing, Said::Nothing) => Some(Norm::Identity),
        (Said::Norm(params), Said::Nothing) => params.map(Norm::Separate),
        (Said::Nothing, Said::Norm(params)) => params.map(Norm::FusedIntoLinear),
        (Said::Norm(_), Said::Norm(_)) => {
            let (norm, up) = (norm_slot.slot.value.as_str(), up_slot.slot.value.as_str());
            let message =
                format!("the latent would be normed twice, by `{norm}` and inside `{up}`");
            let twice = Diagnostic::error(
                codes::TWO_NORMS,
                message,
                norm_slot.spec.module.span,
                "a norm of its own",
            );
            out.push(
                twice
                    .and(up_slot.spec.module.span, "has a norm inside")
                    .help(format!(
                        "write `{norm}: IdentityOp`, or `{up}: ColumnParallelLinear`"
                    )),
            );
            None
        }
    }
}

/// Warns of a key-value latent that nothing norms: legal, but no published checkpoint has it (T-03).
pub(super) fn warn_of_identity(norm: &Norm, span: Span, out: &mut Diagnostics) {
    if *norm == Norm::Identity {
        let message = "the key-value latent is not normed";
        let warning = Diagnostic::warning(
            codes::LATENT_NOT_NORMED,
            message,
            span,
            "no norm here, nor in the up projection",
        );
        out.push(warning.help("published checkpoints have one: `kv_layernorm: { module: RMSNorm, params: { eps: .. } }`"));
    }
}
