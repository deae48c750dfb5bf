//! The slots of `MLASelfAttention`: which are there, what fills them, and whether they agree with the query rank.

use super::codes;
use super::foreign::Place;
use super::modules::{self, Module};
use super::norms;
use super::params::Rank;
use super::value::{Table, listed, quoted};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{ModuleSpec, Submodule};
use crate::layer::{Core, DownProjection, Norm, Query, QueryUp};
use crate::suggest::suggest;

const SLOTS: [&str; 10] = [
    "linear_q_proj",
    "linear_q_down_proj",
    "q_layernorm",
    "linear_q_up_proj",
    "linear_kv_down_proj",
    "linear_qkv_down_proj",
    "kv_layernorm",
    "linear_kv_up_proj",
    "core_attention",
    "linear_proj",
];

/// Other systems' slots and names of weights, with what to do.
#[rustfmt::skip] // a table
const FOREIGN: &[(&str, Option<&str>, &str)] = &[
    ("q_proj", Some("linear_q_proj"), "here it is called `linear_q_proj`"),
    ("query", Some("linear_q_proj"), "here it is called `linear_q_proj`"),
    ("q_a_proj", Some("linear_q_down_proj"), "here it is called `linear_q_down_proj`"),
    ("wq_a", Some("linear_q_down_proj"), "here it is called `linear_q_down_proj`"),
    ("q_a_layernorm", Some("q_layernorm"), "here it is called `q_layernorm`"),
    ("q_norm", Some("q_layernorm"), "here it is called `q_layernorm`"),
    ("q_b_proj", Some("linear_q_up_proj"), "here it is called `linear_q_up_proj`"),
    ("wq_b", Some("linear_q_up_proj"), "here it is called `linear_q_up_proj`"),
    ("kv_a_proj_with_mqa", Some("linear_kv_down_proj"), "here it is called `linear_kv_down_proj`"),
    ("wkv_a", Some("linear_kv_down_proj"), "here it is called `linear_kv_down_proj`"),
    ("fused_qkv_a_proj", Some("linear_qkv_down_proj"), "here it is called `linear_qkv_down_proj`"),
    ("kv_a_layernorm", Some("kv_layernorm"), "here it is called `kv_layernorm`"),
    ("kv_norm", Some("kv_layernorm"), "here it is called `kv_layernorm`"),
    ("kv_b_proj", Some("linear_kv_up_proj"), "here it is called `linear_kv_up_proj`"),
    ("wkv_b", Some("linear_kv_up_proj"), "here it is called `linear_kv_up_proj`"),
    ("o_proj", Some("linear_proj"), "here it is called `linear_proj`"),
    ("linear_qkv", None, "latent attention has no joint q, k and v projection; see `linear_qkv_down_proj`"),
    ("k_layernorm", None, "latent attention norms its latents, not the keys: see `kv_layernorm`"),
];

/// Slots that a later release will have.
#[rustfmt::skip] // a table
const LATER: &[(&str, &str)] = &[
    ("indexer", "remove it, or wait: sparse attention is not in this release"),
    ("g_proj", "remove it, or wait: output gates are not in this release"),
    ("linear_gate", "remove it, or wait: output gates are not in this release"),
    ("linear_gate_proj", "remove it, or wait: output gates are not in this release"),
    ("k_rope_layernorm", "remove it, or wait: a norm of the shared rope key is not in this release"),
];

/// What the slots say about the layer; a part is absent where it was refused.
pub(super) struct Parts {
    pub(super) query: Option<Query>,
    pub(super) down: Option<DownProjection>,
    pub(super) kv_norm: Option<Norm>,
    pub(super) core: Option<Core>,
    pub(super) output_bias: Option<bool>,
}

/// Checks every slot.
pub(super) fn check(spec: &ModuleSpec, rank: Rank, out: &mut Diagnostics) -> Parts {
    let expected = names(spec, out);
    let mut slots = Slots {
        spec,
        expected,
        missing: Vec::new(),
    };
    let path = slots.path(rank, out);
    let down = slots.down(path, rank, out);
    let query = slots.query(path, rank, out);
    let kv_norm = slots.kv(out);
    let core = slots.core(out);
    let output_bias = slots.require("linear_proj").and_then(|slot| {
        modules::in_slot(slot, &[Module::RowParallelLinear], |_| None, out)?;
        modules::bias(&slot.spec, out)
    });
    slots.finish(out);
    Parts {
        query,
        down,
        kv_norm,
        core,
        output_bias,
    }
}

/// Refuses unknown slots and slots filled twice; answers the slots that the unknown ones probably mean.
fn names(spec: &ModuleSpec, out: &mut Diagnostics) -> Vec<&'static str> {
    let mut meant = Vec::new();
    for (index, submodule) in spec.submodules.iter().enumerate() {
        let slot = &submodule.slot;
        let (name, found) = (slot.value.as_str(), quoted(&slot.value));
        if SLOTS.contains(&name) {
            if let Some(first) = spec.submodules[..index]
                .iter()
                .find(|earlier| earlier.slot == *slot)
            {
                let message = format!("the slot `{found}` is filled twice");
                let twice =
                    Diagnostic::error(codes::UNKNOWN_SLOT, message, slot.span, "filled again here");
                out.push(
                    twice
                        .and(first.slot.span, "first filled here")
                        .help("keep one of them"),
                );
            }
            continue;
        }
        if let Some((_, remedy)) = LATER.iter().find(|(later, _)| *later == name) {
            let message = format!("the slot `{found}` is not in this release");
            out.push(
                Diagnostic::error(
                    codes::SLOT_LATER,
                    message,
                    slot.span,
                    "known, but not yet here",
                )
                .help(*remedy),
            );
            continue;
        }
        let message = format!("`MLASelfAttention` has no slot `{found}`");
        let unknown = Diagnostic::error(codes::UNKNOWN_SLOT, message, slot.span, "not known here");
        let foreign = FOREIGN.iter().find(|(foreign, ..)| *foreign == name);
        let near = match foreign {
            Some((_, ours, _)) => *ours,
            None => suggest(name, SLOTS),
        };
        meant.extend(near);
        out.push(match (foreign, near) {
            (Some((.., remedy)), _) => unknown.help(*remedy),
            (None, Some(near)) => unknown.help(format!("did you mean `{near}`?")),
            (None, None) => unknown.help(format!("remove it; the slots are {}", listed(&SLOTS))),
        });
    }
    meant
}

/// How queries are made, as far as it can be told from rank and slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Plain,
    Lora,
    /// Rank and slots contradict each other, which was said.
    Unclear,
}

struct Slots<'a> {
    spec: &'a ModuleSpec,
    /// Slots that are there under a wrong name.
    expected: Vec<&'static str>,
    missing: Vec<&'static str>,
}

impl<'a> Slots<'a> {
    fn get(&self, slot: &str) -> Option<&'a Submodule> {
        self.spec.submodule(slot)
    }

    fn require(&mut self, slot: &'static str) -> Option<&'a Submodule> {
        let found = self.get(slot);
        if found.is_none() && !self.expected.contains(&slot) {
            self.missing.push(slot);
        }
        found
    }

    /// Whether queries are plain or LoRA. Refuses slots that contradict each other or the rank.
    fn path(&self, rank: Rank, out: &mut Diagnostics) -> Path {
        let plain = self.get("linear_q_proj");
        let lora = self
            .get("linear_q_down_proj")
            .or(self.get("linear_q_up_proj"));
        match (rank, plain, lora) {
            (_, Some(plain), Some(lora)) => {
                let message = format!(
                    "queries are made twice, by `linear_q_proj` and by `{}`",
                    lora.slot.value
                );
                let twice = Diagnostic::error(
                    codes::TWO_QUERY_PATHS,
                    message,
                    plain.slot.span,
                    "the plain projection",
                );
                let twice = twice.and(lora.slot.span, "the low-rank path");
                out.push(twice.help(match rank {
                    Rank::Given { .. } => "remove `linear_q_proj`: `q_lora_rank` is given",
                    _ => "remove `linear_q_proj` and give `q_lora_rank`, or remove the slots of the low-rank path",
                }));
                Path::Unclear
            }
            (Rank::Given { key, .. }, Some(plain), None) => {
                let message = "`linear_q_proj` makes plain queries, but `q_lora_rank` is given";
                let against = Diagnostic::error(
                    codes::RANK_AGAINST_SLOTS,
                    message,
                    plain.slot.span,
                    "plain queries",
                );
                out.push(against.and(key, "low-rank queries").help(
                    "remove `q_lora_rank`, or fill `linear_q_down_proj`, `q_layernorm` and `linear_q_up_proj` instead",
                ));
                Path::Unclear
            }
            (Rank::Absent, None, Some(lora)) => {
                let message = format!("`{}` needs `q_lora_rank`", lora.slot.value);
                let against = Diagnostic::error(
                    codes::RANK_AGAINST_SLOTS,
                    message,
                    lora.slot.span,
                    "low-rank queries",
                );
                out.push(against.and(self.spec.module.span, "has no `q_lora_rank`").help(
                    "add `q_lora_rank` to `params`, or fill `linear_q_proj` instead of the low-rank slots",
                ));
                Path::Unclear
            }
            (Rank::Given { .. }, None, _) => Path::Lora,
            (Rank::Absent, _, None) => Path::Plain,
            (Rank::Refused, Some(_), None) => Path::Plain,
            (Rank::Refused, None, Some(_)) => Path::Lora,
            (Rank::Refused, None, None) => Path::Unclear,
        }
    }

    fn down(&mut self, path: Path, rank: Rank, out: &mut Diagnostics) -> Option<DownProjection> {
        let fused = self.get("linear_qkv_down_proj");
        if let Some(fused) = fused {
            return self.fused_down(fused, path, rank, out);
        }
        let kv_bias = self
            .require("linear_kv_down_proj")
            .and_then(|slot| down_projection(slot, out));
        let q_slot = match path {
            Path::Lora => self.require("linear_q_down_proj"),
            Path::Plain | Path::Unclear => self.get("linear_q_down_proj"),
        };
        let q_bias = match (q_slot, path) {
            (Some(slot), _) => down_projection(slot, out),
            (None, Path::Plain) => Some(false),
            (None, _) => None,
        };
        Some(DownProjection::Separate {
            q_bias: q_bias?,
            kv_bias: kv_bias?,
        })
    }

    fn fused_down(
        &self,
        fused: &'a Submodule,
        path: Path,
        rank: Rank,
        out: &mut Diagnostics,
    ) -> Option<DownProjection> {
        let separate: Vec<&Submodule> = ["linear_q_down_proj", "linear_kv_down_proj"]
            .iter()
            .filter_map(|slot| self.get(slot))
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
                    .and(self.spec.module.span, "has no `q_lora_rank`")
                    .help("add `q_lora_rank` and the low-rank slots, or fill `linear_q_proj` and `linear_kv_down_proj` instead"),
            );
        }
        let bias = down_projection(fused, out)?;
        Some(DownProjection::Fused { bias })
    }

    fn query(&mut self, path: Path, rank: Rank, out: &mut Diagnostics) -> Option<Query> {
        let plain = match path {
            // Where the fused down projection or the norm is there, the missing rank was or will be the complaint.
            Path::Plain
                if self.get("linear_qkv_down_proj").is_none()
                    && self.get("q_layernorm").is_none() =>
            {
                self.require("linear_q_proj")
            }
            _ => self.get("linear_q_proj"),
        };
        let plain_is_right = plain.and_then(|slot| plain_projection(slot, out)).is_some();
        let norm = self.query_norm(path, rank, out);
        match (path, rank) {
            (Path::Plain, _) => plain_is_right.then_some(Query::Plain),
            (Path::Lora, Rank::Given { value, .. }) => Some(Query::Lora {
                rank: value.value,
                norm: norm?,
                scale: None,
                up: QueryUp::Query,
            }),
            _ => None,
        }
    }

    fn query_norm(&mut self, path: Path, rank: Rank, out: &mut Diagnostics) -> Option<Norm> {
        let (slot, up) = match path {
            Path::Lora => (
                self.require_norm("q_layernorm", "linear_q_up_proj", out),
                self.require("linear_q_up_proj"),
            ),
            _ => (self.get("q_layernorm"), self.get("linear_q_up_proj")),
        };
        let slot = slot.map(|slot| (slot, norms::slot(slot, out)));
        let up = up.map(|up| (up, norms::up_projection(up, out)));
        if let (Some((slot, _)), Path::Plain, Rank::Absent) = (slot, path, rank) {
            let message = "`q_layernorm` norms the query latent, and plain queries have none";
            let label = "nothing to norm";
            let without =
                Diagnostic::error(codes::NORM_WITHOUT_LATENT, message, slot.slot.span, label);
            out.push(
                without
                    .and(self.spec.module.span, "has no `q_lora_rank`")
                    .help("remove `q_layernorm`, or give `q_lora_rank` and the low-rank slots"),
            );
        }
        norms::join(slot, up, out)
    }

    fn kv(&mut self, out: &mut Diagnostics) -> Option<Norm> {
        let slot = self.require_norm("kv_layernorm", "linear_kv_up_proj", out);
        let up = self.require("linear_kv_up_proj");
        let span = slot.map(|slot| slot.spec.module.span);
        let slot = slot.map(|slot| (slot, norms::slot(slot, out)));
        let up = up.map(|up| (up, norms::up_projection(up, out)));
        let norm = norms::join(slot, up, out)?;
        norms::warn_of_identity(&norm, span?, out);
        Some(norm)
    }

    /// A norm slot, which must be written even where it is empty (T-03).
    fn require_norm(
        &self,
        slot: &'static str,
        up: &str,
        out: &mut Diagnostics,
    ) -> Option<&'a Submodule> {
        let found = self.get(slot);
        if found.is_none() && !self.expected.contains(&slot) {
            let message = format!("the slot `{slot}` is missing");
            let label = "whether the latent is normed must be said";
            let missing = Diagnostic::error(
                codes::MISSING_NORM_SLOT,
                message,
                self.spec.module.span,
                label,
            );
            out.push(missing.help(match self.get(up).map(|up| up.spec.module.value.as_str()) {
                Some("LayerNormColumnParallelLinear") => format!("add `{slot}: IdentityOp`: the norm is in `{up}`"),
                _ => format!("add `{slot}: {{ module: RMSNorm, params: {{ eps: .. }} }}`, or `{slot}: IdentityOp` for none"),
            }));
        }
        found
    }

    fn core(&mut self, out: &mut Diagnostics) -> Option<Core> {
        let slot = self.require("core_attention")?;
        modules::in_slot(slot, &[Module::DotProductAttention], |_| None, out)?;
        modules::no_params(&slot.spec, out);
        Some(Core::Dense)
    }

    fn finish(self, out: &mut Diagnostics) {
        if self.missing.is_empty() {
            return;
        }
        let names = listed(&self.missing);
        let (what, it) = if self.missing.len() == 1 {
            ("slot", "it")
        } else {
            ("slots", "them")
        };
        let message = format!("`MLASelfAttention` lacks the {what} {names}");
        let label = format!("needs {names}");
        let missing = Diagnostic::error(codes::MISSING_SLOT, message, self.spec.module.span, label);
        out.push(missing.help(format!("add {it} to `submodules`")));
    }
}

/// A down projection's bias.
fn down_projection(slot: &Submodule, out: &mut Diagnostics) -> Option<bool> {
    let norm_inside = |module| {
        (module == Module::LayerNormColumnParallelLinear).then(|| {
            norm_of_the_input(slot).help(format!(
                "write `{}: Linear`; the input norm stands before the layer",
                slot.slot.value
            ))
        })
    };
    modules::in_slot(slot, &[Module::Linear], norm_inside, out)?;
    modules::bias(&slot.spec, out)
}

/// The plain query projection.
fn plain_projection(slot: &Submodule, out: &mut Diagnostics) -> Option<()> {
    let norm_inside = |module| {
        (module == Module::LayerNormColumnParallelLinear)
            .then(|| norm_of_the_input(slot).help("write `linear_q_proj: ColumnParallelLinear`"))
    };
    modules::in_slot(slot, &[Module::ColumnParallelLinear], norm_inside, out)?;
    let mut table = Table::params(&slot.spec, Place::Leaf);
    modules::refuse_bias(&mut table, &slot.slot.value, out);
    table.finish(out);
    Some(())
}

/// A norm inside a projection of the hidden state: a trainable norm that no checkpoint has.
fn norm_of_the_input(slot: &Submodule) -> Diagnostic {
    let message = format!(
        "`{}` would norm the hidden state once more",
        slot.slot.value
    );
    let label = "has a norm inside";
    Diagnostic::error(
        codes::NORM_OF_THE_INPUT,
        message,
        slot.spec.module.span,
        label,
    )
    .note("a norm here has a weight of `hidden_size` elements that no published checkpoint has")
}
