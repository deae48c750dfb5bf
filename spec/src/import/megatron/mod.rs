//! Megatron-LM's arguments to a document.
//!
//! The same options come as a command line, as YAML whose keys are flags, or as the fields of `MLATransformerConfig`; their
//! defaults are not the same (features T-04), and many that the command line takes never reach latent attention (T-01).

mod arguments;
mod indexer;
mod keys;
mod layer;
mod pattern;
mod rope;
mod words;

use std::cell::RefCell;

use super::config::{Config, Given};
use super::defaults::Reader;
use super::outcome::{self, Draft, Imported, Options};
use super::{assemble, codes, recompute};
use crate::build::{Build, CacheKind, Phase};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Sources, Spanned};
use arguments::{Arguments, Form};

/// Tokens per page of Megatron's latent cache, which takes no other number (features 4.1, 39).
const PAGE: u32 = 64;

/// Imports the attention layer that Megatron-LM's arguments describe: a command line (flags and values, as they stand in a
/// script), or YAML of flags, of `--yaml-cfg`'s sections, or of `MLATransformerConfig`'s fields. `name` is what the text is
/// called in messages.
///
/// Never panics. Errors: the text is neither, it does not ask for latent attention, a size is missing, an option has a
/// value of the wrong kind, Megatron refuses an option beside latent attention, an option that touches attention is not
/// understood, or the layer that comes out does not pass [`check`](crate::check()).
///
/// ```
/// use mla_spec::{Sources, import};
/// let flags = "--multi-latent-attention --hidden-size 2048 --num-attention-heads 16 --kv-lora-rank 512 --q-lora-rank 768 \
///              --normalization RMSNorm --norm-epsilon 1e-6 --qk-layernorm --rope-type rope --no-rope-fusion";
/// let imported = import::megatron(&mut Sources::default(), "args.sh", flags, &import::Options::default()).unwrap();
/// assert_eq!(imported.weight_prefix, "decoder.layers.0.self_attention");
/// ```
pub fn megatron(
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Options,
) -> Result<Imported, Diagnostics> {
    let arguments = arguments::read(sources, name, text)?;
    let diagnostics = RefCell::new(arguments.found.clone());
    let entries = Spanned::new(arguments.entries.as_slice(), arguments.span);
    let config = Config::new(entries, &diagnostics);
    let draft = import(&config, &arguments, options);
    outcome::proved(draft, diagnostics.into_inner())
}

fn import(config: &Config<'_>, arguments: &Arguments, options: &Options) -> Option<Draft> {
    let form = arguments.form;
    let mut reader = Reader::new(config, form.defaults());
    let latent = asks_for_latent_attention(config, form);
    let number = layer_number(config, options.layer);
    let parts = layer::read(&mut reader, form, number.unwrap_or(1));
    let sparse = parts.as_ref().is_some_and(|parts| parts.indexer.is_some());
    let trained = parts.as_ref().is_some_and(|parts| parts.is_trained());
    let build = build(&mut reader, sparse, trained);
    let schedule = schedule(config, &arguments.entries);
    let comments = reader.finish();
    keys::review(config, form, options.strict);

    latent?;
    let layer = number? - 1;
    let parts = parts?;
    let name = options.name.as_deref().unwrap_or("MegatronAttention");
    Some(Draft {
        name: name.to_owned(),
        spec: assemble::layer(parts),
        build,
        sparse,
        schedule,
        comments,
        layer,
        weight_prefix: format!("decoder.layers.{layer}.self_attention"),
    })
}

/// Without the flag Megatron builds grouped attention, whatever else is said about latents.
fn asks_for_latent_attention(config: &Config<'_>, form: Form) -> Option<()> {
    let asked = match config.flag("multi_latent_attention") {
        Given::Wrong => return None,
        given => given.value(),
    };
    match asked {
        Some(asked) if asked.value => Some(()),
        // The class of these fields is for latent attention alone.
        None if form == Form::Fields => Some(()),
        _ => {
            let flag = form.switched_on("multi_latent_attention");
            let (span, label) = match asked {
                Some(asked) => (asked.span, "asks for another kind of layer"),
                None => (config.span, "begins here, and does not ask for it"),
            };
            let message = "the arguments do not ask for latent attention";
            config.report(
                Diagnostic::error(codes::NO_LATENT_ATTENTION, message, span, label)
                    .note("Megatron builds grouped attention then, and passes over ranks and head dims of latent attention")
                    .help(format!("add `{flag}`")),
            );
            None
        }
    }
}

/// The layer that is meant, counted from 1 as Megatron does.
fn layer_number(config: &Config<'_>, wanted: Option<u32>) -> Option<u32> {
    config.layer(wanted, "num_layers")?.checked_add(1)
}

/// What Megatron says a training step computes again. `recompute_activations` is the old word for the selective granularity.
fn schedule(config: &Config<'_>, entries: &[Entry]) -> Vec<Entry> {
    let asked = |entry: &Entry| _ = config.entry(&entry.key.value);
    let mut schedule = Vec::new();
    for entry in entries {
        if recompute::is_megatrons(&entry.key.value) {
            asked(entry);
            schedule.push(entry.clone());
        } else if entry.key.value == "recompute_activations" {
            asked(entry);
            if entry.value.kind == NodeKind::Scalar(Scalar::Bool(true)) {
                let selective = Scalar::Str("selective".to_owned());
                schedule.push(Entry {
                    key: Spanned::new("recompute_granularity".to_owned(), entry.key.span),
                    value: Node::scalar(selective, entry.value.span),
                });
            }
        }
    }
    schedule
}

/// The build section. Beside an indexer Megatron has no cache at all, and this language latents alone.
fn build(reader: &mut Reader<'_, '_>, sparse: bool, trained: bool) -> Build {
    let mut build = Build::default();
    match reader.config.flag("cache_mla_latents").value() {
        Some(latents) if !latents.value && !sparse => build.cache.kind = CacheKind::Naive,
        Some(latents) if !latents.value => {}
        Some(_) => build.cache.page_size = Some(PAGE),
        None if sparse => {}
        None => reader.comments.add(
            "build.cache",
            "cache_mla_latents is absent: Megatron itself would cache every head's keys and values",
        ),
    }
    if trained {
        build.phases.push(Phase::Train);
    }
    build
}
