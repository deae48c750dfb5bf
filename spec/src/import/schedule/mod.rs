//! How the layers of a model differ from each other: which are MLA, which slide, which pick keys, rotate, or use another
//! layer's latents.

mod attention;
mod indexers;
mod sharing;

use attention::Kinds;
use indexers::Indexers;
use sharing::Ropes;

use super::codes;
use super::config::{Config, Given};
use super::family::{Family, Trait};
use crate::diagnostic::Diagnostic;
use crate::span::{Span, Spanned};

/// Which keys say how a family's layers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// They don't.
    Alike,
    /// `layer_types`, else `linear_attn_config`, else every fourth layer is MLA.
    KimiLinear,
    /// `layer_types`, else the last of every `layer_group_size` is MLA.
    LastOfGroup,
    /// Every layer picks its own keys.
    Indexed,
    /// Every layer is sparse; `indexer_types` and its kin say which pick.
    IndexShared,
    /// `layer_types`, else every fourth layer is MLA; `indexer_types` and its kin say which pick.
    Glm5Next,
    /// `indexer_types`, else the first and then every fourth from the second.
    HyV4,
    /// `layer_types`, else a pattern of sparse and sliding layers.
    Dots3,
    /// `no_rope_layers`, `kv_source_layers`, and `indexer_types` and its kin.
    MistralLarge4,
    /// Two attentions a layer; `cli_factor` neighbours share what one picks.
    Longcat,
}

/// What a layer's attention is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Attention {
    /// Every key before the query.
    Full,
    /// The keys that an indexer picks.
    Indexed,
    /// The last few keys.
    Sliding,
    /// No MLA at all.
    Linear,
}

/// An MLA layer's part in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LayerKind {
    /// Never [`Attention::Linear`].
    pub(super) attention: Attention,
    /// Whether queries and keys are rotated.
    pub(super) rotates: bool,
    /// Which indexer it has. [`IndexerUse::None`] unless attention is indexed.
    pub(super) indexer: IndexerUse,
    /// Whose latents it attends to.
    pub(super) kv: KvRole,
}

impl LayerKind {
    /// A layer like every other.
    pub(super) const PLAIN: Self = Self {
        attention: Attention::Full,
        rotates: true,
        indexer: IndexerUse::None,
        kv: KvRole::Own,
    };
}

/// Where a layer's picked keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum IndexerUse {
    /// Attention is dense.
    None,
    /// It picks, and whether the model has layers that use what others pick.
    Own { shared: bool },
    /// An earlier layer picked.
    Shared,
}

/// A layer's part in the sharing of latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum KvRole {
    /// Makes its own, for itself.
    Own,
    /// Makes its own, and later layers use them.
    Stored,
    /// Uses an earlier layer's.
    Reused,
}

/// The layers of a model: how many, and where that is said.
pub(super) struct Count {
    /// Attention layers of the decoder itself.
    pub(super) main: u32,
    /// Layers after them for multi-token prediction.
    predicting: u32,
    pub(super) span: Span,
}

/// What every layer is.
pub(super) struct Schedule {
    pub(super) count: Count,
    kinds: Kinds,
    indexers: Indexers,
    ropes: Ropes,
    /// The layer whose latents each one uses; empty where everyone uses its own.
    pub(super) kv_sources: Vec<u32>,
}

/// Reads the keys that say how layers differ.
pub(super) fn read(config: &Config<'_>, family: &Family) -> Option<Schedule> {
    let count = count(config, family)?;
    let kinds = attention::read(config, family, &count)?;
    let indexers = indexers::read(config, family, &count);
    let ropes = sharing::ropes(config, family, &count);
    let mut schedule = Schedule {
        kinds,
        indexers: indexers?,
        ropes: ropes?,
        kv_sources: Vec::new(),
        count,
    };
    indexers::first_layer_picks(config, &schedule)?;
    schedule.kv_sources = sharing::kv_sources(config, family, &schedule)?;
    Some(schedule)
}

impl Schedule {
    /// What this layer is; `None` where it is no MLA layer. Prediction layers are complete ones.
    pub(super) fn kind(&self, layer: u32) -> Option<LayerKind> {
        if layer >= self.count.main {
            let attention = self.kinds.complete();
            return Some(LayerKind {
                attention,
                rotates: true,
                indexer: match attention {
                    Attention::Indexed => IndexerUse::Own { shared: false },
                    _ => IndexerUse::None,
                },
                kv: KvRole::Own,
            });
        }
        let attention = self.kinds.of(layer);
        if attention == Attention::Linear {
            return None;
        }
        Some(LayerKind {
            attention,
            rotates: self.ropes.rotates(layer),
            indexer: self.indexer(layer),
            kv: self.kv(layer),
        })
    }

    /// The layer that `wanted` names, or the first MLA layer; reports and answers `None` where there is no such layer.
    pub(super) fn choose(&self, config: &Config<'_>, wanted: Option<u32>) -> Option<u32> {
        let Some(layer) = wanted.or_else(|| self.first()) else {
            config.report(no_mla_layer(&self.count));
            return None;
        };
        if u64::from(layer) >= u64::from(self.count.main) + u64::from(self.count.predicting) {
            config.report(out_of_range(layer, &self.count));
            return None;
        }
        if self.kind(layer).is_none() {
            config.report(not_mla(layer, self.first(), self.count.span));
            return None;
        }
        Some(layer)
    }

    /// The first MLA layer.
    pub(super) fn first(&self) -> Option<u32> {
        self.kinds.first().filter(|first| *first < self.count.main)
    }

    fn indexer(&self, layer: u32) -> IndexerUse {
        if self.kinds.of(layer) != Attention::Indexed {
            return IndexerUse::None;
        }
        if self.indexers.is_shared(layer) {
            return IndexerUse::Shared;
        }
        IndexerUse::Own {
            shared: self.indexers.any_shares(self.count.main),
        }
    }

    fn kv(&self, layer: u32) -> KvRole {
        let source = |layer: u32| self.kv_sources.get(layer as usize).copied();
        match source(layer) {
            None => KvRole::Own,
            Some(source) if source != layer => KvRole::Reused,
            Some(_) => {
                let later = self.kv_sources.iter().skip(layer as usize + 1);
                if later.into_iter().any(|source| *source == layer) {
                    KvRole::Stored
                } else {
                    KvRole::Own
                }
            }
        }
    }
}

fn count(config: &Config<'_>, family: &Family) -> Option<Count> {
    let main = if family.has(Trait::TwoAttentions) {
        two_each(config, family)?
    } else {
        match config.size("num_hidden_layers") {
            Given::Value(value) => value,
            Given::Wrong => return None,
            Given::Absent | Given::Null(_) => {
                Spanned::new(family.defaults.num_hidden_layers, config.span)
            }
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

/// `num_layers` decoder layers of two attentions each; `num_hidden_layers` counts the attentions.
fn two_each(config: &Config<'_>, family: &Family) -> Option<Spanned<u32>> {
    match (config.size("num_layers"), config.size("num_hidden_layers")) {
        (Given::Wrong, _) | (_, Given::Wrong) => None,
        (Given::Value(layers), Given::Value(attentions))
            if u64::from(attentions.value) != 2 * u64::from(layers.value) =>
        {
            let message = format!(
                "`num_hidden_layers` is {} and `num_layers` is {}: each layer has two attentions",
                attentions.value, layers.value
            );
            config.report(
                Diagnostic::error(
                    codes::CONTRADICTION,
                    message,
                    attentions.span,
                    "not twice as many",
                )
                .and(layers.span, "so many layers")
                .help(
                    "remove `num_hidden_layers`: the modeling code takes its half for `num_layers`",
                ),
            );
            None
        }
        (Given::Value(layers), _) => {
            Some(Spanned::new(layers.value.saturating_mul(2), layers.span))
        }
        (_, Given::Value(attentions)) => {
            Some(Spanned::new(attentions.value / 2 * 2, attentions.span))
        }
        _ => Some(Spanned::new(family.defaults.num_hidden_layers, config.span)),
    }
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

fn not_mla(layer: u32, first: Option<u32>, span: Span) -> Diagnostic {
    let message = format!("layer {layer} is a linear-attention layer, not MLA");
    let diagnostic = Diagnostic::error(
        codes::NOT_AN_MLA_LAYER,
        message,
        span,
        "of these layers, only some are MLA",
    );
    match first {
        Some(first) => diagnostic.help(format!(
            "the first MLA layer is {first}; layers count from 0"
        )),
        None => diagnostic,
    }
}

/// So many layers, in words.
pub(super) fn layers(count: u32) -> String {
    if count == 1 {
        "1 layer".to_owned()
    } else {
        format!("{count} layers")
    }
}
