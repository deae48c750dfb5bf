//! How messages show values and lists of names.

use super::codes;
use crate::diagnostic::Diagnostic;
use crate::node::{Node, NodeKind, Scalar};

/// A value that is not of the kind wanted.
pub(super) fn wrong_kind(name: &str, wanted: &str, node: &Node) -> Diagnostic {
    let message = format!("`{name}` must be {wanted}, found {}", shown(node));
    let label = match &node.kind {
        NodeKind::Scalar(Scalar::Float(_)) => "this has a fraction or an exponent".to_owned(),
        _ => format!("this is {}", node.kind_name()),
    };
    let wrong = Diagnostic::error(codes::WRONG_KIND, message, node.span, label);
    match &node.kind {
        NodeKind::Scalar(Scalar::Str(text)) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
            wrong.help("write the number without quotes")
        }
        NodeKind::Scalar(Scalar::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
            wrong.help(format!("write `{value:.0}`"))
        }
        _ => wrong.help(format!("give {wanted}")),
    }
}

/// A value as messages show it: short scalars in backticks, the rest by kind.
pub(super) fn shown(node: &Node) -> String {
    match &node.kind {
        NodeKind::Scalar(Scalar::Null) => "null".to_owned(),
        NodeKind::Scalar(Scalar::Bool(value)) => format!("`{value}`"),
        NodeKind::Scalar(Scalar::Int(value)) => format!("`{value}`"),
        NodeKind::Scalar(Scalar::Float(value)) => format!("`{value:?}`"),
        NodeKind::Scalar(Scalar::Str(text)) if looks_like_another_kind(text) => {
            format!("`\"{}\"`", quoted(text))
        }
        NodeKind::Scalar(Scalar::Str(text)) => format!("`{}`", quoted(text)),
        NodeKind::Seq(_) | NodeKind::Map(_) => node.kind_name().to_owned(),
    }
}

/// Whether a string needs its quotes in a message to be told from a number, a boolean or nothing.
fn looks_like_another_kind(text: &str) -> bool {
    text.parse::<f64>().is_ok() || ["", "true", "false", "null", "~"].contains(&text)
}

/// The user's word as it may stand between backticks: escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut quoted: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        quoted.push_str("..");
    }
    quoted
}

/// `` `a`, `b` and `c` ``.
pub(super) fn listed(names: &[&str]) -> String {
    joined(names, "and")
}

/// `` `a`, `b` or `c` ``.
pub(super) fn one_of(names: &[&str]) -> String {
    joined(names, "or")
}

fn joined(names: &[&str], last: &str) -> String {
    let ticked: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match ticked.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}
