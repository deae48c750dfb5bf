//! Hugging Face `config.json` to a document.

use std::cell::RefCell;

use super::assemble::{self, Comments};
use super::config::{Config, Given};
use super::family::{self, Family, Trait};
use super::outcome::{self, Draft, Imported, Options};
use super::{codes, json, lints, reading, schedule};
use crate::build::Build;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Sources, Spanned};

/// Keys that are read for every family.
pub(super) const KNOWN: &[&str] = &[
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
    let draft = whole_config(&root, &diagnostics, |found, outer| {
        import(found, outer, options)
    });
    outcome::proved(draft, diagnostics.into_inner())
}

/// What `import` makes of a config's language model, given also the object around it; `None` where there is none.
pub(super) fn whole_config<T>(
    root: &Node,
    diagnostics: &RefCell<Diagnostics>,
    import: impl FnOnce(&Found<'_>, &Config<'_>) -> Option<T>,
) -> Option<T> {
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
    import(&found, &outer)
}

fn import(found: &Found<'_>, outer: &Config<'_>, options: &Options) -> Option<Draft> {
    let (config, family) = (&found.config, found.family);
    let mut comments = Comments::default();

    let schedule = schedule::read(config, family);
    let chosen = schedule.as_ref().and_then(|schedule| {
        let layer = schedule.choose(config, options.layer)?;
        Some((layer, schedule.kind(layer)?))
    });
    // Where there is no such layer, another one's keys are still worth a look.
    let (layer, kind) = chosen.unwrap_or((0, schedule::LayerKind::PLAIN));
    let parts = reading::layer(config, family, layer, kind, &mut comments);
    lints::whole_config(config, family);
    if found.nested {
        lints::quantization(outer);
    }
    family::review(config, family, KNOWN, options.strict);

    let ((layer, _), parts) = (chosen?, parts?);
    let sparse = parts.indexer.is_some();
    Some(Draft {
        name: match &options.name {
            Some(name) => name.clone(),
            None => family.layer_name.to_owned(),
        },
        spec: assemble::layer(parts),
        build: Build::default(),
        sparse,
        schedule: Vec::new(),
        comments,
        layer,
        weight_prefix: found.weight_prefix(layer),
    })
}

/// The object that describes the language model, and its family.
pub(super) struct Found<'a> {
    pub(super) config: Config<'a>,
    pub(super) family: &'static Family,
    /// Whether it stands in `text_config` of a multimodal config.
    pub(super) nested: bool,
}

impl Found<'_> {
    /// Where a layer's weights are: `model.layers.0.self_attn`.
    fn weight_prefix(&self, layer: u32) -> String {
        let (layer, attention) = match self.family.has(Trait::TwoAttentions) {
            true => (layer / 2, layer % 2),
            false => (layer, 0),
        };
        self.prefix_pattern()
            .replace("{layer}", &layer.to_string())
            .replace("{attention}", &attention.to_string())
    }

    /// The same with holes: `model.layers.{layer}.self_attn`, and `{attention}` behind it where a layer has several.
    pub(super) fn prefix_pattern(&self) -> String {
        let prefix = if self.nested {
            self.family.nested_prefix
        } else {
            "model"
        };
        let attention = if self.family.has(Trait::TwoAttentions) {
            ".{attention}"
        } else {
            ""
        };
        format!("{prefix}.layers.{{layer}}.self_attn{attention}")
    }
}

fn find_language_model<'a>(outer: &Config<'a>) -> Option<Found<'a>> {
    let outer_type = match outer.word("model_type") {
        Given::Wrong => return None,
        given => given.value(),
    };
    let wrapper = outer_type.and_then(|given| {
        family::WRAPPERS
            .iter()
            .find(|wrapper| wrapper.model_type == given.value)
    });
    if let Some(wrapper) = wrapper {
        let text = outer.object("text_config");
        if !(wrapper.may_be_flat && matches!(text, Given::Absent | Given::Null(_))) {
            return inside_wrapper(outer, wrapper, text);
        }
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
    wrapper: &family::Wrapper,
    text: Given<&'a [crate::node::Entry]>,
) -> Option<Found<'a>> {
    let name = wrapper.model_type;
    let Given::Value(text) = text else {
        let message =
            format!("`{name}` needs `text_config`, an object that describes the language model");
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
    let family = match (config.word("model_type"), wrapper.default) {
        (Given::Wrong, _) => return None,
        (Given::Value(given), _) => named_family(&config, given)?,
        (Given::Absent | Given::Null(_), Some(default)) => family::by_model_type(default)?,
        (Given::Absent | Given::Null(_), None) => {
            let message = format!("the `text_config` of `{name}` does not say its family");
            outer.report(
                Diagnostic::error(
                    codes::NO_FAMILY,
                    message,
                    text.span,
                    "`model_type` is not in here",
                )
                .note("the library takes a family without latent attention then"),
            );
            return None;
        }
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
