//! The doors: every text ends as one tree, and the tree as one document.
//!
//! [`yaml()`] reads spec files, `tokens` (a feature) what a macro is given. Both hand a tree of
//! [`Node`](crate::Node)s to [`document()`], so the language has one shape whatever it is written in.

mod document;
#[cfg(feature = "tokens")]
pub mod tokens;
mod yaml;

pub use document::document;
pub(crate) use document::{MODEL_FILE_KEYS, SPEC_KEYS, TOP_LEVEL_KEYS, named_spec};
pub use yaml::yaml;
pub(crate) use yaml::yaml_tree;

use crate::diagnostic::Code;

/// The text is not YAML.
pub(crate) const SYNTAX: Code = Code(1);
/// A key is written twice in one mapping.
pub(crate) const DUPLICATE_KEY: Code = Code(2);
/// An integer does not fit 64 bits.
pub(crate) const INTEGER_RANGE: Code = Code(3);
/// A number is infinite or not a number.
pub(crate) const NOT_FINITE: Code = Code(4);
/// A key is not a string.
pub(crate) const KEY_KIND: Code = Code(5);
/// A spec is longer or deeper than any layer needs.
pub(crate) const TOO_LARGE: Code = Code(6);
/// A file holds more than one YAML document.
pub(crate) const SEVERAL_DOCUMENTS: Code = Code(7);
/// A spec says nothing.
pub(crate) const EMPTY: Code = Code(8);
/// A tag or a merge key, which the language has no use for.
pub(crate) const YAML_EXTRA: Code = Code(9);
/// A spec is not a mapping.
pub(crate) const NOT_A_MAPPING: Code = Code(10);
/// A top-level key that does not exist.
pub(crate) const UNKNOWN_TOP_LEVEL_KEY: Code = Code(11);
/// A top-level key that every spec has is missing.
pub(crate) const MISSING_KEY: Code = Code(12);
/// `mla` names another version of the language.
pub(crate) const VERSION: Code = Code(13);
/// A section or a name holds the wrong kind of value.
pub(crate) const WRONG_KIND: Code = Code(14);
/// A submodule's spec has a key other than `module`, `params` and `submodules`.
pub(crate) const UNKNOWN_SPEC_KEY: Code = Code(15);
/// A submodule's spec does not say which module.
pub(crate) const MISSING_MODULE: Code = Code(16);
/// A submodule is neither a module's name nor a spec.
pub(crate) const NOT_A_SUBMODULE: Code = Code(17);

/// A spec describes a layer and a model.
pub(crate) const TWO_BODIES: Code = Code(18);

/// What a macro describes is not a struct with named fields.
#[cfg(feature = "tokens")]
pub(crate) const NOT_A_STRUCT: Code = Code(801);
/// A described struct has type or lifetime parameters.
#[cfg(feature = "tokens")]
pub(crate) const GENERIC_STRUCT: Code = Code(802);
/// An argument is neither `key = value` nor `key(...)`.
#[cfg(feature = "tokens")]
pub(crate) const ARGUMENT: Code = Code(803);
/// A value is none of the language's.
#[cfg(feature = "tokens")]
pub(crate) const VALUE: Code = Code(804);
/// `spec = "..."` stands beside something that describes a layer too.
#[cfg(feature = "tokens")]
pub(crate) const SPEC_ALONE: Code = Code(805);
/// A field's type is not a module's name.
#[cfg(feature = "tokens")]
pub(crate) const FIELD_TYPE: Code = Code(806);
/// An attribute that would be lost.
#[cfg(feature = "tokens")]
pub(crate) const LOST_ATTRIBUTE: Code = Code(807);
/// A section is written where the struct already says it.
#[cfg(feature = "tokens")]
pub(crate) const MISPLACED: Code = Code(808);
/// The file behind `spec = "..."` can't be read.
pub const SPEC_FILE: Code = Code(809);
/// A spec file names another layer than the struct that is read from it.
pub const OTHER_NAME: Code = Code(810);
/// A model stands where a layer is wanted, or a layer where a model is.
pub const OTHER_BODY: Code = Code(811);
