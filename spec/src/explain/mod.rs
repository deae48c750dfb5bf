//! What each diagnostic code means: the rule, why it exists, a wrong and a right example.

use crate::diagnostic::Code;

pub mod check;
pub mod conditions;
mod document;
mod example;
pub mod export;
pub mod import;
pub mod read;
pub mod recompute;
pub mod systems;

pub use document::{document, refusal};
pub use example::{BASE, CROSS, GROUPED, MODEL, whole};

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
    /// A spec, or what of it differs from [`BASE`], that breaks the rule; [`whole`] completes it.
    pub wrong: &'static str,
    /// The same, mended.
    pub right: &'static str,
}

/// Every rule, in the order of the codes.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let mut rules: Vec<&'static Rule> = read::RULES
        .iter()
        .chain(check::rules())
        .chain(import::RULES)
        .chain(systems::RULES)
        .chain(export::RULES)
        .chain(recompute::RULES)
        .collect();
    rules.sort_by_key(|rule| rule.code);
    rules.into_iter()
}

/// The explanation of a code, written `MLA0103`, `mla0103`, `0103` or `103`; `None` where there is no such rule.
///
/// ```
/// let text = mla_spec::explain::explain("mla0106").unwrap();
/// assert!(text.starts_with("MLA0106: "));
/// assert!(mla_spec::explain::explain("MLA9999").is_none());
/// ```
pub fn explain(code: &str) -> Option<String> {
    let code = code.trim();
    let digits = match code.get(..3) {
        Some(prefix) if prefix.eq_ignore_ascii_case("mla") => code.get(3..)?,
        _ => code,
    };
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u16 = digits.parse().ok()?;
    all().find(|rule| rule.code == Code(number)).map(Rule::text)
}

impl Rule {
    /// The whole explanation.
    fn text(&self) -> String {
        let (wrong, right) = (indented(self.wrong), indented(self.right));
        let excerpt = example::is_excerpt(self.wrong) || example::is_excerpt(self.right);
        let what = if excerpt {
            "\nThe examples show only what matters of a spec.\n"
        } else {
            ""
        };
        format!(
            "{}: {}\n\n{}\n\nwhy: {}\n\nwrong:\n\n{wrong}\nright:\n\n{right}{what}",
            self.code, self.title, self.rule, self.why
        )
    }
}

fn indented(example: &str) -> String {
    example
        .trim_end()
        .lines()
        .map(|line| format!("    {line}").trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascend_in_each_table() {
        let of_check: Vec<Code> = check::rules().map(|rule| rule.code).collect();
        assert!(of_check.is_sorted());
        let codes: Vec<Code> = all().map(|rule| rule.code).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
    }

    #[test]
    fn a_code_is_found_however_it_is_written() {
        let text = explain("MLA0106").unwrap();
        for code in ["mla0106", "0106", "106", " MLA106 "] {
            assert_eq!(explain(code).as_deref(), Some(text.as_str()), "{code}");
        }
        for code in [
            "", "MLA", "MLA01060", "x106", "+106", "99999999", "MLÄ0106", "6553",
        ] {
            assert!(explain(code).is_none(), "{code}");
        }
    }

    #[test]
    fn titles_are_written_like_messages() {
        for rule in all() {
            assert!(
                !rule.title.ends_with('.') && !rule.title.starts_with(char::is_uppercase),
                "{}",
                rule.title
            );
            assert!(
                !rule.rule.is_empty() && !rule.why.is_empty() && rule.wrong != rule.right,
                "{}",
                rule.code
            );
        }
    }
}
