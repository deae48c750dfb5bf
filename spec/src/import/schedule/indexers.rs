//! Which sparse layers pick keys themselves (features L-14): `indexer_types`, else `index_topk_pattern`, else
//! `index_topk_freq` and `index_skip_topk_offset`.

use super::attention::one_per_layer;
use super::{Count, Rule, Schedule};
use crate::diagnostic::Diagnostic;
use crate::import::codes;
use crate::import::config::{Config, Given, wrong_value};
use crate::import::family::Family;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::Spanned;

/// The layers that use another layer's picks.
pub(super) enum Indexers {
    /// None do.
    AllPick,
    /// One entry per layer: whether it does.
    Listed(Vec<bool>),
    /// Layer `i`, counted from 0, picks iff `max(i - offset + 1, 0)` is a multiple of `frequency`.
    Every { frequency: u32, offset: i64 },
    /// The first layer picks, and from the second on every fourth: the class default of `hy_v4`.
    FromTheSecond,
}

impl Indexers {
    /// Whether this layer uses another one's picks.
    pub(super) fn is_shared(&self, layer: u32) -> bool {
        match self {
            Indexers::AllPick => false,
            Indexers::Listed(shared) => shared.get(layer as usize).copied().unwrap_or(false),
            Indexers::Every { frequency, offset } => {
                let steps = i64::from(layer).saturating_sub(*offset).saturating_add(1);
                steps.max(0) % i64::from(*frequency) != 0
            }
            Indexers::FromTheSecond => layer != 0 && !(layer - 1).is_multiple_of(4),
        }
    }

    /// Whether any of so many layers does.
    pub(super) fn any_shares(&self, count: u32) -> bool {
        match self {
            Indexers::AllPick | Indexers::Every { frequency: 1, .. } => false,
            Indexers::Listed(shared) => shared.contains(&true),
            // The first picking layer is followed by sharing ones.
            Indexers::Every { offset, .. } => i64::from(count) > (*offset).max(0),
            Indexers::FromTheSecond => count > 2,
        }
    }
}

/// The indexers of a family's layers.
pub(super) fn read(config: &Config<'_>, family: &Family, count: &Count) -> Option<Indexers> {
    match family.layers {
        Rule::IndexShared | Rule::Glm5Next | Rule::MistralLarge4 => shared(config, count),
        Rule::HyV4 => Some(match types(config, count)? {
            Some(listed) => Indexers::Listed(listed),
            None => Indexers::FromTheSecond,
        }),
        Rule::Longcat => neighbours(config),
        _ => Some(Indexers::AllPick),
    }
}

fn shared(config: &Config<'_>, count: &Count) -> Option<Indexers> {
    let types = types(config, count);
    let pattern = pattern(config, count);
    let every = every(config);
    let (types, pattern, every) = (types?, pattern?, every?);
    match types.or(pattern) {
        None => {
            lint_numbering(config, &every);
            Some(every)
        }
        Some(listed) => {
            let written = config.entry("index_topk_freq");
            let differs = |listed: &[bool]| {
                (0u32..)
                    .zip(listed)
                    .any(|(layer, shared)| every.is_shared(layer) != *shared)
            };
            if let Some(entry) = written.filter(|_| differs(&listed)) {
                config.report(
                    Diagnostic::warning(
                        codes::INDEX_NUMBERING,
                        "`index_topk_freq` gives other layers than the list beside it, which counts",
                        entry.value.span,
                        "passed over",
                    )
                    .note("`index_skip_topk_offset` counts layers from 0 and defaults to 2 here; Megatron counts from 1 and defaults to 0"),
                );
            }
            Some(Indexers::Listed(listed))
        }
    }
}

/// `indexer_types`: `Some(None)` where it is absent.
fn types(config: &Config<'_>, count: &Count) -> Option<Option<Vec<bool>>> {
    match config.list("indexer_types") {
        Given::Value(types) => Some(Some(words(config, "indexer_types", types, count)?)),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => Some(None),
    }
}

/// `index_topk_pattern`: a string of `F` and `S`, or a list of words. `Some(None)` where it is absent.
fn pattern(config: &Config<'_>, count: &Count) -> Option<Option<Vec<bool>>> {
    const KEY: &str = "index_topk_pattern";
    let Some(entry) = config.entry(KEY) else {
        return Some(None);
    };
    match &entry.value.kind {
        NodeKind::Scalar(Scalar::Null) => Some(None),
        NodeKind::Seq(items) => {
            let items = Spanned::new(items.as_slice(), entry.value.span);
            Some(Some(words(config, KEY, items, count)?))
        }
        NodeKind::Scalar(Scalar::Str(letters))
            if letters.len() == count.main as usize
                && letters.bytes().all(|letter| matches!(letter, b'F' | b'S')) =>
        {
            Some(Some(letters.bytes().map(|letter| letter == b'S').collect()))
        }
        _ => {
            let wanted = format!(
                "one `F` (picks) or `S` (shares) for each of {}",
                super::layers(count.main)
            );
            config.report(wrong_value(KEY, &entry.value, &wanted));
            None
        }
    }
}

fn words(
    config: &Config<'_>,
    key: &str,
    items: Spanned<&[Node]>,
    count: &Count,
) -> Option<Vec<bool>> {
    one_per_layer(config, key, items, count)?;
    let mut shared = Vec::with_capacity(items.value.len());
    for item in items.value {
        match &item.kind {
            NodeKind::Scalar(Scalar::Str(word)) if word == "full" => shared.push(false),
            NodeKind::Scalar(Scalar::Str(word)) if word == "shared" => shared.push(true),
            _ => {
                config.report(wrong_value(key, item, "`full` or `shared`"));
                return None;
            }
        }
    }
    Some(shared)
}

/// `index_topk_freq` (below 1 counts as 1) and `index_skip_topk_offset` (2 where absent).
fn every(config: &Config<'_>) -> Option<Indexers> {
    let frequency = match config.size("index_topk_freq") {
        Given::Value(frequency) => frequency.value.max(1),
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => 1,
    };
    let offset = match config.size("index_skip_topk_offset") {
        Given::Value(offset) => i64::from(offset.value),
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => 2,
    };
    Some(Indexers::Every { frequency, offset })
}

/// Says what the offset counts from, where it matters and is not stated.
fn lint_numbering(config: &Config<'_>, every: &Indexers) {
    let stated = config.size("index_skip_topk_offset").value().is_some();
    if let Some(entry) = config
        .entry("index_topk_freq")
        .filter(|_| every.any_shares(u32::MAX))
        && !stated
    {
        config.report(
            Diagnostic::warning(
                codes::INDEX_NUMBERING,
                "`index_skip_topk_offset` is absent: 2 is taken, layers counted from 0",
                entry.value.span,
                "so many layers share what one picks",
            )
            .note("Megatron counts layers from 1 and defaults to 0, which makes other layers pick")
            .help("state `index_skip_topk_offset`, or `indexer_types` layer by layer"),
        );
    }
}

/// LongCat: `cli_factor` attentions in a row share what the first of them picks (L-15).
fn neighbours(config: &Config<'_>) -> Option<Indexers> {
    match config.size("cli_factor") {
        Given::Value(Spanned { value: 0, span }) => {
            config.report(Diagnostic::error(
                codes::WRONG_VALUE,
                "`cli_factor` is 0, wanted at least 1",
                span,
                "wanted at least 1",
            ));
            None
        }
        Given::Value(factor) => Some(Indexers::Every {
            frequency: factor.value,
            offset: 1,
        }),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => Some(Indexers::AllPick),
    }
}

/// The first MLA layer has nobody to share with.
pub(super) fn first_layer_picks(config: &Config<'_>, schedule: &Schedule) -> Option<()> {
    let first = schedule.first();
    if !first.is_some_and(|first| schedule.indexers.is_shared(first)) {
        return Some(());
    }
    let keys = ["indexer_types", "index_topk_pattern", "index_topk_freq"];
    let span = keys
        .iter()
        .find_map(|key| config.entry(key))
        .map_or(config.span, |entry| entry.value.span);
    config.report(
        Diagnostic::error(
            codes::LAYER_LISTS,
            "the first sparse layer shares what another layer picks, but none comes before it",
            span,
            "makes the first layer a sharing one",
        )
        .note("`index_skip_topk_offset` counts layers from 0 here; an offset from Megatron, which counts from 1, may be 0")
        .help("an `index_skip_topk_offset` of at least 1 lets the first layer pick"),
    );
    None
}
