//! The language of mla-gen.
//!
//! A spec is read from YAML, from Rust tokens or from another system's config into a [`Document`], which
//! [`check`](check()) proves and turns into a [`Checked`] layer, or refuses with every diagnostic at once.

#![forbid(unsafe_code)]

pub mod build;
pub mod check;
pub mod compare;
pub mod diagnostic;
pub mod document;
pub mod explain;
pub mod export;
pub mod import;
pub mod layer;
mod merge;
pub mod model;
mod model_document;
pub mod node;
pub mod read;
pub mod reference;
pub mod render;
pub mod schema;
pub mod span;
pub mod suggest;
pub mod write;

pub use build::*;
pub use check::{check, check_model};
pub use diagnostic::{Code, Diagnostic, Diagnostics, Label, Severity};
pub use document::{Body, Document, ModelSpec, ModuleSpec, Param, Submodule};
pub use layer::*;
pub use model::*;
pub use model_document::ModelDocument;
pub use node::{Entry, Node, NodeKind, Scalar};
pub use span::{Place, Sources, Span, Spanned, Text, TextId};
