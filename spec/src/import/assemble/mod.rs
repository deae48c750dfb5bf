//! Builds the document: nodes, parameters and slots of our language from what was read.

mod build;
mod layer;
pub(super) mod rope;

pub(super) use build::build;
pub(super) use layer::layer;

use crate::build::Build;
use crate::document::{Body, Document, ModuleSpec};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::write;

/// Comments being collected, by value path.
#[derive(Default)]
pub(super) struct Comments {
    pub(super) all: write::Comments,
}

impl Comments {
    /// Says `text` behind the value at `path`.
    pub(super) fn add(&mut self, path: &str, text: &str) {
        self.all.0.insert(path.to_owned(), text.to_owned());
    }

    /// Takes back every comment whose path begins so.
    pub(super) fn remove_inside(&mut self, path: &str) {
        self.all.0.retain(|key, _| !key.starts_with(path));
    }

    /// Adds a line above the document.
    pub(super) fn above(&mut self, line: &str) {
        let above = self.all.0.entry(String::new()).or_default();
        if !above.is_empty() {
            above.push('\n');
        }
        above.push_str(line);
    }

    /// Adds the comments on a layer of a model, under its name there. What is built is said once.
    pub(super) fn take_in(&mut self, layer: Comments, name: &str) {
        for (path, text) in layer.all.0 {
            let path = match path.strip_prefix("build.") {
                Some(_) => path,
                None => format!("model.layers.{name}.{path}"),
            };
            self.all.0.entry(path).or_insert(text);
        }
    }
}

/// The whole document of one layer.
pub(super) fn document(name: String, layer: ModuleSpec, build: Node) -> Document {
    Document {
        mla: Spanned::unplaced(1),
        name: Spanned::unplaced(name),
        body: Body::Layer(layer),
        build: Some(build),
    }
}

/// What an absent `build` section means, written out. `sparse`: no layer attends to everything it sees.
pub(super) fn usual_build(sparse: bool) -> Node {
    build(&Build::default(), sparse)
}

/// A mapping.
pub(super) fn map(entries: Vec<Entry>) -> Node {
    Node {
        kind: NodeKind::Map(entries),
        span: Span::NONE,
    }
}

/// A list.
pub(super) fn list(items: Vec<Node>) -> Node {
    Node {
        kind: NodeKind::Seq(items),
        span: Span::NONE,
    }
}

/// `key: value`.
pub(super) fn entry(key: &str, value: Node) -> Entry {
    Entry {
        key: Spanned::unplaced(key.to_owned()),
        value,
    }
}

/// `key: value`, an integer.
pub(super) fn size(key: &str, value: Spanned<u32>) -> Entry {
    entry(
        key,
        Node::scalar(Scalar::Int(i64::from(value.value)), value.span),
    )
}

/// `key: value`, a real number: a config's `40` becomes `40.0`.
pub(super) fn real(key: &str, value: Spanned<f64>) -> Entry {
    entry(key, Node::scalar(Scalar::Float(value.value), value.span))
}

/// `key: value`, a word.
pub(super) fn word(key: &str, value: &str, span: Span) -> Entry {
    entry(key, string(value, span))
}

/// A word by itself.
fn string(value: &str, span: Span) -> Node {
    Node::scalar(Scalar::Str(value.to_owned()), span)
}

/// `key: value`, a boolean.
pub(super) fn flag(key: &str, value: Spanned<bool>) -> Entry {
    entry(key, Node::scalar(Scalar::Bool(value.value), value.span))
}
