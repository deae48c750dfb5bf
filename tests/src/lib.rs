//! Tests of mla-gen that span its crates, and what they share.

pub mod random_spec;
