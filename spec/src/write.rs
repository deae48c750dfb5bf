//! Writes a document as YAML.
//!
//! Sections are block mappings, one key a line; whatever is short and carries no comment inside becomes a flow
//! mapping, as in `kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }`. What is written reads back equal.

use std::collections::BTreeMap;

use crate::document::{Body, Document, ModuleSpec};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// Longest line on which a mapping is written in flow style, in characters.
const FLOW_WIDTH: usize = 110;

/// Words that some readers of YAML take for booleans. Here they are strings, so they are written in quotes.
const YAML_1_1_BOOLEANS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

/// Comments to print behind values: path of keys (`params.rope.layout`, `submodules.kv_layernorm.params.eps`) and text.
/// The empty path is the header, printed above everything, one comment line per line of its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comments(pub BTreeMap<String, String>);

impl Comments {
    /// The comment behind the value at `path`.
    fn at(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Whether a value inside `path` has a comment, so that it needs a line of its own.
    fn any_inside(&self, path: &str) -> bool {
        let inside = format!("{path}.");
        self.0
            .range(inside.clone()..)
            .next()
            .is_some_and(|(key, _)| key.starts_with(&inside))
    }
}

/// Writes a document, with comments behind the values that have one. Comments at paths the document lacks are dropped.
pub fn yaml(document: &Document, comments: &Comments) -> String {
    let mut writer = Writer {
        comments,
        text: String::new(),
    };
    for line in comments.at("").unwrap_or_default().lines() {
        writer
            .text
            .push_str(format!("# {}", printable(line)).trim_end());
        writer.text.push('\n');
    }
    for entry in tree(document) {
        match &entry.value.kind {
            NodeKind::Map(entries) if !entries.is_empty() => {
                writer.line(0, &entry.key.value, "", &entry.key.value);
                writer.block(1, entries, &entry.key.value);
            }
            _ => writer.entry(0, &entry, &entry.key.value),
        }
    }
    writer.text
}

/// The document as the entries of its top-level mapping.
fn tree(document: &Document) -> Vec<Entry> {
    let mut entries = vec![
        entry("mla", Scalar::Int(document.mla.value).into()),
        entry("name", Scalar::Str(document.name.value.clone()).into()),
    ];
    match &document.body {
        Body::Layer(layer) => entries.extend(spec_entries(layer)),
        Body::Model(model) => entries.push(entry("model", model.node.clone())),
    }
    entries.extend(
        document
            .build
            .iter()
            .map(|build| entry("build", build.clone())),
    );
    entries
}

/// A module's spec as the entries of its mapping.
pub(crate) fn spec_entries(spec: &ModuleSpec) -> Vec<Entry> {
    let mut entries = vec![entry(
        "module",
        Scalar::Str(spec.module.value.clone()).into(),
    )];
    if !spec.params.is_empty() {
        let params = spec
            .params
            .iter()
            .map(|param| entry(&param.key.value, param.value.clone()))
            .collect();
        entries.push(entry("params", map(params)));
    }
    if !spec.submodules.is_empty() {
        let slots = spec
            .submodules
            .iter()
            .map(|submodule| entry(&submodule.slot.value, slot(&submodule.spec)));
        entries.push(entry("submodules", map(slots.collect())));
    }
    entries
}

/// A bare name where the module is all there is to say.
fn slot(spec: &ModuleSpec) -> Node {
    if spec.params.is_empty() && spec.submodules.is_empty() {
        return Scalar::Str(spec.module.value.clone()).into();
    }
    map(spec_entries(spec))
}

pub(crate) fn entry(key: &str, value: Node) -> Entry {
    Entry {
        key: Spanned::unplaced(key.to_owned()),
        value,
    }
}

pub(crate) fn map(entries: Vec<Entry>) -> Node {
    Node {
        kind: NodeKind::Map(entries),
        span: Span::NONE,
    }
}

impl From<Scalar> for Node {
    /// A value that stands in no source.
    fn from(scalar: Scalar) -> Self {
        Node::scalar(scalar, Span::NONE)
    }
}

struct Writer<'a> {
    comments: &'a Comments,
    text: String,
}

impl Writer<'_> {
    fn block(&mut self, depth: usize, entries: &[Entry], path: &str) {
        for entry in entries {
            self.entry(depth, entry, &format!("{path}.{}", entry.key.value));
        }
    }

    fn entry(&mut self, depth: usize, entry: &Entry, path: &str) {
        let key = string(&entry.key.value);
        let value = flow(&entry.value);
        match &entry.value.kind {
            NodeKind::Map(entries)
                if !entries.is_empty()
                    && (self.comments.any_inside(path)
                        || 2 * depth + key.len() + value.len() > FLOW_WIDTH) =>
            {
                self.line(depth, &entry.key.value, "", path);
                self.block(depth + 1, entries, path);
            }
            _ => self.line(depth, &entry.key.value, &value, path),
        }
    }

    fn line(&mut self, depth: usize, key: &str, value: &str, path: &str) {
        let comment = self
            .comments
            .at(path)
            .map(|comment| format!("# {}", printable(comment)));
        let parts = [
            format!("{}:", string(key)),
            value.to_owned(),
            comment.unwrap_or_default(),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(parts.join(" ").trim_end());
        self.text.push('\n');
    }
}

/// A value on one line.
fn flow(node: &Node) -> String {
    match &node.kind {
        NodeKind::Scalar(value) => scalar(value),
        NodeKind::Seq(items) => format!(
            "[{}]",
            items.iter().map(flow).collect::<Vec<_>>().join(", ")
        ),
        NodeKind::Map(entries) if entries.is_empty() => "{}".to_owned(),
        NodeKind::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| format!("{}: {}", string(&entry.key.value), flow(&entry.value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn scalar(value: &Scalar) -> String {
    match value {
        Scalar::Null => "null".to_owned(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Float(value) => float(*value),
        Scalar::Str(text) => string(text),
    }
}

/// The shortest digits that read back equal, always with a point: YAML 1.1 readers take `1e-6` for a string.
fn float(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
        _ => text,
    }
}

/// A string, plain where every reader takes it for one, else in double quotes.
fn string(text: &str) -> String {
    let words = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !YAML_1_1_BOOLEANS.contains(&text.to_ascii_lowercase().as_str())
        && !text.ends_with(' ')
        && text.chars().all(words)
        && emitted(&text).is_some_and(|emitted| emitted == text);
    if plain { text.to_owned() } else { quoted(text) }
}

/// What the YAML library writes for a scalar, its line end removed; `None` if it refuses.
fn emitted(value: &impl serde::Serialize) -> Option<String> {
    serde_yaml::to_string(value)
        .ok()
        .map(|text| text.trim_end_matches('\n').to_owned())
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            ' '..='~' => quoted.push(c),
            c if c.is_alphanumeric() => quoted.push(c),
            c => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// A comment's text on one line: a comment can't end early and become part of the spec.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') {
                ' '
            } else {
                c
            }
        })
        .collect()
}
