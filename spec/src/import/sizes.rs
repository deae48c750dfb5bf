//! Sizes of a layer: as the config states them, for this layer or for all, or as the config class has them.

use super::assemble::Comments;
use super::codes;
use super::config::{Config, Given};
use super::family::{Family, QueryRank, Trait};
use super::parts::Sizes;
use super::schedule::Attention;
use crate::diagnostic::Diagnostic;
use crate::span::Spanned;

/// Where a layer's own sizes stand.
pub(super) enum Own<'c> {
    /// It has none.
    None,
    /// Its entry of `per_layer_config`.
    Listed(Config<'c>),
    /// `swa_*` keys, and the class defaults of sliding layers.
    Sliding,
}

/// What `dots3_note` takes for sliding layers (features S-11).
const SLIDING: &[(&str, u32)] = &[
    ("num_attention_heads", 64),
    ("q_lora_rank", 1024),
    ("kv_lora_rank", 1024),
    ("head_dim", 256),
    ("qk_nope_head_dim", 192),
    ("v_head_dim", 128),
];

/// The place of one layer's own sizes; `None` where it was refused.
pub(super) fn own<'c>(
    config: &Config<'c>,
    family: &Family,
    layer: u32,
    attention: Attention,
) -> Option<Own<'c>> {
    if !family.has(Trait::PerLayerType) {
        return Some(Own::None);
    }
    match config.object("per_layer_config") {
        Given::Wrong => None,
        Given::Value(layers) => {
            // The library pads the numbers: "02".
            let entry = layers
                .value
                .iter()
                .find(|entry| entry.key.value.parse() == Ok(layer));
            let Some(entry) = entry else {
                return Some(Own::None);
            };
            let layers = config.inner(layers);
            match layers.object(&entry.key.value) {
                Given::Wrong => None,
                given => Some(
                    given
                        .value()
                        .map_or(Own::None, |entries| Own::Listed(config.inner(entries))),
                ),
            }
        }
        Given::Absent | Given::Null(_) if attention == Attention::Sliding => Some(Own::Sliding),
        Given::Absent | Given::Null(_) => Some(Own::None),
    }
}

/// Reads them all, or reports what is wrong.
pub(super) fn read(
    config: &Config<'_>,
    family: &Family,
    own: &Own<'_>,
    comments: &mut Comments,
) -> Option<Sizes> {
    let defaults = &family.defaults;
    let mut reader = Reader {
        config,
        own,
        comments,
        absent: Vec::new(),
    };
    let hidden_size = reader.read("hidden_size", defaults.hidden_size);
    let num_attention_heads = reader.read("num_attention_heads", defaults.num_attention_heads);
    let kv_lora_rank = reader.read("kv_lora_rank", defaults.kv_lora_rank);
    let qk_nope_head_dim = reader.read("qk_nope_head_dim", defaults.qk_nope_head_dim);
    let qk_rope_head_dim = reader.read_rope_dim(family, qk_nope_head_dim);
    let v_head_dim = match defaults.v_head_dim {
        Some(default) => reader.read("v_head_dim", default),
        None => reader.read_value_dim(hidden_size, num_attention_heads),
    };
    let q_lora_rank = reader.read_query_rank(family);
    super::lints::absent_sizes(config, &family.class_defaults(), &reader.absent);
    Some(Sizes {
        hidden_size: hidden_size?,
        num_attention_heads: num_attention_heads?,
        q_lora_rank: q_lora_rank?,
        kv_lora_rank: kv_lora_rank?,
        qk_nope_head_dim: qk_nope_head_dim?,
        qk_rope_head_dim: qk_rope_head_dim?,
        v_head_dim: v_head_dim?,
    })
}

/// Reads sizes and remembers which ones the config leaves to its class.
struct Reader<'a, 'c> {
    config: &'a Config<'c>,
    own: &'a Own<'c>,
    comments: &'a mut Comments,
    absent: Vec<String>,
}

impl Reader<'_, '_> {
    fn read(&mut self, key: &'static str, default: u32) -> Option<Spanned<u32>> {
        let (name, given) = self.given(key);
        match given {
            Given::Value(value) => Some(value),
            Given::Wrong => None,
            Given::Null(span) => {
                self.config.report(Diagnostic::error(
                    codes::WRONG_VALUE,
                    format!("`{name}` is null, wanted an integer"),
                    span,
                    "wanted an integer",
                ));
                None
            }
            Given::Absent => Some(self.default(key, name, default)),
        }
    }

    /// The value of this layer, and the name of the key that was looked at.
    fn given(&self, key: &'static str) -> (String, Given<u32>) {
        match self.own {
            Own::Listed(own) if own.entry(key).is_some() => (key.to_owned(), own.size(key)),
            Own::Sliding if SLIDING.iter().any(|(name, _)| *name == key) => {
                let name = format!("swa_{key}");
                let given = self.config.size(&name);
                (name, given)
            }
            _ => (key.to_owned(), self.config.size(key)),
        }
    }

    fn default(&mut self, key: &'static str, name: String, default: u32) -> Spanned<u32> {
        let sliding = SLIDING
            .iter()
            .find(|(sliding, _)| *sliding == key)
            .filter(|_| matches!(self.own, Own::Sliding));
        self.absent.push(name);
        self.comments.add(
            &format!("params.{key}"),
            "not in the config: the class default",
        );
        Spanned::unplaced(sliding.map_or(default, |(_, default)| *default))
    }

    /// `qk_rope_head_dim`, which `glm4_moe_lite` also knows as `head_dim`, and which sliding layers have as the rest of theirs.
    fn read_rope_dim(
        &mut self,
        family: &Family,
        nope: Option<Spanned<u32>>,
    ) -> Option<Spanned<u32>> {
        const KEY: &str = "qk_rope_head_dim";
        if matches!(self.own, Own::Sliding) {
            return self.rest_of_sliding_head(nope?);
        }
        if !family.has(Trait::HeadDimIsRopeDim) {
            return self.read(KEY, family.defaults.qk_rope_head_dim);
        }
        let alias = self.config.size("head_dim").value();
        match (self.config.size(KEY), alias) {
            (Given::Value(given), Some(alias)) if alias.value != given.value => {
                self.config.report(
                    Diagnostic::error(
                        codes::CONTRADICTION,
                        format!(
                            "`head_dim` is {} and `{KEY}` is {}, two names of one thing",
                            alias.value, given.value
                        ),
                        alias.span,
                        "this family's other name for it",
                    )
                    .and(given.span, "and the one that counts")
                    .help("remove `head_dim`"),
                );
                None
            }
            (Given::Absent, Some(alias)) => {
                self.comments.add(
                    "params.qk_rope_head_dim",
                    "from head_dim, this family's other name for it",
                );
                Some(alias)
            }
            _ => self.read(KEY, family.defaults.qk_rope_head_dim),
        }
    }

    fn rest_of_sliding_head(&mut self, nope: Spanned<u32>) -> Option<Spanned<u32>> {
        let whole = match self.config.size("swa_head_dim") {
            Given::Value(whole) => whole,
            Given::Wrong => return None,
            Given::Absent | Given::Null(_) => Spanned::new(256, self.config.span),
        };
        let rest = whole.value.checked_sub(nope.value);
        let stated = match self.config.size("swa_qk_rope_head_dim") {
            Given::Value(stated) => Some(stated),
            Given::Wrong => return None,
            Given::Absent | Given::Null(_) => None,
        };
        match (rest, stated) {
            (Some(rest), None) => {
                self.comments.add(
                    "params.qk_rope_head_dim",
                    "what swa_qk_nope_head_dim leaves of swa_head_dim",
                );
                Some(Spanned::new(rest, whole.span))
            }
            (Some(rest), Some(stated)) if rest == stated.value => Some(stated),
            _ => {
                let message = format!(
                    "`swa_head_dim` is {}, which is not the sum of its parts",
                    whole.value
                );
                let mut wrong = Diagnostic::error(
                    codes::CONTRADICTION,
                    message,
                    whole.span,
                    "not the sum of the parts",
                )
                .and(nope.span, "one part");
                if let Some(stated) = stated {
                    wrong = wrong.and(stated.span, "and the other");
                }
                self.config.report(wrong);
                None
            }
        }
    }

    /// `v_head_dim`, or what one of so many heads has of the hidden size.
    fn read_value_dim(
        &mut self,
        hidden_size: Option<Spanned<u32>>,
        heads: Option<Spanned<u32>>,
    ) -> Option<Spanned<u32>> {
        match self.config.size("v_head_dim") {
            Given::Value(value) => Some(value),
            Given::Wrong => None,
            Given::Absent | Given::Null(_) => {
                let (hidden_size, heads) = (hidden_size?, heads?);
                self.comments.add(
                    "params.v_head_dim",
                    "not in the config: hidden_size over num_attention_heads",
                );
                match hidden_size.value.checked_div(heads.value) {
                    Some(dim) if dim * heads.value == hidden_size.value => {
                        Some(Spanned::new(dim, hidden_size.span))
                    }
                    _ => {
                        let message = format!(
                            "`v_head_dim` is absent, and {} heads do not divide `hidden_size`",
                            heads.value
                        );
                        self.config.report(
                            Diagnostic::error(
                                codes::CONTRADICTION,
                                message,
                                hidden_size.span,
                                "not a multiple of the number of heads",
                            )
                            .and(heads.span, "the number of heads")
                            .help("state `v_head_dim`"),
                        );
                        None
                    }
                }
            }
        }
    }

    /// `q_lora_rank`: `Some(None)` for plain queries, `None` where it was refused.
    fn read_query_rank(&mut self, family: &Family) -> Option<Option<Spanned<u32>>> {
        let (name, given) = self.given("q_lora_rank");
        match (given, family.query_rank) {
            (Given::Wrong, _) => None,
            (Given::Null(_) | Given::Absent, QueryRank::Never) => Some(None),
            (Given::Value(rank), QueryRank::Never) => {
                let message = format!(
                    "`{name}` is {}, but queries of `{}` are plain",
                    rank.value,
                    family.name()
                );
                self.config.report(
                    Diagnostic::error(
                        codes::CONTRADICTION,
                        message,
                        rank.span,
                        "the modeling code has no query latent",
                    )
                    .help("set it to null"),
                );
                None
            }
            (Given::Value(Spanned { value: 0, span }), _) => {
                self.config.report(
                    Diagnostic::error(codes::WRONG_VALUE, format!("`{name}` is 0"), span, "wanted null or at least 1")
                        .note("the modeling code would build a projection to nothing; other code means plain queries by 0")
                        .help("write `null` for plain queries (`q_proj`)"),
                );
                None
            }
            (Given::Value(rank), _) => Some(Some(rank)),
            (Given::Null(span), QueryRank::Required) => {
                let message = format!(
                    "`{name}` is null, but `{}` has no plain queries",
                    family.name()
                );
                self.config.report(
                    Diagnostic::error(codes::CONTRADICTION, message, span, "wanted a rank")
                        .note("the query latent is also what an indexer or a gate reads"),
                );
                None
            }
            (Given::Null(_), QueryRank::Optional) => Some(None),
            (Given::Absent, _) => match family.defaults.q_lora_rank {
                None => Some(None),
                Some(default) => Some(Some(self.default("q_lora_rank", name, default))),
            },
        }
    }
}
