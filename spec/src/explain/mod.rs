//! What each diagnostic code means: the rule, why it exists, a wrong and a right example.

use crate::diagnostic::Code;

pub mod check;
pub mod import;
pub mod read;

/// One rule of the language.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its stable code.
    pub code: Code,
    /// A headline: lower case, no full stop.
    pub title: &'static str,
    /// What is asked.
    pub rule: &'static str,
    /// Why it is asked.
    pub why: &'static str,
    /// A spec (or the part of one that matters) that breaks it.
    pub wrong: &'static str,
    /// The same, mended.
    pub right: &'static str,
}

/// Every rule, in the order of the codes.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    read::RULES.iter().chain(check::RULES).chain(import::RULES)
}
