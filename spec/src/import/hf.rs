//! Hugging Face `config.json` to a document.

use std::cell::RefCell;

use super::assemble::{self, Comments, Parts};
use super::config::{Config, Given};
use super::family::{self, Family};
use super::{codes, json, keys, layers, lints, rope};
use crate::check::check;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Document;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Sources, Spanned};
use crate::write;

/// How a config is imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The layer to import, counted from 0; `None` for the first MLA layer.
    pub layer: Option<u32>,
    /// Whether a key that was not reviewed is an error even where nothing in it has to do with attention.
    pub strict: bool,
    /// Name of the generated layer; `None` for the family's.
    pub name: Option<String>,
}

/// A config in our language.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The spec. It has passed [`check`](crate::check()); values that were read carry their place in the config.
    pub document: Document,
    /// Why each value that was not simply read is what it is.
    pub comments: write::Comments,
    /// Warnings: what is known to go wrong with configs like this one.
    pub lints: Diagnostics,
    /// The layer that was imported, counted from 0.
    pub layer: u32,
    /// Where its weights are in the checkpoint: `model.layers.0.self_attn`, without final dot.
    pub weight_prefix: String,
}

/// Keys that are read for every family.
const KNOWN: &[&str] = &[
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "qk_head_dim",
    "v_head_dim",
    "head_dim",
    "attention_bias",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_interleave",
    "partial_rotary_factor",
    "quantization_config",
];

/// Imports the attention layer that a `config.json` describes. `name` is what the text is called in messages.
///
/// Never panics. Errors: the text is no JSON object, the family is unknown or not in this release, a key has a value
/// of the wrong kind, a key that touches attention is not understood, the layer does not exist or is no MLA layer, or
/// the layer that comes out does not pass [`check`](crate::check()).
///
/// ```
/// use mla_spec::{Sources, import};
/// let config = r#"{ "model_type": "deepseek_v3", "q_lora_rank": null, "rope_theta": 50000.0, "rms_norm_eps": 1e-5 }"#;
/// let imported = import::hf(&mut Sources::default(), "config.json", config, &import::Options::default()).unwrap();
/// assert_eq!(imported.weight_prefix, "model.layers.0.self_attn");
/// assert!(!imported.lints.has_errors());
/// ```
pub fn hf(
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Options,
) -> Result<Imported, Diagnostics> {
    let root = json::parse(sources, name, text)?;
    let diagnostics = RefCell::new(Diagnostics::new());
    let imported = import(&root, options, &diagnostics);
    let mut lints = diagnostics.into_inner();
    match imported {
        Some(mut imported) if !lints.has_errors() => {
            let (_, found) = check(&imported.document);
            if found.has_errors() {
                lints.extend(found);
                return Err(lints);
            }
            imported.lints = lints;
            Ok(imported)
        }
        _ => Err(lints),
    }
}

fn import(root: &Node, options: &Options, diagnostics: &RefCell<Diagnostics>) -> Option<Imported> {
    let NodeKind::Map(entries) = &root.kind else {
        let message = format!("the config is {}, wanted an object", root.kind_name());
        diagnostics.borrow_mut().push(Diagnostic::error(
            codes::NOT_AN_OBJECT,
            message,
            root.span,
            "wanted an object",
        ));
        return None;
    };
    let outer = Config::new(Spanned::new(entries, root.span), diagnostics);
    let found = find_language_model(&outer)?;
    let (config, family) = (&found.config, found.family);
    let mut comments = Comments::default();

    let layer = layers::choose(config, family, options.layer);
    let parts = read_parts(config, family, options, &mut comments);
    lints::quantization(config);
    if found.nested {
        lints::quantization(&outer);
    }
    keys::review(config, family, KNOWN, options.strict);

    let (layer, parts) = (layer?, parts?);
    let prefix = if found.nested {
        "language_model.model"
    } else {
        "model"
    };
    Some(Imported {
        document: assemble::document(parts),
        comments: comments.0,
        lints: Diagnostics::new(),
        layer,
        weight_prefix: format!("{prefix}.layers.{layer}.self_attn"),
    })
}

/// The object that describes the language model, and its family.
struct Found<'a> {
    config: Config<'a>,
    family: &'static Family,
    /// Whether it stands in `text_config` of a multimodal config.
    nested: bool,
}

fn find_language_model<'a>(outer: &Config<'a>) -> Option<Found<'a>> {
    let outer_type = match outer.word("model_type") {
        Given::Wrong => return None,
        given => given.value(),
    };
    let wrapper = outer_type.and_then(|given| {
        family::WRAPPERS
            .iter()
            .find(|(name, _)| *name == given.value)
    });
    if let Some((name, inner_family)) = wrapper {
        return inside_wrapper(outer, name, inner_family);
    }
    let family = match outer_type {
        Some(given) => named_family(outer, given)?,
        None => inferred_family(outer)?,
    };
    Some(Found {
        config: outer.same(),
        family,
        nested: false,
    })
}

fn inside_wrapper<'a>(
    outer: &Config<'a>,
    wrapper: &str,
    default: &'static str,
) -> Option<Found<'a>> {
    let Given::Value(text) = outer.object("text_config") else {
        let message =
            format!("`{wrapper}` needs `text_config`, an object that describes the language model");
        outer.report(
            Diagnostic::error(
                codes::NO_FAMILY,
                message,
                outer.span,
                "`text_config` is not in here",
            )
            .help("give the whole `config.json`"),
        );
        return None;
    };
    let config = outer.inner(text);
    let family = match config.word("model_type") {
        Given::Wrong => return None,
        Given::Value(given) => named_family(&config, given)?,
        Given::Absent | Given::Null(_) => family::by_model_type(default)?,
    };
    Some(Found {
        config,
        family,
        nested: true,
    })
}

fn named_family(config: &Config<'_>, given: Spanned<&str>) -> Option<&'static Family> {
    if let Some(family) = family::by_model_type(given.value) {
        return Some(family);
    }
    let name: String = given.value.chars().take(80).collect();
    if let Some(later) = family::LATER
        .iter()
        .find(|later| later.model_type == given.value)
    {
        config.report(
            Diagnostic::error(
                codes::LATER_FAMILY,
                format!("`{name}` is not in this release: it needs {}", later.needs),
                given.span,
                "not in this release",
            )
            .help(format!("supported families: {}", family::names())),
        );
        return None;
    }
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_FAMILY,
        format!("unknown family `{name}`"),
        given.span,
        "unknown",
    )
    .note(
        "an unknown family may read the same keys and compute something else, so none is guessed",
    );
    config.report(match family::nearest(given.value) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help(format!("supported families: {}", family::names())),
    });
    None
}

/// The family of a config without `model_type`, from `architectures`.
fn inferred_family(config: &Config<'_>) -> Option<&'static Family> {
    let first = config
        .list("architectures")
        .value()
        .and_then(|list| list.value.first());
    if let Some(Node {
        kind: NodeKind::Scalar(Scalar::Str(name)),
        span,
    }) = first
        && let Some(family) = family::by_architecture(name)
    {
        let message = format!(
            "`model_type` is absent: `{}` is taken from `architectures`",
            family.name()
        );
        config.report(Diagnostic::warning(
            codes::FAMILY_INFERRED,
            message,
            *span,
            "names the family",
        ));
        return Some(family);
    }
    config.report(
        Diagnostic::error(
            codes::NO_FAMILY,
            "`model_type` is missing",
            config.span,
            "not in here",
        )
        .note("it says which modeling code the other keys are for")
        .help(format!("supported families: {}", family::names())),
    );
    None
}

fn read_parts(
    config: &Config<'_>,
    family: &Family,
    options: &Options,
    comments: &mut Comments,
) -> Option<Parts> {
    let defaults = &family.defaults;
    let mut sizes = Sizes {
        config,
        comments,
        absent: Vec::new(),
    };
    let hidden_size = sizes.read("hidden_size", defaults.hidden_size);
    let num_attention_heads = sizes.read("num_attention_heads", defaults.num_attention_heads);
    let kv_lora_rank = sizes.read("kv_lora_rank", defaults.kv_lora_rank);
    let qk_nope_head_dim = sizes.read("qk_nope_head_dim", defaults.qk_nope_head_dim);
    let qk_rope_head_dim = sizes.read_rope_dim(family);
    let v_head_dim = sizes.read("v_head_dim", defaults.v_head_dim);
    let q_lora_rank = sizes.read_query_rank(defaults.q_lora_rank);
    let absent = sizes.absent;
    lints::absent_sizes(config, family, &absent);
    lints::eps(config, family);

    let bias = read_bias(
        config,
        q_lora_rank.is_some_and(|rank| rank.is_some()),
        comments,
    );
    let rope = rope::read(
        config,
        family,
        qk_rope_head_dim.unwrap_or(Spanned::unplaced(2)),
        comments,
    );
    if let Some(heads) = num_attention_heads {
        lints::key_value_heads(config, heads);
    }
    if let (Some(nope), Some(rope)) = (qk_nope_head_dim, qk_rope_head_dim) {
        lints::head_dims(config, nope, rope);
    }
    add_fixed_comments(config, q_lora_rank.flatten().is_some(), comments);
    Some(Parts {
        name: options
            .name
            .clone()
            .unwrap_or_else(|| family.layer_name.to_owned()),
        hidden_size: hidden_size?,
        num_attention_heads: num_attention_heads?,
        q_lora_rank: q_lora_rank?,
        kv_lora_rank: kv_lora_rank?,
        qk_nope_head_dim: qk_nope_head_dim?,
        qk_rope_head_dim: qk_rope_head_dim?,
        v_head_dim: v_head_dim?,
        rope: rope?,
        latent_eps: lints::LATENT_EPS,
        bias: bias?,
    })
}

/// Comments on what every supported family's code fixes.
fn add_fixed_comments(config: &Config<'_>, lora: bool, comments: &mut Comments) {
    let eps = "the code's own default, whatever rms_norm_eps says";
    comments.add("submodules.kv_layernorm.params.eps", eps);
    if lora {
        comments.add("submodules.q_layernorm.params.eps", eps);
    } else {
        comments.add(
            "submodules.linear_q_proj",
            "q_lora_rank is null: queries are plain",
        );
    }
    comments.add(
        "params.attn_mask_type",
        "not in the config: decoders are causal",
    );
    for key in ["torch_dtype", "dtype"] {
        if let Some(stored) = config.word_if_any(key) {
            comments.add(
                "build.dtype",
                &format!("of the arithmetic; weights are stored as {stored} and convert at load"),
            );
        }
    }
}

/// `attention_bias`: a bias on `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj`, never on `q_proj` or the up projections.
fn read_bias(
    config: &Config<'_>,
    lora: bool,
    comments: &mut Comments,
) -> Option<Option<Spanned<bool>>> {
    match config.flag("attention_bias") {
        Given::Wrong => None,
        Given::Value(bias) if bias.value => {
            let text = "attention_bias: on the down projections and the output, never on the up projections or q_proj";
            comments.add("submodules.linear_kv_down_proj.params.bias", text);
            comments.add("submodules.linear_proj.params.bias", "attention_bias");
            if lora {
                comments.add(
                    "submodules.linear_q_down_proj.params.bias",
                    "attention_bias",
                );
            }
            Some(Some(bias))
        }
        Given::Value(_) | Given::Absent | Given::Null(_) => Some(None),
    }
}

/// Reads sizes and remembers which ones the config leaves to its class.
struct Sizes<'a, 'c> {
    config: &'a Config<'c>,
    comments: &'a mut Comments,
    absent: Vec<&'static str>,
}

impl Sizes<'_, '_> {
    fn read(&mut self, key: &'static str, default: u32) -> Option<Spanned<u32>> {
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
            Given::Absent => Some(self.default(key, default)),
        }
    }

    fn default(&mut self, key: &'static str, default: u32) -> Spanned<u32> {
        self.absent.push(key);
        self.comments.add(
            &format!("params.{key}"),
            "not in the config: the class default",
        );
        Spanned::unplaced(default)
    }

    /// `qk_rope_head_dim`, which `glm4_moe_lite` also knows as `head_dim`.
    fn read_rope_dim(&mut self, family: &Family) -> Option<Spanned<u32>> {
        const KEY: &str = "qk_rope_head_dim";
        if family.name() != "glm4_moe_lite" {
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

    /// `q_lora_rank`: `Some(None)` for plain queries, `None` where it was refused.
    fn read_query_rank(&mut self, default: Option<u32>) -> Option<Option<Spanned<u32>>> {
        match (self.config.size("q_lora_rank"), default) {
            (Given::Value(Spanned { value: 0, span }), _) => {
                self.config.report(
                    Diagnostic::error(codes::WRONG_VALUE, "`q_lora_rank` is 0", span, "wanted null or at least 1")
                        .note("the modeling code would build a projection to nothing; other code means plain queries by 0")
                        .help("write `null` for plain queries (`q_proj`)"),
                );
                None
            }
            (Given::Value(rank), _) => Some(Some(rank)),
            (Given::Wrong, _) => None,
            (Given::Null(_), _) | (Given::Absent, None) => Some(None),
            (Given::Absent, Some(default)) => Some(Some(self.default("q_lora_rank", default))),
        }
    }
}
