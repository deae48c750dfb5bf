//! MaxText's YAML to a document.
//!
//! What a model's file leaves out has `base.yml`'s value. MaxText hands many options to its latent attention that read
//! nothing of them (features T-05); those are lints.

mod indexer;
mod keys;
mod layer;
mod rope;
mod tree;

pub(super) use indexer::dense_stage;

use std::cell::RefCell;

use super::config::{Config, Given};
use super::defaults::Reader;
use super::outcome::{self, Draft, Imported, Options};
use super::{assemble, codes, recompute};
use crate::build::{Build, CacheKind, Phase};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Entry, NodeKind, Scalar};
use crate::span::{Sources, Spanned};

/// Whose values absent keys have.
const DEFAULTS: &str = "the defaults of MaxText's `base.yml`";

/// Imports the attention layer that a MaxText model's YAML describes. `name` is what the text is called in messages.
///
/// Layers are all alike; [`Options::layer`] says which one's tensors are meant.
///
/// Never panics. Errors: the text is no YAML mapping, it does not ask for latent attention, a key has a value of the wrong
/// kind, MaxText refuses an option beside latent attention, a key that touches attention is not understood, or the layer
/// that comes out does not pass [`check`](crate::check()).
///
/// ```
/// use mla_spec::{Sources, import};
/// let model = "decoder_block: deepseek\nattention_type: mla\nbase_emb_dim: 7168\nbase_num_query_heads: 128\n\
///              base_num_kv_heads: 128\nq_lora_rank: 1536\nrope_type: yarn\nfirst_num_dense_layers: 3\n";
/// let imported = import::maxtext(&mut Sources::default(), "model.yml", model, &import::Options::default()).unwrap();
/// assert_eq!(imported.weight_prefix, "decoder.dense_layers_0.self_attention");
/// ```
pub fn maxtext(
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Options,
) -> Result<Imported, Diagnostics> {
    let root = tree::read(sources, name, text)?;
    let NodeKind::Map(entries) = &root.kind else {
        let message = format!("the config is {}, wanted a mapping", root.kind_name());
        let mut found = Diagnostics::new();
        found.push(Diagnostic::error(
            codes::NOT_AN_OBJECT,
            message,
            root.span,
            "wanted a mapping",
        ));
        return Err(found);
    };
    let diagnostics = RefCell::new(Diagnostics::new());
    let config = Config::new(Spanned::new(entries.as_slice(), root.span), &diagnostics);
    let draft = import(&config, entries, options);
    outcome::proved(draft, diagnostics.into_inner())
}

fn import(config: &Config<'_>, entries: &[Entry], options: &Options) -> Option<Draft> {
    // Of another kind of layer nothing else is worth a look.
    asks_for_latent_attention(config)?;
    let mut reader = Reader::new(config, DEFAULTS);
    let place = place(config, options.layer);
    let parts = layer::read(&mut reader);
    let schedule = schedule(config, entries);
    let sparse = parts.indexer.is_some();
    let build = build(&mut reader, sparse, parts.is_trained());
    let comments = reader.finish();
    keys::review(config, options.strict);

    let (layer, weight_prefix) = place?;
    let name = options.name.as_deref().unwrap_or("MaxTextAttention");
    Some(Draft {
        name: name.to_owned(),
        spec: assemble::layer(parts),
        build,
        sparse,
        schedule,
        comments,
        layer,
        weight_prefix,
    })
}

/// Other attention types are other layers, and other decoder blocks build none of this one.
fn asks_for_latent_attention(config: &Config<'_>) -> Option<()> {
    let kind = match config.word("attention_type") {
        Given::Wrong => return None,
        given => given.value(),
    };
    if kind.is_none_or(|kind| kind.value != "mla") {
        let (span, label) = match kind {
            Some(kind) => (kind.span, "another kind of layer"),
            None => (config.span, "does not say `attention_type`"),
        };
        let message = "the config does not ask for latent attention";
        config.report(
            Diagnostic::error(codes::NO_LATENT_ATTENTION, message, span, label)
                .note("`attention_type` is `global` where nothing says otherwise")
                .help("give a config with `attention_type: mla`"),
        );
        return None;
    }
    if let Some(block) = config.word("decoder_block").value()
        && block.value != "deepseek"
    {
        let message = format!(
            "decoder block `{}` builds no latent attention",
            block.value.escape_debug()
        );
        config.report(
            Diagnostic::error(
                codes::NO_LATENT_ATTENTION,
                message,
                block.span,
                "wanted `deepseek`",
            )
            .note("it hands `attention_type: mla` to attention that has none of its projections")
            .help("write `decoder_block: deepseek`"),
        );
        return None;
    }
    Some(())
}

/// The layer that is meant, and where its tensors are.
fn place(config: &Config<'_>, wanted: Option<u32>) -> Option<(u32, String)> {
    let layer = config.layer(wanted, "base_num_decoder_layers")?;
    let dense = config.size("first_num_dense_layers").value();
    let dense = dense.map_or(0, |dense| dense.value);
    let (group, index) = match layer.checked_sub(dense) {
        None => ("dense_layers", layer),
        Some(index) => ("moe_layers", index),
    };
    Some((layer, format!("decoder.{group}_{index}.self_attention")))
}

/// What MaxText says a training step computes again. Tensors have policies beside `custom` alone: others list them unread.
fn schedule(config: &Config<'_>, entries: &[Entry]) -> Vec<Entry> {
    let of_schedule = |entry: &&Entry| recompute::is_maxtexts(&entry.key.value);
    let is_policy = |entry: &Entry| entry.key.value == "remat_policy";
    let listed: Vec<&Entry> = entries.iter().filter(of_schedule).collect();
    for entry in &listed {
        config.entry(&entry.key.value); // asked for
    }
    let custom = listed
        .iter()
        .find(|entry| is_policy(entry))
        .map(|entry| entry.value.kind == NodeKind::Scalar(Scalar::Str("custom".to_owned())));
    let counts = |entry: &&&Entry| custom != Some(false) || is_policy(entry);
    listed
        .iter()
        .filter(counts)
        .map(|entry| (**entry).clone())
        .collect()
}

/// The build section: MaxText's cache holds every head's keys and values unless it is told otherwise (features T-07), beside an
/// indexer too, where this language has latents alone.
fn build(reader: &mut Reader<'_, '_>, sparse: bool, trained: bool) -> Build {
    let mut build = Build::default();
    let naive = reader.config.flag("mla_naive_kvcache").value();
    match naive {
        Some(naive) if naive.value && !sparse => build.cache.kind = CacheKind::Naive,
        Some(naive) if !naive.value => {}
        _ => reader
            .config
            .report(caches_heads(reader.config, naive, sparse)),
    }
    if trained {
        build.phases.push(Phase::Train);
    }
    build
}

/// MaxText caches something else than the imported spec.
fn caches_heads(config: &Config<'_>, naive: Option<Spanned<bool>>, sparse: bool) -> Diagnostic {
    let (span, label) = match naive {
        Some(naive) => (naive.span, "every head's keys and values"),
        None => (
            config.span,
            "does not say `mla_naive_kvcache`, which is true then",
        ),
    };
    let message = "MaxText caches every head's keys and values, and the imported spec latents";
    let differs = Diagnostic::warning(codes::DIFFERS_THERE, message, span, label);
    match sparse {
        true => differs.note("here the tokens that an indexer picks are read from latents alone"),
        false => differs
            .note("latents are what latent attention is made for to cache")
            .help("state `mla_naive_kvcache`"),
    }
}
