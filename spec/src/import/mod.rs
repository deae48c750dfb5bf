//! Specs from other systems' configs.
//!
//! [`hf`] turns a Hugging Face `config.json` into a document of our language, [`megatron`] Megatron-LM's arguments, and
//! [`maxtext`] a MaxText model's YAML. They know, family by family and option by option, what the code behind a config does
//! with each key, and say so: a comment behind every value that had to be inferred, a lint for every place where
//! checkpoints, configs and code are known to disagree, or where a system takes an option and does nothing with it. A document that comes out of an importer has
//! passed [`check`](crate::check()). [`recompute()`] translates what MaxText and Megatron-Core say about recomputation.

mod assemble;
mod codes;
mod config;
mod defaults;
mod family;
mod hf;
mod indexer;
mod json;
mod keys;
mod lints;
mod maxtext;
mod megatron;
mod model;
mod outcome;
mod parts;
mod reading;
mod recompute;
mod rope;
mod schedule;
mod sizes;
mod system;

pub use hf::hf;
pub use maxtext::maxtext;
pub use megatron::megatron;
pub use model::{ImportedModel, hf_model};
pub use outcome::{Imported, Options};
pub use recompute::{Recomputed, recompute};
pub use system::System;

use crate::diagnostic::Diagnostics;
use crate::span::Sources;

/// Imports the attention layer that a text of a system describes, as [`hf()`], [`megatron()`] or [`maxtext()`] does.
pub fn layer(
    system: System,
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Options,
) -> Result<Imported, Diagnostics> {
    match system {
        System::HuggingFace => hf(sources, name, text, options),
        System::Megatron => megatron(sources, name, text, options),
        System::MaxText => maxtext(sources, name, text, options),
    }
}
