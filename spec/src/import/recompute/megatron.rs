//! Megatron-Core's recomputation: a granularity, and modules.

use super::{Choice, Reader, find, is_null};
use crate::build::Activation;
use crate::diagnostic::Diagnostic;
use crate::import::codes;
use crate::layer::Projections;
use crate::node::{Entry, NodeKind};
use crate::span::Span;

const GRANULARITY: &str = "recompute_granularity";
const MODULES: &str = "recompute_modules";

/// Which layers are recomputed as a whole, and in what runs of them.
const OF_A_MODEL: [&str; 2] = ["recompute_method", "recompute_num_layers"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granularity {
    /// Whole layers.
    Full,
    /// Modules of each layer.
    Selective,
}

const GRANULARITIES: [(&str, Granularity); 2] = [
    ("full", Granularity::Full),
    ("selective", Granularity::Selective),
];

/// A module that may be recomputed (O-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    CoreAttention,
    /// The norm of a layer's input, and one that stands behind attention.
    Layernorm,
    MlaUpProjections,
    /// No part of attention; its name.
    Elsewhere(&'static str),
}

const NAMES: [(&str, Module); 11] = [
    ("core_attn", Module::CoreAttention),
    ("layernorm", Module::Layernorm),
    ("mla_up_proj", Module::MlaUpProjections),
    ("moe_act", Module::Elsewhere("moe_act")),
    ("mlp", Module::Elsewhere("mlp")),
    ("moe", Module::Elsewhere("moe")),
    ("shared_experts", Module::Elsewhere("shared_experts")),
    ("gdn_norm_out", Module::Elsewhere("gdn_norm_out")),
    ("gdp_in_proj", Module::Elsewhere("gdp_in_proj")),
    ("gdp_qkv", Module::Elsewhere("gdp_qkv")),
    ("mhc", Module::Elsewhere("mhc")),
];

pub(super) fn has(key: &str) -> bool {
    names().any(|name| name == key)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    [GRANULARITY, MODULES].into_iter().chain(OF_A_MODEL)
}

impl Reader<'_> {
    /// Reads the options.
    pub(super) fn megatron(&mut self, entries: &[Entry]) -> Option<Choice> {
        let modules = find(entries, MODULES);
        let granularity = match find(entries, GRANULARITY) {
            None => Some(Granularity::Selective),
            Some(entry) if is_null(&entry.value) => None,
            Some(entry) => Some(self.word(GRANULARITY, &entry.value, &GRANULARITIES)?),
        };
        for key in OF_A_MODEL {
            let Some(entry) = find(entries, key).filter(|entry| !is_null(&entry.value)) else {
                continue;
            };
            match granularity {
                Some(Granularity::Full) => {
                    let why = "it says which layers of a model are computed again";
                    self.note(key, why, entry.key.span);
                }
                _ => self.refuse_unread_option(entry, "recompute_granularity: full"),
            }
        }
        match (granularity, modules) {
            (Some(Granularity::Selective), None) if find(entries, GRANULARITY).is_none() => {
                Some(Choice::default())
            }
            (Some(Granularity::Selective), modules) => self.selected(modules),
            (granularity, modules) => {
                if let Some(entry) = modules.filter(|entry| !is_null(&entry.value)) {
                    self.refuse_unread_option(entry, "recompute_granularity: selective");
                }
                Some(match granularity {
                    Some(_) => Choice::everything(self.layer),
                    None => Choice::default(),
                })
            }
        }
    }

    /// An option that Megatron reads beside another one alone.
    fn refuse_unread_option(&mut self, entry: &Entry, beside: &str) {
        let key = entry.key.value.as_str();
        let message = format!("`{key}` is read beside `{beside}` alone");
        let label = "nothing reads this";
        let unread = Diagnostic::error(
            codes::SCHEDULE_CONTRADICTION,
            message,
            entry.key.span,
            label,
        );
        self.found
            .push(unread.help(format!("write `{beside}`, or remove `{key}`")));
    }

    /// The parts behind the modules; without a list Megatron takes core attention.
    fn selected(&mut self, modules: Option<&Entry>) -> Option<Choice> {
        let mut recompute = Vec::new();
        match modules.filter(|entry| !is_null(&entry.value)) {
            None => recompute.push(Activation::CoreAttn),
            Some(entry) => {
                let NodeKind::Seq(items) = &entry.value.kind else {
                    let message =
                        format!("`{MODULES}` is {}, wanted a list", entry.value.kind_name());
                    let span = entry.value.span;
                    let wrong = Diagnostic::error(codes::WRONG_VALUE, message, span, "not a list");
                    self.found
                        .push(wrong.help("write a list, such as `[core_attn, mla_up_proj]`"));
                    return None;
                };
                for item in items {
                    let module = self.word(MODULES, item, &NAMES)?;
                    recompute.extend(self.parts(module, item.span));
                }
            }
        }
        recompute.sort();
        recompute.dedup();
        Some(Choice {
            recompute,
            offload: Vec::new(),
        })
    }

    fn parts(&mut self, module: Module, place: Span) -> Vec<Activation> {
        match module {
            Module::CoreAttention => vec![Activation::CoreAttn],
            Module::Layernorm if self.layer.input_norm.is_some() => {
                vec![Activation::InputLayernorm]
            }
            Module::Layernorm => {
                self.note("layernorm", "the caller norms its input", place);
                Vec::new()
            }
            Module::MlaUpProjections => match self.layer.projections {
                Projections::Latent(_) => vec![Activation::QUp, Activation::KvUp],
                Projections::Grouped(_) | Projections::Cross(_) => {
                    let help =
                        "remove it: `qkv_proj` in `build.recompute` names this layer's projections";
                    self.refuse_lacking("mla_up_proj", "it makes no latents", place, help);
                    Vec::new()
                }
            },
            Module::Elsewhere(name) => {
                self.note(name, "it is no part of attention", place);
                Vec::new()
            }
        }
    }
}
