//! Tests of mla-gen that span its crates, and what they share.

pub mod against_oracle;
pub mod book;
pub mod language;
pub mod random_spec;
