//! Arguments and values: `key = value`, `key(...)`, `[...]`.

use proc_macro2::{Delimiter, Group, Ident, Literal, Span as TokenSpan, TokenStream, TokenTree};

use super::super::{ARGUMENT, INTEGER_RANGE, NOT_FINITE, TOO_LARGE, VALUE};
use super::Reader;
use crate::diagnostic::Diagnostic;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::Spanned;

/// Deepest nesting read, as for YAML.
const MAX_DEPTH: usize = 32;

/// An identifier without `r#`.
pub(super) fn plain(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#")
        .map_or_else(|| text.clone(), str::to_owned)
}

/// The tokens between two commas, never none.
pub(super) struct Chunk(Vec<TokenTree>);

impl Chunk {
    /// The key, where the first token is one.
    pub(super) fn key(&self) -> Option<String> {
        match self.0.first() {
            Some(TokenTree::Ident(ident)) => Some(plain(ident)),
            _ => None,
        }
    }

    pub(super) fn has_equals(&self) -> bool {
        matches!(self.0.get(1), Some(TokenTree::Punct(punct)) if punct.as_char() == '=')
    }

    /// What stands behind `key =`.
    pub(super) fn value(&self) -> TokenStream {
        self.0.iter().skip(2).cloned().collect()
    }

    pub(super) fn span(&self) -> TokenSpan {
        self.0
            .first()
            .map_or_else(TokenSpan::call_site, TokenTree::span)
    }
}

/// Tokens split at their commas; a comma behind the last is allowed.
pub(super) fn chunks(tokens: TokenStream) -> Vec<Chunk> {
    let mut chunks = vec![Chunk(Vec::new())];
    for token in tokens {
        let is_comma = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
        match chunks.last_mut() {
            Some(last) if !is_comma => last.0.push(token),
            _ => chunks.push(Chunk(Vec::new())),
        }
    }
    chunks.retain(|chunk| !chunk.0.is_empty());
    chunks
}

impl Reader<'_> {
    /// The arguments of a mapping, duplicates included.
    pub(super) fn arguments(&mut self, tokens: TokenStream, depth: usize) -> Vec<Entry> {
        chunks(tokens)
            .iter()
            .filter_map(|chunk| self.argument(chunk, depth))
            .collect()
    }

    pub(super) fn argument(&mut self, chunk: &Chunk, depth: usize) -> Option<Entry> {
        let Some(TokenTree::Ident(ident)) = chunk.0.first() else {
            return self.not_an_argument(chunk, "expected a key");
        };
        let key = Spanned::new(plain(ident), self.place(ident.span()));
        let value = match &chunk.0[1..] {
            [TokenTree::Group(group)] if group.delimiter() == Delimiter::Parenthesis => {
                self.map(group, depth, key.span)
            }
            [TokenTree::Punct(punct), value @ ..] if punct.as_char() == '=' => {
                self.value(value, ident.span(), depth)?
            }
            [] => return self.not_an_argument(chunk, "this key has no value"),
            _ => return self.not_an_argument(chunk, "expected `=` or `(` behind the key"),
        };
        Some(Entry { key, value })
    }

    fn not_an_argument<T>(&mut self, chunk: &Chunk, label: &str) -> Option<T> {
        let span = self.place(chunk.span());
        self.error(
            Diagnostic::error(
                ARGUMENT,
                "an argument is `key = value` or `key(...)`",
                span,
                label,
            )
            .help("a mapping is `key(...)`, a list `key = [...]`, anything else `key = value`"),
        );
        None
    }

    fn map(&mut self, group: &Group, depth: usize, fallback: crate::span::Span) -> Node {
        if depth >= MAX_DEPTH {
            let span = self.place(group.span());
            self.error(Diagnostic::error(
                TOO_LARGE,
                "the spec is deeper than any layer needs",
                span,
                "given up here",
            ));
            return Node::scalar(Scalar::Null, span);
        }
        let entries = self.arguments(group.stream(), depth + 1);
        self.refuse_duplicates(&entries);
        let span = entries.first().map_or(fallback, |entry| entry.key.span);
        Node {
            kind: NodeKind::Map(entries),
            span,
        }
    }

    /// `at` is where a value that is missing would stand.
    fn value(&mut self, tokens: &[TokenTree], at: TokenSpan, depth: usize) -> Option<Node> {
        match tokens {
            [TokenTree::Ident(ident)] => {
                let span = self.place(ident.span());
                Some(Node::scalar(word(plain(ident)), span))
            }
            [TokenTree::Literal(literal)] => self.literal(literal, false),
            [TokenTree::Punct(minus), TokenTree::Literal(literal)] if minus.as_char() == '-' => {
                self.literal(literal, true)
            }
            [TokenTree::Group(group)] => self.group(group, depth),
            // A negative `macro_rules!` literal, whose sign stands outside of its group.
            [TokenTree::Punct(minus), TokenTree::Group(group)]
                if minus.as_char() == '-' && group.delimiter() == Delimiter::None =>
            {
                let inner: Vec<_> = std::iter::once(tokens[0].clone())
                    .chain(group.stream())
                    .collect();
                self.value(&inner, at, depth)
            }
            [] => self.not_a_value(at, "this key has no value"),
            [first, ..] => self.not_a_value(first.span(), "not a value of the language"),
        }
    }

    fn group(&mut self, group: &Group, depth: usize) -> Option<Node> {
        let tokens: Vec<_> = group.stream().into_iter().collect();
        match group.delimiter() {
            _ if depth >= MAX_DEPTH => {
                let span = self.place(group.span());
                self.error(Diagnostic::error(
                    TOO_LARGE,
                    "the spec is deeper than any layer needs",
                    span,
                    "given up here",
                ));
                None
            }
            Delimiter::None => self.value(&tokens, group.span(), depth + 1),
            Delimiter::Bracket => {
                let span = self.place(group.span());
                let chunks = chunks(group.stream());
                let items: Vec<_> = chunks
                    .iter()
                    .map(|chunk| self.value(&chunk.0, chunk.span(), depth + 1))
                    .collect();
                Some(Node {
                    kind: NodeKind::Seq(items.into_iter().collect::<Option<_>>()?),
                    span,
                })
            }
            Delimiter::Parenthesis | Delimiter::Brace => {
                self.not_a_value(group.span(), "a mapping is written `key(...)`, without `=`")
            }
        }
    }

    fn not_a_value<T>(&mut self, span: TokenSpan, label: &str) -> Option<T> {
        let span = self.place(span);
        self.error(
            Diagnostic::error(VALUE, "expected a value", span, label)
                .help("a value is a word, a number, `true`, `false`, a string, or a list `[...]`"),
        );
        None
    }

    fn literal(&mut self, literal: &Literal, negative: bool) -> Option<Node> {
        match syn::Lit::new(literal.clone()) {
            syn::Lit::Str(text) if !negative => {
                let span = self.place(literal.span());
                Some(Node::scalar(Scalar::Str(text.value()), span))
            }
            syn::Lit::Int(int) if int.suffix().is_empty() => {
                self.int(int.base10_digits(), literal, negative)
            }
            syn::Lit::Float(float) if float.suffix().is_empty() => {
                self.float(float.base10_digits(), literal, negative)
            }
            syn::Lit::Int(_) | syn::Lit::Float(_) => {
                self.not_a_value(literal.span(), "a number has no suffix here")
            }
            _ => self.not_a_value(literal.span(), "not a value of the language"),
        }
    }

    fn int(&mut self, digits: &str, literal: &Literal, negative: bool) -> Option<Node> {
        let written = format!("{}{digits}", if negative { "-" } else { "" });
        let span = self.place(literal.span());
        match written.parse() {
            Ok(value) => Some(Node::scalar(Scalar::Int(value), span)),
            Err(_) => {
                let message = format!("integer `{written}` does not fit 64 bits");
                self.error(
                    Diagnostic::error(INTEGER_RANGE, message, span, "out of range")
                        .help("sizes of a layer are at most 4294967295"),
                );
                None
            }
        }
    }

    fn float(&mut self, digits: &str, literal: &Literal, negative: bool) -> Option<Node> {
        let written = format!("{}{digits}", if negative { "-" } else { "" });
        let span = self.place(literal.span());
        match written.parse::<f64>() {
            Ok(value) if value.is_finite() => Some(Node::scalar(Scalar::Float(value), span)),
            _ => {
                let message = format!("`{written}` is not a finite number");
                self.error(
                    Diagnostic::error(NOT_FINITE, message, span, "not finite")
                        .help("write a number that a 64-bit float holds"),
                );
                None
            }
        }
    }
}

/// What a bare word means, as in YAML.
fn word(word: String) -> Scalar {
    match word.as_str() {
        "true" => Scalar::Bool(true),
        "false" => Scalar::Bool(false),
        "null" => Scalar::Null,
        _ => Scalar::Str(word),
    }
}
