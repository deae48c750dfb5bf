//! Which layer of the model is imported.

use super::codes;
use super::config::{Config, Given, wrong_value};
use super::family::Family;
use crate::diagnostic::Diagnostic;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// The layers of a model: how many, and where that is said.
struct Count {
    /// Layers of the decoder itself.
    main: u32,
    /// Layers after them for multi-token prediction, which have the same attention.
    predicting: u32,
    span: Span,
}

/// Which layers are MLA.
enum Kinds {
    /// All of them.
    All,
    /// One entry per layer.
    Listed(Vec<bool>),
    /// These, counted from 0.
    Only(Vec<u32>),
    /// Every fourth layer but the first: the class default of `kimi_linear`.
    EveryFourth,
}

impl Kinds {
    fn is_mla(&self, layer: u32) -> bool {
        match self {
            Kinds::All => true,
            Kinds::Listed(kinds) => kinds.get(layer as usize).copied().unwrap_or(false),
            Kinds::Only(layers) => layers.contains(&layer),
            Kinds::EveryFourth => layer != 0 && layer.is_multiple_of(4),
        }
    }

    fn first(&self) -> Option<u32> {
        match self {
            Kinds::All => Some(0),
            Kinds::Listed(kinds) => kinds
                .iter()
                .position(|is_mla| *is_mla)
                .and_then(|at| u32::try_from(at).ok()),
            Kinds::Only(layers) => layers.iter().min().copied(),
            Kinds::EveryFourth => Some(4),
        }
    }
}

/// The layer that `wanted` names, or the first MLA layer; reports and answers `None` where there is no such layer.
pub(super) fn choose(config: &Config<'_>, family: &Family, wanted: Option<u32>) -> Option<u32> {
    let count = count(config, family)?;
    let kinds = if family.name() == "kimi_linear" {
        kimi_linear_kinds(config, &count)?
    } else {
        Kinds::All
    };
    let Some(layer) = wanted.or_else(|| kinds.first().filter(|first| *first < count.main)) else {
        config.report(no_mla_layer(&count));
        return None;
    };
    if u64::from(layer) >= u64::from(count.main) + u64::from(count.predicting) {
        config.report(out_of_range(layer, &count));
        return None;
    }
    if layer < count.main && !kinds.is_mla(layer) {
        config.report(not_mla(layer, &kinds, count.span));
        return None;
    }
    Some(layer)
}

fn count(config: &Config<'_>, family: &Family) -> Option<Count> {
    let main = match config.size("num_hidden_layers") {
        Given::Value(value) => value,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => {
            Spanned::new(family.defaults.num_hidden_layers, config.span)
        }
    };
    let predicting = ["num_nextn_predict_layers", "num_mtp_layers"]
        .into_iter()
        .find_map(|key| config.size(key).value());
    Some(Count {
        main: main.value,
        predicting: predicting.map_or(0, |value| value.value),
        span: main.span,
    })
}

/// `layer_types` wins over `linear_attn_config`, which wins over the class default.
fn kimi_linear_kinds(config: &Config<'_>, count: &Count) -> Option<Kinds> {
    let linear = config.object("linear_attn_config");
    match config.list("layer_types") {
        Given::Value(kinds) => return listed_kinds(config, kinds, count),
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => {}
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
                    let message = format!(
                        "layer {} is in `full_attn_layers` and in `kda_layers`",
                        both.value + 1
                    );
                    let help = "a layer is one or the other; the lists count from 1";
                    config.report(
                        Diagnostic::error(codes::LAYER_LISTS, message, both.span, "in both lists")
                            .help(help),
                    );
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

fn listed_kinds(config: &Config<'_>, kinds: Spanned<&[Node]>, count: &Count) -> Option<Kinds> {
    if kinds.value.len() != count.main as usize {
        let message = format!(
            "`layer_types` has {} entries for {} layers",
            kinds.value.len(),
            count.main
        );
        config.report(
            Diagnostic::error(
                codes::LAYER_LISTS,
                message,
                kinds.span,
                "one entry per layer is wanted",
            )
            .and(count.span, "so many layers")
            .help("make `layer_types` as long as `num_hidden_layers`"),
        );
        return None;
    }
    let mut is_mla = Vec::with_capacity(kinds.value.len());
    for kind in kinds.value {
        match &kind.kind {
            NodeKind::Scalar(Scalar::Str(word)) if word == "full_attention" => is_mla.push(true),
            NodeKind::Scalar(Scalar::Str(word)) if word == "linear_attention" => is_mla.push(false),
            _ => {
                config.report(wrong_value(
                    "layer_types",
                    kind,
                    "`full_attention` or `linear_attention`",
                ));
                return None;
            }
        }
    }
    Some(Kinds::Listed(is_mla))
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

fn out_of_range(layer: u32, count: &Count) -> Diagnostic {
    let message = format!(
        "there is no layer {layer}: the model has {}",
        layers(count.main)
    );
    let mut diagnostic = Diagnostic::error(
        codes::LAYER_OUT_OF_RANGE,
        message,
        count.span,
        "the number of layers",
    );
    if count.predicting > 0 {
        diagnostic = diagnostic.note(format!(
            "{} more for multi-token prediction would count too",
            count.predicting
        ));
    }
    diagnostic.help("layers count from 0")
}

fn no_mla_layer(count: &Count) -> Diagnostic {
    let message = format!(
        "no layer is MLA: the model has {}, none of them full attention",
        layers(count.main)
    );
    Diagnostic::error(
        codes::NOT_AN_MLA_LAYER,
        message,
        count.span,
        "the number of layers",
    )
    .help("linear-attention layers are another kind of layer and are not imported")
}

fn not_mla(layer: u32, kinds: &Kinds, span: Span) -> Diagnostic {
    let message = format!("layer {layer} is a linear-attention layer, not MLA");
    let diagnostic = Diagnostic::error(
        codes::NOT_AN_MLA_LAYER,
        message,
        span,
        "of these layers, only some are MLA",
    );
    match kinds.first() {
        Some(first) => diagnostic.help(format!(
            "the first MLA layer is {first}; layers count from 0"
        )),
        None => diagnostic,
    }
}

fn layers(count: u32) -> String {
    if count == 1 {
        "1 layer".to_owned()
    } else {
        format!("{count} layers")
    }
}
