//! Mistral-Large-4's lists: which layers rotate, and whose latents they attend to (features D-09, S-01, S-16).

use super::attention::one_per_layer;
use super::{Count, Rule, Schedule};
use crate::diagnostic::Diagnostic;
use crate::import::codes;
use crate::import::config::{Config, Given, wrong_value};
use crate::import::family::Family;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::Spanned;

/// The layers that rotate.
pub(super) enum Ropes {
    /// All of them, as far as the family rotates.
    All,
    /// One entry per layer.
    Listed(Vec<bool>),
    /// All but the last of so many.
    AllButLastOf(u32),
}

impl Ropes {
    /// Whether this layer rotates.
    pub(super) fn rotates(&self, layer: u32) -> bool {
        match self {
            Ropes::All => true,
            Ropes::Listed(rotates) => rotates.get(layer as usize).copied().unwrap_or(true),
            Ropes::AllButLastOf(interval) => layer % interval != interval - 1,
        }
    }
}

/// `no_rope_layers`, where 1 means that the layer does rotate; else every `no_rope_layer_interval`-th does not.
pub(super) fn ropes(config: &Config<'_>, family: &Family, count: &Count) -> Option<Ropes> {
    if family.layers != Rule::MistralLarge4 {
        return Some(Ropes::All);
    }
    let interval = config.size("no_rope_layer_interval");
    match config.list("no_rope_layers") {
        Given::Value(list) => rotating(config, list, count).map(Ropes::Listed),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => match interval {
            Given::Value(Spanned { value: 0, span }) => {
                config.report(Diagnostic::error(
                    codes::WRONG_VALUE,
                    "`no_rope_layer_interval` is 0, wanted at least 1",
                    span,
                    "wanted at least 1",
                ));
                None
            }
            Given::Value(interval) => Some(Ropes::AllButLastOf(interval.value)),
            Given::Wrong => None,
            Given::Absent | Given::Null(_) => Some(Ropes::AllButLastOf(4)),
        },
    }
}

/// The list may be longer than the model; what is behind the last layer counts for nothing.
fn rotating(config: &Config<'_>, list: Spanned<&[Node]>, count: &Count) -> Option<Vec<bool>> {
    const KEY: &str = "no_rope_layers";
    if list.value.len() < count.main as usize {
        one_per_layer(config, KEY, list, count)?;
    }
    let mut rotates = Vec::with_capacity(list.value.len());
    for item in list.value {
        match &item.kind {
            NodeKind::Scalar(Scalar::Int(0)) => rotates.push(false),
            NodeKind::Scalar(Scalar::Int(1)) => rotates.push(true),
            _ => {
                config.report(wrong_value(KEY, item, "1 (rotates) or 0 (does not)"));
                return None;
            }
        }
    }
    Some(rotates)
}

/// `kv_source_layers`: per layer, whose latents it uses. Empty where everyone uses its own.
///
/// The modeling code reads this list only to see who owns latents. What a layer gets are those of the last sharing owner that
/// rotates as it does, so a list that says something else describes no model.
pub(super) fn kv_sources(
    config: &Config<'_>,
    family: &Family,
    schedule: &Schedule,
) -> Option<Vec<u32>> {
    if family.layers != Rule::MistralLarge4 {
        return Some(Vec::new());
    }
    const KEY: &str = "kv_source_layers";
    let list = match config.list(KEY) {
        Given::Value(list) => list,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => return Some(Vec::new()),
    };
    one_per_layer(config, KEY, list, &schedule.count)?;
    let mut sources: Vec<u32> = Vec::with_capacity(list.value.len());
    for (layer, item) in (0u32..).zip(list.value) {
        let source = match &item.kind {
            NodeKind::Scalar(Scalar::Int(source)) => u32::try_from(*source).ok(),
            _ => None,
        };
        let owns = |source: u32| source == layer || sources.get(source as usize) == Some(&source);
        let Some(source) = source.filter(|source| *source <= layer && owns(*source)) else {
            config.report(wrong_value(
                KEY,
                item,
                "the layer itself, or an earlier one that owns its latents",
            ));
            return None;
        };
        sources.push(source);
    }
    if (0u32..)
        .zip(&sources)
        .all(|(layer, source)| layer == *source)
    {
        return Some(Vec::new());
    }
    nearest_of_a_kind(config, schedule, &sources, list.value)?;
    Some(sources)
}

fn nearest_of_a_kind(
    config: &Config<'_>,
    schedule: &Schedule,
    sources: &[u32],
    items: &[Node],
) -> Option<()> {
    let mut last: [Option<u32>; 2] = [None; 2];
    let stored: std::collections::HashSet<u32> = (0u32..)
        .zip(sources)
        .filter(|(layer, source)| layer != *source)
        .map(|(_, source)| *source)
        .collect();
    for ((layer, source), item) in (0u32..).zip(sources).zip(items) {
        let kind = usize::from(schedule.ropes.rotates(layer));
        if *source == layer {
            if stored.contains(&layer) {
                last[kind] = Some(layer);
            }
            continue;
        }
        if last[kind] != Some(*source) {
            let rotates = if kind == 1 {
                "rotates"
            } else {
                "does not rotate"
            };
            let message = format!("layer {layer} can't use the latents of layer {source}");
            let found = match last[kind] {
                Some(last) => format!(
                    "it {rotates}, and gets those of layer {last}, the last sharing one that is like it"
                ),
                None => format!(
                    "it {rotates}, and no layer before it that does so too shares its latents"
                ),
            };
            config.report(
                Diagnostic::error(
                    codes::LAYER_LISTS,
                    message,
                    item.span,
                    "not the layer that the code takes",
                )
                .note(found)
                .help("latents are shared among layers that rotate, and among layers that do not"),
            );
            return None;
        }
    }
    Some(())
}
