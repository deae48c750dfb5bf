//! Where the key-value latent comes from: down projections, its norm, or another layer.

use super::down_projection;
use super::query::{Asked, Path};
use super::sizes::Rank;
use crate::check::codes;
use crate::check::norms::{self, Said};
use crate::check::slots::Slots;
use crate::check::value::{Stated, Table};
use crate::check::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::{DownProjection, KvSource, Norm};
use crate::span::Span;

const SOURCES: Words<'static, bool> = Words {
    choices: &[("own", false), ("shared", true)],
    aliases: &[
        ("reuse", "shared"),
        ("reuse_but_indexer", "shared"),
        ("store", "own"),
        ("other", "shared"),
    ],
    others: None,
};

/// Whose latents are attended to, as written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// Whose; absent where it was refused.
    pub(super) kind: Option<KvSource>,
    /// Where `kv_source: shared` stands, if the latents are another layer's.
    pub(super) shared: Option<Span>,
    /// Where `share_kv: true` stands, if others attend to this layer's latents.
    pub(super) handed_out: Option<Span>,
}

impl Source {
    /// Reads `kv_source` and `share_kv`.
    pub(super) fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Self {
        let source = table
            .stated("kv_source", |field| field.word(&SOURCES, out))
            .and_then(|source| Some(source.value));
        let handed_out = table.stated("share_kv", |field| field.boolean(out));
        let shared = source
            .given()
            .filter(|(shared, _)| **shared)
            .map(|(_, key)| key);
        let share = handed_out
            .given()
            .filter(|(share, _)| **share)
            .map(|(_, key)| key);
        if let (Some(shared), Some(share)) = (shared, share) {
            refuse_param("share_kv", share, shared, out);
        }
        let kind = match (source.or(false), handed_out.or(false)) {
            (Some(true), Some(_)) => Some(KvSource::Other),
            (Some(false), Some(shared)) => Some(KvSource::Own { shared }),
            _ => None,
        };
        Self {
            kind,
            shared,
            handed_out: share,
        }
    }

    /// Refuses a parameter of latents that are another layer's.
    pub(super) fn refuse_stated<T>(
        self,
        key: &str,
        stated: &Stated<T>,
        out: &mut Diagnostics,
    ) -> bool {
        match (self.shared, stated.given()) {
            (Some(shared), Some((_, span))) => {
                refuse_param(key, span, shared, out);
                true
            }
            _ => false,
        }
    }
}

fn refuse_param(key: &str, span: Span, shared: Span, out: &mut Diagnostics) {
    let message = format!("`{key}` concerns latents that another layer makes");
    let param = Diagnostic::error(
        codes::PARAM_OF_ANOTHER_LAYER,
        message,
        span,
        "not this layer's to say",
    );
    out.push(
        param
            .and(shared, "the latents come from another layer")
            .help(format!(
                "remove `{key}`; the layer that makes the latents has it"
            )),
    );
}

/// Refuses the slots that make a latent where the latent is another layer's.
fn refuse_slots(slots: &Slots<'_>, shared: Span, out: &mut Diagnostics) {
    let makers = [
        "linear_kv_down_proj",
        "linear_qkv_down_proj",
        "kv_layernorm",
        "k_rope_layernorm",
    ];
    for slot in makers.iter().filter_map(|slot| slots.get(slot)) {
        let name = slot.slot.value.as_str();
        let message = format!("`{name}` makes latents, and this layer attends to another's");
        let help = match name {
            "linear_qkv_down_proj" => {
                "remove it, and fill `linear_q_down_proj` for the query latent".to_owned()
            }
            _ => format!("remove `{name}`, or `kv_source: shared`"),
        };
        let of_another = Diagnostic::error(
            codes::SLOT_OF_ANOTHER_LAYER,
            message,
            slot.slot.span,
            "nothing to make here",
        );
        out.push(
            of_another
                .and(shared, "the latents come from another layer")
                .help(help),
        );
    }
}

/// The down projections.
pub(super) fn down(
    asked: Asked,
    path: Path,
    source: Source,
    slots: &mut Slots<'_>,
    out: &mut Diagnostics,
) -> Option<DownProjection> {
    if let Some(shared) = source.shared {
        refuse_slots(slots, shared, out);
        if slots.get("linear_qkv_down_proj").is_some() {
            return None;
        }
        return Some(DownProjection::Separate {
            q_bias: asked.down_bias(path, slots, out)?,
            kv_bias: false,
        });
    }
    if let Some(fused) = slots.get("linear_qkv_down_proj") {
        return fused_down(fused, path, asked.rank, slots, out);
    }
    let kv_bias = slots
        .require("linear_kv_down_proj")
        .and_then(|slot| down_projection(slot, out));
    let q_bias = asked.down_bias(path, slots, out);
    Some(DownProjection::Separate {
        q_bias: q_bias?,
        kv_bias: kv_bias?,
    })
}

fn fused_down(
    fused: &Submodule,
    path: Path,
    rank: Rank,
    slots: &Slots<'_>,
    out: &mut Diagnostics,
) -> Option<DownProjection> {
    let separate: Vec<&Submodule> = ["linear_q_down_proj", "linear_kv_down_proj"]
        .iter()
        .filter_map(|slot| slots.get(slot))
        .collect();
    if let Some(first) = separate.first() {
        let message = format!(
            "`linear_qkv_down_proj` and `{}` make the same latent",
            first.slot.value
        );
        let twice = Diagnostic::error(
            codes::TWO_DOWN_PROJECTIONS,
            message,
            fused.slot.span,
            "both latents in one",
        );
        let twice = separate.iter().fold(twice, |twice, slot| {
            twice.and(slot.slot.span, "one of them again")
        });
        out.push(twice.help("keep either the fused or the separate down projections"));
    }
    for slot in &separate {
        down_projection(slot, out);
    }
    if path == Path::Plain && matches!(rank, Rank::Absent) {
        let message = "`linear_qkv_down_proj` needs `q_lora_rank`";
        let label = "there is no query latent to project to";
        let without = Diagnostic::error(
            codes::FUSED_DOWN_WITHOUT_RANK,
            message,
            fused.slot.span,
            label,
        );
        out.push(
            without
                .and(slots.anchor(), "has no `q_lora_rank`")
                .help("add `q_lora_rank` and the low-rank slots, or fill `linear_q_proj` and `linear_kv_down_proj` instead"),
        );
    }
    let bias = down_projection(fused, out)?;
    Some(DownProjection::Fused { bias })
}

/// The norm of the latent, and where the module stands that holds it.
pub(super) fn norm(
    source: Source,
    slots: &mut Slots<'_>,
    out: &mut Diagnostics,
) -> Option<(Norm, Span)> {
    if let Some(shared) = source.shared {
        return norm_of_another(shared, slots, out);
    }
    let slot = norms::require_slot(slots, "kv_layernorm", "linear_kv_up_proj", out);
    let up = slots.require("linear_kv_up_proj");
    let slot_span = slot.map(|slot| slot.spec.module.span);
    let slot = slot.map(|slot| (slot, norms::slot(slot, out)));
    let up = up.map(|up| (up, norms::up_projection(up, out)));
    let norm = norms::join(slot, up, out)?;
    norms::warn_of_identity(&norm, slot_span?, out);
    let span = match &norm {
        Norm::FusedIntoLinear(_) => up?.0.spec.module.span,
        Norm::Identity | Norm::Separate(_) => slot_span?,
    };
    Some((norm, span))
}

/// Latents of another layer were normed there.
fn norm_of_another(
    shared: Span,
    slots: &mut Slots<'_>,
    out: &mut Diagnostics,
) -> Option<(Norm, Span)> {
    let up = slots.require("linear_kv_up_proj")?;
    match norms::up_projection(up, out)? {
        Said::Nothing => Some((Norm::Identity, up.spec.module.span)),
        Said::Norm(_) => {
            let message = "`linear_kv_up_proj` would norm latents that another layer has normed";
            let of_another = Diagnostic::error(
                codes::SLOT_OF_ANOTHER_LAYER,
                message,
                up.spec.module.span,
                "has a norm inside",
            );
            out.push(
                of_another
                    .and(shared, "the latents come from another layer")
                    .help("write `linear_kv_up_proj: ColumnParallelLinear`"),
            );
            None
        }
    }
}
