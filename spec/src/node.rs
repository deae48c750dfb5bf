//! The tree that every door reads into: scalars, sequences and maps, each with its span.

use crate::span::{Span, Spanned};

/// One node of the tree. Equality ignores spans.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it holds.
    pub kind: NodeKind,
    /// Where it was written. A map's span covers its first key, since a block mapping has no token of its own.
    pub span: Span,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping, in the order written. Doors refuse duplicate keys.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Spanned<String>,
    /// Its value.
    pub value: Node,
}

/// A single value. Integers and floats stay apart: `1` is an integer, `1.0` and `1e-6` are floats.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`, no other spelling.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// A finite number with a fraction or an exponent.
    Float(f64),
    /// Anything else.
    Str(String),
}

impl Scalar {
    /// How a message names this kind of value.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Scalar::Null => "null",
            Scalar::Bool(_) => "a boolean",
            Scalar::Int(_) => "an integer",
            Scalar::Float(_) => "a number",
            Scalar::Str(_) => "a string",
        }
    }
}

impl Node {
    /// A scalar node.
    pub fn scalar(scalar: Scalar, span: Span) -> Self {
        Self {
            kind: NodeKind::Scalar(scalar),
            span,
        }
    }

    /// How a message names this kind of node.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            NodeKind::Scalar(scalar) => scalar.kind_name(),
            NodeKind::Seq(_) => "a list",
            NodeKind::Map(_) => "a mapping",
        }
    }
}
