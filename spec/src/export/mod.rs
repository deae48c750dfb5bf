//! A layer as another system's config.
//!
//! A writer says what its system has words for and leaves out the rest. What is written is then imported again and compared
//! with the layer, fact by fact: a difference in the mathematics refuses the layer, with the key that can't be said; one in
//! layout or schedule is a warning. So nothing is dropped without a word, whatever a writer forgets.

mod hugging_face;
mod keys;
mod maxtext;
mod megatron;

use crate::check::check;
use crate::compare::{self, Difference, Topic};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::document::{Body, Document};
use crate::import::{self, System};
use crate::layer::{Checked, Projections};
use crate::span::{Sources, Span};

const NOT_SAID_THERE: Code = Code(722);
const SAID_OTHERWISE: Code = Code(723);

/// A layer in another system's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// A script's array of flags, YAML, or JSON.
    pub text: String,
    /// Warnings: what is laid out or scheduled otherwise there, and what the system is known to do differently.
    pub lints: Diagnostics,
}

/// Writes a checked document's layer as the config of a system: Megatron-LM's command line, a MaxText model's YAML, or a
/// `config.json`. `sources` gets the text that was written, for diagnostics that point into it.
///
/// # Errors
///
/// The layer is no latent attention, or computes something that the system has no words for: each such thing, with its key.
///
/// ```
/// use mla_spec::{Sources, check, explain, export, import::System, read};
/// let mut sources = Sources::default();
/// let document = read::yaml(&mut sources, "spec.yaml", explain::BASE).unwrap();
/// let checked = check(&document).0.unwrap();
/// let exported = export::layer(System::Megatron, &mut sources, &document, &checked).unwrap();
/// assert!(exported.text.contains("--kv-lora-rank 512"));
/// ```
pub fn layer(
    system: System,
    sources: &mut Sources,
    document: &Document,
    checked: &Checked,
) -> Result<Exported, Diagnostics> {
    let Projections::Latent(latent) = &checked.layer.projections else {
        let message = "only latent attention is written as another system's config";
        let span = place(document, "module");
        let label = "another kind of attention";
        return Err(only(
            Diagnostic::error(NOT_SAID_THERE, message, span, label)
                .help("export an `MLASelfAttention`"),
        ));
    };
    let text = match system {
        System::Megatron => megatron::write(checked, latent),
        System::MaxText => maxtext::write(checked, latent),
        System::HuggingFace => hugging_face::write(checked, latent),
    };
    let name = format!("written for {}", system.name());
    let again = import::layer(system, sources, &name, &text, &import::Options::default())?;
    let mut found = again.lints;
    let read = check(&again.document).0;
    let Some(read) = read else {
        return Err(found); // an importer's own check has passed
    };
    let differences = compare::differences(&compare::facts(checked), &compare::facts(&read));
    let (schedule, others): (Vec<_>, Vec<_>) = differences
        .into_iter()
        .partition(|difference| difference.topic == Topic::Schedule);
    for difference in &others {
        found.push(reported(system, document, difference));
    }
    if !schedule.is_empty() {
        found.push(unsaid_schedule(system, document, &schedule));
    }
    match found.has_errors() {
        true => Err(found),
        false => Ok(Exported { text, lints: found }),
    }
}

/// A difference between the layer and what its system would make of the text. What a rope turns together is layout, but decides on
/// what the same weights compute.
fn reported(system: System, document: &Document, difference: &Difference) -> Diagnostic {
    let owner = system.name();
    let key = keys::of(&difference.name);
    let span = key.map_or(Span::NONE, |key| place(document, key));
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing of it".to_owned());
    let named = key.and_then(|key| key.rsplit('.').next());
    let what = match named {
        Some(key) => format!("`{key}` ({})", difference.name),
        None => difference.name.clone(),
    };
    let (here, there) = (side(&difference.left), side(&difference.right));
    if difference.topic == Topic::Mathematics || keys::moves_weights(&difference.name) {
        let message = format!("{owner} can't say {what}");
        return Diagnostic::error(NOT_SAID_THERE, message, span, "no words for this there")
            .note(format!("here it is {here}; {owner} would have {there}"))
            .help(format!("change it to what {owner} can say, or remove it"));
    }
    let message = format!("{owner} lays out {what} otherwise");
    Diagnostic::warning(SAID_OTHERWISE, message, span, "the same mathematics")
        .note(format!("here it is {here}; there, {there}"))
}

/// How a layer is computed is each system's own.
fn unsaid_schedule(system: System, document: &Document, differences: &[Difference]) -> Diagnostic {
    let names: Vec<_> = differences
        .iter()
        .map(|difference| {
            let here = difference.left.as_deref().unwrap_or("nothing of it");
            format!("{} ({here})", difference.name)
        })
        .collect();
    let message = format!("not said to {}: {}", system.name(), names.join("; "));
    let span = place(document, "build");
    Diagnostic::warning(SAID_OTHERWISE, message, span, "how, not what")
        .note("the mathematics are the same")
}

fn only(diagnostic: Diagnostic) -> Diagnostics {
    let mut found = Diagnostics::new();
    found.push(diagnostic);
    found
}

/// Where a key of the document is written, or what is nearest to it: `params.rope`, `submodules.linear_proj`.
fn place(document: &Document, path: &str) -> Span {
    let Body::Layer(layer) = &document.body else {
        return Span::NONE;
    };
    let spans = match path.split_once('.') {
        Some(("params", key)) => layer.param(key).map(|param| param.key.span),
        Some(("submodules", slot)) => layer.submodule(slot).map(|one| one.slot.span),
        _ if path == "build" => document.build.as_ref().map(|build| build.span),
        _ => None,
    };
    spans.unwrap_or(layer.module.span)
}

/// The one norm that other systems have for both latents: the key-value latent's, else the query's.
fn latent_norm(latent: &crate::layer::Latent) -> Option<&crate::layer::NormParams> {
    let of_query = match &latent.query {
        crate::layer::Query::Plain => None,
        crate::layer::Query::Lora { norm, .. } => norm.params(),
    };
    latent.kv_norm.params().or(of_query)
}
