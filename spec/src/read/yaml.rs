//! YAML text to a tree. The only file that knows the YAML parser.
//!
//! The parser's values are taken through a hand-written visitor, node by node with its location: serde's derived
//! enums, `flatten` and `untagged` buffer values and lose where they were written.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    Budget, DuplicateKeyPolicy, Error, Location, MergeKeyPolicy, MessageFormatter,
    NonFiniteFloatPolicy, Options,
};

use super::{
    DUPLICATE_KEY, INTEGER_RANGE, KEY_KIND, NOT_FINITE, SEVERAL_DOCUMENTS, SYNTAX, TOO_LARGE,
    YAML_EXTRA,
};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Document;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Place, Sources, Span, Spanned, TextId};

/// Longest spec read, in bytes; the longest real one is below 4 KiB.
const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting read; real specs stay below 8.
const MAX_DEPTH: usize = 32;
/// Most nodes read, those repeated by aliases included.
const MAX_NODES: usize = 20_000;

/// Reads a spec from YAML.
///
/// `name` is what messages call the text; both are added to `sources`. A byte order mark is dropped.
///
/// # Errors
///
/// Every error of syntax and shape: the parser stops at the first error of syntax, everything else is collected.
pub fn yaml(sources: &mut Sources, name: &str, text: &str) -> Result<Document, Diagnostics> {
    super::document(&yaml_tree(sources, name, text)?)
}

/// The tree of any YAML text, under the rules of [`yaml()`]; JSON is YAML too.
pub(crate) fn yaml_tree(
    sources: &mut Sources,
    name: &str,
    text: &str,
) -> Result<Node, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        let id = sources.add_text(name, "");
        let span = sources.add_place(Place::Text {
            text: id,
            range: 0..0,
        });
        let message = format!(
            "the spec has {} bytes, more than the {MAX_BYTES} that are read",
            text.len()
        );
        return Err(only(
            Diagnostic::error(TOO_LARGE, message, span, "too long").help("is this a spec?"),
        ));
    }
    let mut door = Door {
        text_id: sources.add_text(name, text),
        sources,
        text,
        diagnostics: Diagnostics::new(),
    };
    let root = match serde_saphyr::from_str_with_options::<Option<Tree>>(text, options()) {
        Ok(Some(tree)) => door.node(tree, None),
        Ok(None) | Err(Error::Eof { .. }) => door.nothing(),
        Err(error) => return Err(only(door.syntax(&error))),
    };
    if !door.diagnostics.is_empty() {
        return Err(door.diagnostics);
    }
    Ok(root)
}

fn only(diagnostic: Diagnostic) -> Diagnostics {
    let mut diagnostics = Diagnostics::new();
    diagnostics.push(diagnostic);
    diagnostics
}

fn options() -> Options {
    let mut options = Options::default();
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.flow_nesting_limit = 2 * MAX_DEPTH; // so that `max_depth` is what speaks
    budget.max_nodes = MAX_NODES;
    budget.max_events = 4 * MAX_NODES;
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = MAX_NODES;
    options.alias_limits.max_replay_stack_depth = MAX_DEPTH;
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.merge_keys = MergeKeyPolicy::AsOrdinary;
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    options.strict_booleans = true;
    options.reject_unsupported_tags = true;
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    options.with_snippet = false;
    options
}

/// A value as the parser gives it, with its location.
#[derive(Deserialize)]
#[serde(transparent)]
struct Tree(serde_saphyr::Spanned<Value>);

enum Value {
    Scalar(Scalar),
    HugeInteger(String),
    Seq(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Int(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(
            |_| Value::HugeInteger(value.to_string()),
            |v| Value::Scalar(Scalar::Int(v)),
        ))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::HugeInteger(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::HugeInteger(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Str(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Str(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

/// Turns the parser's values into nodes, noting what the language refuses in any mapping.
struct Door<'a> {
    sources: &'a mut Sources,
    text_id: TextId,
    text: &'a str,
    diagnostics: Diagnostics,
}

impl Door<'_> {
    /// `fallback` is the span of a value that takes no room, such as the null of `params:`.
    fn node(&mut self, Tree(tree): Tree, fallback: Option<Span>) -> Node {
        let range = self.range(tree.referenced);
        match tree.value {
            Value::Scalar(Scalar::Null) if range.is_empty() => {
                let span = fallback.unwrap_or_else(|| self.place(range));
                Node::scalar(Scalar::Null, span)
            }
            Value::Scalar(scalar) => self.scalar(scalar, range),
            Value::HugeInteger(digits) => {
                let span = self.place(range);
                self.out_of_range(&digits, span)
            }
            Value::Seq(items) => {
                let span = self.place(self.at_least_one_char(range));
                let items = items
                    .into_iter()
                    .map(|item| self.node(item, Some(span)))
                    .collect();
                Node {
                    kind: NodeKind::Seq(items),
                    span,
                }
            }
            Value::Map(entries) => {
                let own = self.place(self.at_least_one_char(range));
                let entries = self.entries(entries);
                let span = entries.first().map_or(own, |entry| entry.key.span);
                Node {
                    kind: NodeKind::Map(entries),
                    span,
                }
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar, range: Range<usize>) -> Node {
        let written = self.text[range.clone()].trim().to_owned();
        let span = self.place(range);
        match scalar {
            // Digits that fit no integer type reach the visitor as a float.
            Scalar::Float(_) if is_integer(&written) => self.out_of_range(&written, span),
            Scalar::Float(value) if !value.is_finite() => {
                self.diagnostics.push(
                    Diagnostic::error(
                        NOT_FINITE,
                        format!("`{written}` is not a finite number"),
                        span,
                        "not finite",
                    )
                    .help("write a number that a 64-bit float holds"),
                );
                Node::scalar(Scalar::Float(value), span)
            }
            scalar => Node::scalar(scalar, span),
        }
    }

    fn out_of_range(&mut self, digits: &str, span: Span) -> Node {
        let message = format!("integer `{digits}` does not fit 64 bits");
        self.diagnostics.push(
            Diagnostic::error(INTEGER_RANGE, message, span, "out of range")
                .help("sizes of a layer are at most 4294967295"),
        );
        Node::scalar(Scalar::Int(i64::MAX), span)
    }

    fn entries(&mut self, pairs: Vec<(Tree, Tree)>) -> Vec<Entry> {
        let mut first_spans = HashMap::new();
        let mut entries = Vec::new();
        for (key, value) in pairs {
            let key = self.key(key);
            let value = self.node(value, Some(key.span));
            match first_spans.get(&key.value) {
                Some(&first) => self.diagnostics.push(duplicate_key(&key, first)),
                None => {
                    first_spans.insert(key.value.clone(), key.span);
                }
            }
            entries.push(Entry { key, value });
        }
        entries
    }

    /// A key as a string; any other key is noted.
    fn key(&mut self, key: Tree) -> Spanned<String> {
        let written = self.text[self.range(key.0.referenced)].to_owned();
        let node = self.node(key, None);
        if let NodeKind::Scalar(Scalar::Str(key)) = node.kind {
            if key == "<<" && written == "<<" {
                self.diagnostics.push(
                    Diagnostic::error(
                        YAML_EXTRA,
                        "merge keys are not part of the language",
                        node.span,
                        "a merge key",
                    )
                    .help("write the merged keys out"),
                );
            }
            return Spanned::new(key, node.span);
        }
        let found = node.kind_name();
        self.diagnostics.push(
            Diagnostic::error(
                KEY_KIND,
                format!("a key is a name, found {found}"),
                node.span,
                format!("this is {found}"),
            )
            .help("every key of the language is a plain word"),
        );
        Spanned::new(written, node.span)
    }

    fn nothing(&mut self) -> Node {
        let span = self.place(0..0);
        Node::scalar(Scalar::Null, span)
    }

    /// What the parser refuses, in this project's words where it has any.
    fn syntax(&mut self, error: &Error) -> Diagnostic {
        let span = match error.location() {
            Some(location) => {
                let range = self.range(location);
                let range = self.at_least_one_char(range);
                self.place(range)
            }
            None => self.place(0..0),
        };
        let error = innermost(error);
        let words = parser_words(error);
        match error {
            Error::MultipleDocuments { .. } => Diagnostic::error(
                SEVERAL_DOCUMENTS,
                "a file holds one spec",
                span,
                "a second document starts here",
            )
            .help("put each spec into a file of its own"),
            Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasReplayCounterOverflow { .. }
            | Error::AliasReplayStackDepthExceeded { .. } => too_deep(span),
            _ if words.contains("recursion limit exceeded") => too_deep(span),
            Error::UnsupportedTag { .. } => Diagnostic::error(
                YAML_EXTRA,
                "tags are not part of the language",
                span,
                "this tag",
            )
            .note(words)
            .help("leave the tag out"),
            _ => self.not_yaml(words, span),
        }
    }

    fn not_yaml(&self, words: String, span: Span) -> Diagnostic {
        let diagnostic = Diagnostic::error(
            SYNTAX,
            format!("not valid YAML: {words}"),
            span,
            "the parser stopped here",
        );
        if self
            .text
            .lines()
            .any(|line| line.trim_start_matches(' ').starts_with('\t'))
        {
            return diagnostic.help("YAML is indented with spaces, and a line starts with a tab");
        }
        if self.text.contains('\0') {
            return diagnostic.help("the text holds a NUL byte; is it a text file?");
        }
        diagnostic
    }

    /// The byte range of a location, clamped to the text and to character boundaries.
    fn range(&self, location: Location) -> Range<usize> {
        let span = location.span();
        let at =
            |offset: u64| floor_boundary(self.text, usize::try_from(offset).unwrap_or(usize::MAX));
        match span.byte_offset() {
            Some(start) => at(start)..at(start.saturating_add(span.byte_len().unwrap_or(0))),
            // Errors of syntax count characters only.
            None => {
                let chars = usize::try_from(span.offset()).unwrap_or(usize::MAX);
                let start = self
                    .text
                    .char_indices()
                    .nth(chars)
                    .map_or(self.text.len(), |(at, _)| at);
                start..start
            }
        }
    }

    fn at_least_one_char(&self, range: Range<usize>) -> Range<usize> {
        let next = self.text[range.start..]
            .chars()
            .next()
            .map_or(0, char::len_utf8);
        range.start..range.end.max(range.start + next)
    }

    fn place(&mut self, range: Range<usize>) -> Span {
        self.sources.add_place(Place::Text {
            text: self.text_id,
            range,
        })
    }
}

fn duplicate_key(key: &Spanned<String>, first: Span) -> Diagnostic {
    Diagnostic::error(
        DUPLICATE_KEY,
        format!("`{}` is written twice", key.value),
        key.span,
        "written again",
    )
    .and(first, "first written here")
    .help("keep one of them")
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error(TOO_LARGE, "the spec is larger or deeper than any layer needs", span, "given up here")
        .help(format!("a spec has at most {MAX_NODES} values, those that aliases repeat included, nested at most {MAX_DEPTH} deep"))
}

/// The error below what the parser wraps around it; its location is still the wrapped one's.
fn innermost(mut error: &Error) -> &Error {
    while let Error::AliasError { error: inner, .. } = error.without_snippet() {
        error = inner;
    }
    error.without_snippet()
}

/// What the parser says.
fn parser_words(error: &Error) -> String {
    serde_saphyr::UserMessageFormatter
        .format_message(error)
        .into_owned()
}

/// Whether a scalar was written as a decimal integer.
fn is_integer(written: &str) -> bool {
    let digits = written.strip_prefix(['-', '+']).unwrap_or(written);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The last character boundary at or before `offset`.
fn floor_boundary(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    (0..=offset)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}
