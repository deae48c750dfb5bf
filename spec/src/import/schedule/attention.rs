//! Which layers are MLA, and of what kind: `layer_types` and what stands in for it.

use super::{Attention, Count, Rule};
use crate::diagnostic::Diagnostic;
use crate::import::codes;
use crate::import::config::{Config, Given, wrong_value};
use crate::import::family::Family;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::Spanned;

/// What each layer is.
pub(super) enum Kinds {
    /// All the same.
    All(Attention),
    /// One entry per layer.
    Listed(Vec<Attention>),
    /// These are full attention, counted from 0; the others are linear.
    Only(Vec<u32>),
    /// Every fourth layer but the first: the class default of `kimi_linear`.
    EveryFourth,
    /// The last of so many: the class default of `bailing_hybrid`.
    LastOf(u32),
    /// The last of four, sparse: the class default of `glm5_next`.
    LastOfFour,
    /// Sliding layers but for the first two and every fourth: the class default of `dots3_note`.
    SlidingButEveryFourth(Attention),
}

impl Kinds {
    /// What this layer is.
    pub(super) fn of(&self, layer: u32) -> Attention {
        let mla_if = |is_mla: bool, kind: Attention| if is_mla { kind } else { Attention::Linear };
        match self {
            Kinds::All(kind) => *kind,
            Kinds::Listed(kinds) => kinds
                .get(layer as usize)
                .copied()
                .unwrap_or(Attention::Linear),
            Kinds::Only(layers) => mla_if(layers.contains(&layer), Attention::Full),
            Kinds::EveryFourth => mla_if(layer != 0 && layer.is_multiple_of(4), Attention::Full),
            Kinds::LastOf(size) => mla_if(layer % size == size - 1, Attention::Full),
            Kinds::LastOfFour => mla_if(layer % 4 == 3, Attention::Indexed),
            Kinds::SlidingButEveryFourth(kind) => {
                if layer < 2 || layer % 4 == 1 {
                    *kind
                } else {
                    Attention::Sliding
                }
            }
        }
    }

    /// The first MLA layer, whether or not the model reaches it.
    pub(super) fn first(&self) -> Option<u32> {
        match self {
            Kinds::All(_) | Kinds::SlidingButEveryFourth(_) => Some(0),
            Kinds::Listed(kinds) => kinds
                .iter()
                .position(|kind| *kind != Attention::Linear)
                .and_then(|at| u32::try_from(at).ok()),
            Kinds::Only(layers) => layers.iter().min().copied(),
            Kinds::EveryFourth => Some(4),
            Kinds::LastOf(size) => Some(size - 1),
            Kinds::LastOfFour => Some(3),
        }
    }

    /// What a layer is that is no variation: prediction layers are this.
    pub(super) fn complete(&self) -> Attention {
        match self {
            Kinds::All(kind) | Kinds::SlidingButEveryFourth(kind) => *kind,
            Kinds::LastOfFour => Attention::Indexed,
            Kinds::Listed(kinds) if kinds.contains(&Attention::Indexed) => Attention::Indexed,
            _ => Attention::Full,
        }
    }
}

/// The kinds of a family's layers.
pub(super) fn read(config: &Config<'_>, family: &Family, count: &Count) -> Option<Kinds> {
    match family.layers {
        Rule::Alike => Some(Kinds::All(Attention::Full)),
        Rule::Longcat => Some(Kinds::All(if config.size("index_topk").value().is_some() {
            Attention::Indexed
        } else {
            Attention::Full
        })),
        Rule::KimiLinear => kimi_linear(config, count),
        Rule::LastOfGroup => match listed(config, count, HYBRID)? {
            Some(kinds) => Some(Kinds::Listed(kinds)),
            None => last_of_group(config),
        },
        Rule::Indexed | Rule::IndexShared | Rule::HyV4 | Rule::MistralLarge4 => {
            listed(config, count, SPARSE)?;
            Some(Kinds::All(Attention::Indexed))
        }
        Rule::Glm5Next => Some(match listed(config, count, SPARSE_HYBRID)? {
            Some(kinds) => Kinds::Listed(kinds),
            None => Kinds::LastOfFour,
        }),
        Rule::Dots3 => dots3(config, count),
    }
}

/// Words that `layer_types` may hold, and what they mean.
type Words = &'static [(&'static str, Attention)];

const HYBRID: Words = &[
    ("full_attention", Attention::Full),
    ("linear_attention", Attention::Linear),
];
const SPARSE: Words = &[("indexed_attention", Attention::Indexed)];
/// An older spelling says `full_attention` for the sparse layers.
const SPARSE_HYBRID: Words = &[
    ("indexed_attention", Attention::Indexed),
    ("full_attention", Attention::Indexed),
    ("linear_attention", Attention::Linear),
];
const SLIDING: Words = &[
    ("indexed_attention", Attention::Indexed),
    ("full_attention", Attention::Full),
    ("sliding_attention", Attention::Sliding),
];

/// `layer_types`: `Some(None)` where it is absent.
fn listed(config: &Config<'_>, count: &Count, words: Words) -> Option<Option<Vec<Attention>>> {
    let kinds = match config.list("layer_types") {
        Given::Value(kinds) => kinds,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => return Some(None),
    };
    one_per_layer(config, "layer_types", kinds, count)?;
    let mut found = Vec::with_capacity(kinds.value.len());
    for kind in kinds.value {
        let meaning = match &kind.kind {
            NodeKind::Scalar(Scalar::Str(word)) => words.iter().find(|(known, _)| known == word),
            _ => None,
        };
        let Some((_, meaning)) = meaning else {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            config.report(wrong_value("layer_types", kind, &known.join(" or ")));
            return None;
        };
        found.push(*meaning);
    }
    Some(Some(found))
}

/// Refuses a list that has not one entry per layer.
pub(super) fn one_per_layer(
    config: &Config<'_>,
    key: &str,
    items: Spanned<&[Node]>,
    count: &Count,
) -> Option<()> {
    if items.value.len() == count.main as usize {
        return Some(());
    }
    let message = format!(
        "`{key}` has {} entries for {}",
        items.value.len(),
        super::layers(count.main)
    );
    config.report(
        Diagnostic::error(
            codes::LAYER_LISTS,
            message,
            items.span,
            "one entry per layer is wanted",
        )
        .and(count.span, "so many layers")
        .help(format!("make `{key}` as long as the model has layers")),
    );
    None
}

/// `layer_types` wins over `linear_attn_config`, which wins over the class default.
fn kimi_linear(config: &Config<'_>, count: &Count) -> Option<Kinds> {
    let linear = config.object("linear_attn_config");
    if let Some(kinds) = listed(config, count, HYBRID)? {
        return Some(Kinds::Listed(kinds));
    }
    let linear = match linear {
        Given::Value(entries) => config.inner(entries),
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => return Some(Kinds::EveryFourth),
    };
    match (linear.list("full_attn_layers"), linear.list("kda_layers")) {
        (Given::Value(full), Given::Value(kda)) => {
            let full = one_based(config, "full_attn_layers", full.value, count)?;
            let kda = one_based(config, "kda_layers", kda.value, count)?;
            match full
                .iter()
                .find(|layer| kda.iter().any(|other| other.value == layer.value))
            {
                Some(both) => {
                    config.report(in_both_lists(*both));
                    None
                }
                None => Some(Kinds::Only(
                    full.into_iter().map(|layer| layer.value).collect(),
                )),
            }
        }
        (Given::Wrong, _) | (_, Given::Wrong) => None,
        (Given::Absent | Given::Null(_), Given::Absent | Given::Null(_)) => {
            Some(Kinds::EveryFourth)
        }
        (Given::Value(Spanned { span, .. }), _) | (_, Given::Value(Spanned { span, .. })) => {
            let message =
                "`linear_attn_config` has only one of `full_attn_layers` and `kda_layers`";
            let note = "the modeling code falls back to a fixed pattern then, which is rarely what was meant";
            config.report(
                Diagnostic::error(
                    codes::LAYER_LISTS,
                    message,
                    span,
                    "the other list is missing",
                )
                .note(note)
                .help("give both lists, or `layer_types`"),
            );
            None
        }
    }
}

fn in_both_lists(layer: Spanned<u32>) -> Diagnostic {
    let message = format!(
        "layer {} is in `full_attn_layers` and in `kda_layers`",
        u64::from(layer.value) + 1
    );
    Diagnostic::error(codes::LAYER_LISTS, message, layer.span, "in both lists")
        .help("a layer is one or the other; the lists count from 1")
}

/// The layers of a list that counts from 1, counted from 0.
fn one_based(
    config: &Config<'_>,
    key: &str,
    items: &[Node],
    count: &Count,
) -> Option<Vec<Spanned<u32>>> {
    let mut layers = Vec::with_capacity(items.len());
    for item in items {
        match &item.kind {
            NodeKind::Scalar(Scalar::Int(layer)) if (1..=i64::from(count.main)).contains(layer) => {
                layers.push(Spanned::new(
                    u32::try_from(layer - 1).unwrap_or(u32::MAX),
                    item.span,
                ));
            }
            _ => {
                let wanted = format!("a layer from 1 to {} (the list counts from 1)", count.main);
                config.report(wrong_value(key, item, &wanted));
                return None;
            }
        }
    }
    Some(layers)
}

fn last_of_group(config: &Config<'_>) -> Option<Kinds> {
    match config.size("layer_group_size") {
        Given::Value(Spanned { value: 0, span }) => {
            config.report(Diagnostic::error(
                codes::WRONG_VALUE,
                "`layer_group_size` is 0, wanted at least 1",
                span,
                "wanted at least 1",
            ));
            None
        }
        Given::Value(size) => Some(Kinds::LastOf(size.value)),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => Some(Kinds::LastOf(6)),
    }
}

/// `use_dsa` says whether the complete layers are sparse. Where it is absent they are, unless `per_layer_config` shows that the
/// library wrote the config, which then spells every layer out.
fn dots3(config: &Config<'_>, count: &Count) -> Option<Kinds> {
    let written_back = config.entry("per_layer_config").is_some();
    let sparse = match config.flag("use_dsa") {
        Given::Value(sparse) => Some(sparse.value),
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => (!written_back).then_some(true),
    };
    let slides = match config.flag("use_sliding_window") {
        Given::Value(slides) => slides.value,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => true,
    };
    let complete = if sparse == Some(false) {
        Attention::Full
    } else {
        Attention::Indexed
    };
    let Some(mut kinds) = listed(config, count, SLIDING)? else {
        return Some(if slides {
            Kinds::SlidingButEveryFourth(complete)
        } else {
            Kinds::All(complete)
        });
    };
    if sparse.is_some() {
        for kind in &mut kinds {
            if *kind != Attention::Sliding {
                *kind = complete;
            }
        }
    }
    Some(Kinds::Listed(kinds))
}
