//! Specs from other systems' configs.
//!
//! [`hf`] turns a Hugging Face `config.json` into a document of our language. It knows, family by family, what the
//! modeling code does with each key, and says so: a comment behind every value that had to be inferred, a lint for
//! every place where checkpoints, configs and code are known to disagree. A document that comes out of an importer has
//! passed [`check`](crate::check()). [`recompute()`] translates what MaxText and Megatron-Core say about recomputation.

mod assemble;
mod codes;
mod config;
mod family;
mod hf;
mod indexer;
mod json;
mod keys;
mod lints;
mod model;
mod outcome;
mod parts;
mod reading;
mod recompute;
mod rope;
mod schedule;
mod sizes;

pub use hf::hf;
pub use model::{ImportedModel, hf_model};
pub use outcome::{Imported, Options};
pub use recompute::{Recomputed, recompute};
