//! MaxText's YAML as MaxText reads it: PyYAML takes `10_000` for a number, which YAML 1.2 does not.

use crate::diagnostic::Diagnostics;
use crate::node::{Node, NodeKind, Scalar};
use crate::read;
use crate::span::Sources;

/// The tree of a text.
pub(super) fn read(sources: &mut Sources, name: &str, text: &str) -> Result<Node, Diagnostics> {
    let mut root = read::yaml_tree(sources, name, text)?;
    if let NodeKind::Map(entries) = &mut root.kind {
        for entry in entries {
            if let NodeKind::Scalar(Scalar::Str(word)) = &entry.value.kind
                && let Some(number) = number(word)
            {
                entry.value.kind = NodeKind::Scalar(number);
            }
        }
    }
    Ok(root)
}

/// A number with underscores between its digits, or one that YAML takes for a word, such as `None`'s.
fn number(word: &str) -> Option<Scalar> {
    if word == "None" {
        return Some(Scalar::Null);
    }
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return None;
    }
    let digits = word.replace('_', "");
    let whole = digits.parse().ok().map(Scalar::Int);
    let real = || digits.parse().ok().filter(|real: &f64| real.is_finite());
    whole.or_else(|| real().map(Scalar::Float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_maxtext_takes_for_numbers() {
        assert_eq!(number("10_000"), Some(Scalar::Int(10_000)));
        assert_eq!(number("1_0.5"), Some(Scalar::Float(10.5)));
        assert_eq!(number("None"), Some(Scalar::Null));
        for word in ["mla", "1e999", "10_000x", "", "nan", "-", "+inf"] {
            assert_eq!(number(word), None, "{word}");
        }
    }
}
