//! The indexer of a sparse layer (features 1.L).

use super::assemble::Comments;
use super::codes;
use super::config::{Config, Given};
use super::family::{Family, IndexerTraits, Trait};
use super::parts::{Indexer, Lightning};
use super::schedule::{IndexerUse, LayerKind};
use crate::diagnostic::Diagnostic;
use crate::layer::{RopeLayout, SplitOrder};
use crate::span::Spanned;

const PATH: &str = "submodules.core_attention.submodules.indexer";

/// The indexer of a layer of this kind: `Some(None)` where attention is dense, `None` where it was refused.
pub(super) fn read(
    config: &Config<'_>,
    family: &Family,
    kind: LayerKind,
    rope_dim: u32,
    comments: &mut Comments,
) -> Option<Option<Indexer>> {
    let Some(traits) = &family.indexer else {
        return Some(None);
    };
    let mut reader = Reader {
        config,
        comments,
        absent: Vec::new(),
    };
    // Every key is looked at, whatever this layer needs: none of them is unknown.
    let num_heads = reader.size("index_n_heads", "num_heads", traits.num_heads);
    let head_dim = reader.size("index_head_dim", "head_dim", traits.head_dim);
    let topk = reader.size("index_topk", "topk", traits.topk);
    let extras = Extras {
        k_norm: k_norm(config, family, traits),
        forced: forced(config, traits),
        pool: pool(config, traits),
    };
    let agrees = layout_agrees(config, family, traits);
    lint_layout(config, family, kind.indexer);
    let (topk, shared) = match kind.indexer {
        IndexerUse::None => {
            reader.forget();
            return Some(None);
        }
        IndexerUse::Shared => {
            let indexer = Indexer::Shared { topk: topk? };
            reader.forget();
            reader
                .comments
                .add(PATH, "uses what the nearest earlier picking layer picked");
            return Some(Some(indexer));
        }
        IndexerUse::Own { shared } => (topk?, shared),
    };
    agrees?;
    let absent = reader.absent;
    super::lints::absent_sizes(config, &family.class_defaults(), &absent);
    let (k_norm, k_norm_eps) = extras.k_norm?;
    let rotates = kind.rotates && rope_dim > 0;
    add_comments(family, traits, rotates, k_norm, comments);
    if traits.optional {
        third_party(config);
    }
    Some(Some(Indexer::Lightning(Box::new(Lightning {
        num_heads: num_heads?,
        head_dim: head_dim?,
        topk,
        rope: rotates.then_some((traits.layout, traits.split)),
        from_hidden: traits.from_hidden,
        log_position: family.has(Trait::LogPositionScaling),
        k_norm,
        k_norm_eps,
        full_precision_weights: traits.full_precision_weights,
        hadamard: false,
        relu: Spanned::unplaced(true),
        loss: None,
        forced: extras.forced?,
        pool: extras.pool?,
        shared,
    }))))
}

/// What only some indexers have; each `None` where it was refused.
struct Extras {
    k_norm: Option<(&'static str, Spanned<f64>)>,
    forced: Option<Option<(Spanned<u32>, Spanned<u32>)>>,
    pool: Option<Option<(Spanned<u32>, Spanned<bool>)>>,
}

struct Reader<'a, 'c> {
    config: &'a Config<'c>,
    comments: &'a mut Comments,
    absent: Vec<String>,
}

impl Reader<'_, '_> {
    fn size(&mut self, key: &str, param: &str, default: u32) -> Option<Spanned<u32>> {
        match self.config.size(key) {
            Given::Value(value) => Some(value),
            Given::Wrong => None,
            Given::Null(span) => {
                self.config.report(Diagnostic::error(
                    codes::WRONG_VALUE,
                    format!("`{key}` is null, wanted an integer"),
                    span,
                    "wanted an integer",
                ));
                None
            }
            Given::Absent => {
                self.absent.push(key.to_owned());
                self.comments.add(
                    &format!("{PATH}.params.{param}"),
                    "not in the config: the class default",
                );
                Some(Spanned::unplaced(default))
            }
        }
    }

    /// Takes back what was said about values that this layer does not have.
    fn forget(&mut self) {
        let inside = format!("{PATH}.");
        self.comments.remove_inside(&inside);
    }
}

/// Which norm the key has, and its eps.
fn k_norm(
    config: &Config<'_>,
    family: &Family,
    traits: &IndexerTraits,
) -> Option<(&'static str, Spanned<f64>)> {
    let configured = || match config.real("rms_norm_eps") {
        Given::Value(eps) => Some(eps),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => Some(Spanned::unplaced(family.defaults.rms_norm_eps)),
    };
    let kind = match config.word("index_k_norm_type") {
        Given::Wrong => return None,
        given => given.value().filter(|_| traits.optional),
    };
    match kind {
        Some(Spanned { value: "rms", .. }) => Some(("RMSNorm", configured()?)),
        None | Some(Spanned { value: "layer", .. }) if traits.configured_eps => {
            Some(("LayerNorm", configured()?))
        }
        None | Some(Spanned { value: "layer", .. }) => Some(("LayerNorm", Spanned::unplaced(1e-6))),
        Some(Spanned { value, span }) => {
            let message = format!(
                "`index_k_norm_type` is `{}`, wanted `rms` or `layer`",
                value.escape_debug()
            );
            config.report(Diagnostic::error(
                codes::WRONG_VALUE,
                message,
                span,
                "not known",
            ));
            None
        }
    }
}

/// `index_init_tokens` and `index_local_tokens` (L-15).
fn forced(
    config: &Config<'_>,
    traits: &IndexerTraits,
) -> Option<Option<(Spanned<u32>, Spanned<u32>)>> {
    if !traits.optional {
        return Some(None);
    }
    let tokens = |key: &str| match config.size(key) {
        Given::Value(tokens) => Some(tokens),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => Some(Spanned::unplaced(0)),
    };
    let (initial, local) = (tokens("index_init_tokens")?, tokens("index_local_tokens")?);
    Some((initial.value != 0 || local.value != 0).then_some((initial, local)))
}

/// `index_kpool` and `index_kpool_always_select_tail` (S-17). Pools of one token are none.
fn pool(
    config: &Config<'_>,
    traits: &IndexerTraits,
) -> Option<Option<(Spanned<u32>, Spanned<bool>)>> {
    if !traits.pooled {
        return Some(None);
    }
    let tokens = match config.size("index_kpool") {
        Given::Value(tokens) => tokens,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => Spanned::unplaced(16),
    };
    let tail = match config.flag("index_kpool_always_select_tail") {
        Given::Value(tail) => tail,
        Given::Wrong => return None,
        Given::Absent | Given::Null(_) => Spanned::unplaced(true),
    };
    Some(Some((tokens, tail)))
}

/// `indexer_rope_interleave`, which other engines read, against what the modeling code does.
fn layout_agrees(config: &Config<'_>, family: &Family, traits: &IndexerTraits) -> Option<()> {
    let pairs = traits.layout == RopeLayout::Interleaved;
    let stated = match config.flag("indexer_rope_interleave") {
        Given::Wrong => return None,
        given => given.value(),
    };
    if let Some(stated) = stated
        && stated.value != pairs
    {
        let rotates = if pairs { "pairs" } else { "halves" };
        let message = format!(
            "`indexer_rope_interleave` is {}, but the indexer of `{}` rotates {rotates}",
            stated.value,
            family.name()
        );
        config.report(
            Diagnostic::error(
                codes::CONTRADICTION,
                message,
                stated.span,
                "the modeling code does not read this",
            )
            .note("engines that do read it compute another layer")
            .help("remove it to import what the modeling code computes, and change the indexer's `rope_layout` if the model was trained otherwise"),
        );
        return None;
    }
    Some(())
}

/// GLM-5.2 and its successors share picks between layers, and are said to rotate halves elsewhere (L-04).
fn lint_layout(config: &Config<'_>, family: &Family, indexer: IndexerUse) {
    if family.name() != "glm_moe_dsa"
        || matches!(
            indexer,
            IndexerUse::None | IndexerUse::Own { shared: false }
        )
    {
        return;
    }
    let keys = [
        "indexer_rope_interleave",
        "index_topk_freq",
        "indexer_types",
        "index_topk_pattern",
    ];
    let span = keys
        .iter()
        .find_map(|key| config.entry(key))
        .map_or(config.span, |entry| entry.key.span);
    config.report(
        Diagnostic::warning(
            codes::INDEXER_LAYOUT,
            "the indexer is taken to rotate pairs, as the modeling code does",
            span,
            "a model whose layers share what an indexer picks",
        )
        .note("mlx-lm rotates halves for this model; only one of the two can be what it was trained with")
        .help("compare long contexts with a reference; the other reading is `rope_layout: half` in every indexer"),
    );
}

fn add_comments(
    family: &Family,
    traits: &IndexerTraits,
    rotates: bool,
    k_norm: &str,
    comments: &mut Comments,
) {
    let mut add = |path: &str, text: &str| comments.add(&format!("{PATH}.{path}"), text);
    if rotates {
        let layout = match traits.layout {
            RopeLayout::Interleaved => "rotates pairs (2i, 2i+1)",
            RopeLayout::Half => "rotates halves (i, i+d/2)",
        };
        add(
            "params.rope_layout",
            &format!("the indexer of {} {layout}", family.name()),
        );
        if traits.split == SplitOrder::NopeFirst {
            add(
                "params.split_order",
                "the rotated part stands behind, as in the layer itself",
            );
        }
    }
    if traits.full_precision_weights {
        add(
            "submodules.linear_weights_proj.params.dtype",
            "the modeling code keeps these weights in f32",
        );
    }
    let eps = if traits.configured_eps || k_norm == "RMSNorm" {
        "rms_norm_eps"
    } else {
        "the code's own, whatever rms_norm_eps says"
    };
    add("submodules.k_norm.params.eps", eps);
}

/// What is known of LongCat's sparse attention is second-hand.
fn third_party(config: &Config<'_>) {
    if let Some(entry) = config.entry("index_topk") {
        config.report(
            Diagnostic::warning(
                codes::SECOND_HAND,
                "sparse attention of `longcat_flash` is imported as third parties describe it",
                entry.key.span,
                "the library's modeling code does not read this",
            )
            .help("compare with the checkpoint's own code before relying on it"),
        );
    }
}
