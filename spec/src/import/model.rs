//! A whole model: every attention layer of a config, equal ones said once.

use std::cell::RefCell;
use std::collections::HashSet;

use super::assemble::{self, Comments};
use super::config::Config;
use super::family::{Family, Trait};
use super::hf::{Found, KNOWN};
use super::outcome::Options;
use super::schedule::{self, Attention, IndexerUse, KvRole, LayerKind, Schedule};
use super::{codes, family, json, lints, reading};
use crate::check::check_model;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Document;
use crate::model_document::ModelDocument;
use crate::span::{Sources, Span};
use crate::write;

/// More layers than any model has: a config that names more is a slip, and would be written out layer by layer.
const MOST_LAYERS: u32 = 4096;

/// A whole model in our language.
#[derive(Debug, Clone)]
pub struct ImportedModel {
    /// The spec, with a `model` section. It has passed [`check_model`](crate::check_model()).
    pub document: Document,
    /// Why each value that was not simply read is what it is, and how layers are counted.
    pub comments: write::Comments,
    /// Warnings: what is known to go wrong with configs like this one, each said once.
    pub lints: Diagnostics,
    /// Where an attention's weights are in the checkpoint: `model.layers.{layer}.self_attn`, without final dot.
    pub prefix: String,
}

/// Imports all attention layers that a `config.json` describes, layers for multi-token prediction apart. `name` is what the text is
/// called in messages; [`Options::layer`] is not looked at.
///
/// Never panics. Errors: those of [`hf`](super::hf()), and layers that are no MLA layers, which a model can't hold.
///
/// ```
/// use mla_spec::{Sources, import};
/// let config = r#"{ "model_type": "glm_moe_dsa", "index_topk_freq": 4, "index_skip_topk_offset": 3 }"#;
/// let options = import::Options::default();
/// let imported = import::hf_model(&mut Sources::default(), "config.json", config, &options).unwrap();
/// let (model, _) = mla_spec::check_model(&imported.document);
/// let model = model.unwrap();
/// let names: Vec<_> = model.layers.iter().map(|layer| layer.name.as_str()).collect();
/// assert_eq!((model.indices.len(), names), (78, vec!["full", "shared"]));
/// assert_eq!(model.indices[5].topk_source, Some(2));
/// ```
pub fn hf_model(
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Options,
) -> Result<ImportedModel, Diagnostics> {
    let root = json::parse(sources, name, text)?;
    let diagnostics = RefCell::new(Diagnostics::new());
    let imported = super::hf::whole_config(&root, &diagnostics, |found, outer| {
        import(found, outer, options)
    });
    let mut lints = each_once(diagnostics.into_inner());
    match imported {
        Some(mut imported) if !lints.has_errors() => {
            let (_, found) = check_model(&imported.document);
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

/// Layers of a model share most of their keys, and what is wrong with those.
fn each_once(diagnostics: Diagnostics) -> Diagnostics {
    let mut said: HashSet<(u16, Span, String)> = HashSet::new();
    let mut once = Diagnostics::new();
    for diagnostic in diagnostics {
        let key = (
            diagnostic.code.0,
            diagnostic.primary.span,
            diagnostic.message.clone(),
        );
        if said.insert(key) {
            once.push(diagnostic);
        }
    }
    once
}

fn import(found: &Found<'_>, outer: &Config<'_>, options: &Options) -> Option<ImportedModel> {
    let (config, family) = (&found.config, found.family);
    let schedule = schedule::read(config, family);
    let model = match &schedule {
        Some(schedule) => {
            let fits = only_mla(config, schedule);
            read_layers(config, family, schedule, options, fits.is_some())
                .filter(|_| fits.is_some())
        }
        None => {
            // The other keys are still worth a look.
            reading::layer(
                config,
                family,
                0,
                LayerKind::PLAIN,
                &mut Comments::default(),
            );
            None
        }
    };
    lints::whole_config(config, family);
    if found.nested {
        lints::quantization(outer);
    }
    family::review(config, family, KNOWN, options.strict);

    let (mut model, mut comments) = model?;
    let prefix = found.prefix_pattern();
    model.prefix(prefix.clone());
    if family.has(Trait::TwoAttentions) {
        model.attentions_per_layer(2);
    }
    for line in remarks(family, &schedule?) {
        comments.above(&line);
    }
    Some(ImportedModel {
        document: model.document(),
        comments: comments.all,
        lints: Diagnostics::new(),
        prefix,
    })
}

/// Reports layers that a model can't hold, and too many of them.
fn only_mla(config: &Config<'_>, schedule: &Schedule) -> Option<()> {
    let count = &schedule.count;
    if count.main == 0 || count.main > MOST_LAYERS {
        let message = format!(
            "the model has {}, wanted 1 to {MOST_LAYERS}",
            schedule::layers(count.main)
        );
        config.report(Diagnostic::error(
            codes::WRONG_VALUE,
            message,
            count.span,
            "the number of layers",
        ));
        return None;
    }
    let others: Vec<_> = (0..count.main)
        .filter(|layer| schedule.kind(*layer).is_none())
        .collect();
    if others.is_empty() {
        return Some(());
    }
    let shown: Vec<_> = others.iter().take(4).map(u32::to_string).collect();
    let more = if others.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    let message = format!(
        "{} of {} are linear attention: {}{more}",
        others.len(),
        schedule::layers(count.main),
        shown.join(", ")
    );
    config.report(
        Diagnostic::error(
            codes::NOT_AN_MLA_LAYER,
            message,
            count.span,
            "of these layers, only some are MLA",
        )
        .note("a model holds attention layers only, so a hybrid one can't be written whole")
        .help("import its MLA layers one by one, with `--layer`"),
    );
    None
}

/// Every layer in turn; one of each kind only where the model is refused anyway.
fn read_layers(
    config: &Config<'_>,
    family: &Family,
    schedule: &Schedule,
    options: &Options,
    all: bool,
) -> Option<(ModelDocument, Comments)> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => family.layer_name.trim_end_matches("Attention").to_owned(),
    };
    let mut model = ModelDocument::new(name);
    let mut comments = Comments::default();
    let layers = if all {
        0..schedule.count.main
    } else {
        let first = schedule.first().unwrap_or(0);
        first..first.saturating_add(1)
    };
    let (mut sparse, mut whole) = (false, true);
    for layer in layers {
        let kind = schedule.kind(layer).unwrap_or(LayerKind::PLAIN);
        let mut about = Comments::default();
        let Some(parts) = reading::layer(config, family, layer, kind, &mut about) else {
            whole = false;
            continue;
        };
        sparse |= parts.indexer.is_some();
        let named = model.push(&name_of(kind), assemble::layer(parts));
        comments.take_in(about, named);
    }
    model.build(assemble::usual_build(sparse));
    for (layer, source) in schedule.kv_sources.iter().enumerate() {
        let source = *source as usize;
        if source != layer {
            model.kv_source(layer, source);
        }
    }
    whole.then_some((model, comments))
}

/// What distinguishes a layer from the others of its model.
fn name_of(kind: LayerKind) -> String {
    let mut name = String::new();
    if !kind.rotates {
        name.push_str("nope_");
    }
    name.push_str(match (kind.attention, kind.indexer) {
        (Attention::Sliding, _) => "sliding",
        (_, IndexerUse::Shared) => "shared",
        _ => "full",
    });
    name.push_str(match kind.kv {
        KvRole::Own => "",
        KvRole::Stored => "_store",
        KvRole::Reused => "_reuse",
    });
    name
}

/// How layers are counted, and what lists mean that other systems read otherwise.
fn remarks(family: &Family, schedule: &Schedule) -> Vec<String> {
    let mut remarks = vec![if family.has(Trait::TwoAttentions) {
        "Attentions count from 0; attention n is number n mod 2 of decoder layer n / 2.".to_owned()
    } else {
        "Layers count from 0; layers for multi-token prediction are not among them.".to_owned()
    }];
    let kinds: HashSet<_> = (0..schedule.count.main)
        .filter_map(|layer| schedule.kind(layer))
        .collect();
    if kinds.iter().any(|kind| kind.indexer == IndexerUse::Shared) {
        remarks.push(
            "A `shared` layer attends to what the nearest earlier `full` one picked. Megatron counts these layers from 1."
                .to_owned(),
        );
    }
    if kinds.iter().any(|kind| !kind.rotates) {
        remarks.push(
            "`nope` layers are those where `no_rope_layers` is 0: 1 means that a layer rotates. Megatron's `no_rope_freq` means the opposite."
                .to_owned(),
        );
    }
    if kinds.iter().any(|kind| kind.kv == KvRole::Reused) {
        remarks.push(
            "A `reuse` layer attends to the latents of the nearest earlier `store` one that rotates, or does not, as it does."
                .to_owned(),
        );
    }
    remarks
}
