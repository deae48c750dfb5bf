//! Rust tokens to a tree: what `#[mla_layer(...)]` and `#[derive(MlaLayer)]` are given.
//!
//! Every YAML mapping has one Rust spelling, at any depth: a mapping is `key(...)`, a list `key = [...]`, a scalar
//! `key = value`. A struct is the layer: its arguments are the parameters, its fields the slots, a field's type the
//! module in it and `#[mla(...)]` on the field that module's parameters.

mod item;
mod spelling;
mod values;

use proc_macro2::TokenStream;

use super::{ARGUMENT, DUPLICATE_KEY, MISPLACED, SPEC_ALONE};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Document;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Place, Sources, Span, Spanned};
pub use spelling::in_rust;
use values::Chunk;

/// The token spans behind [`Place::Token`].
#[derive(Debug, Default)]
pub struct TokenSpans(Vec<proc_macro2::Span>);

impl TokenSpans {
    /// The n-th span.
    pub fn get(&self, index: usize) -> Option<proc_macro2::Span> {
        self.0.get(index).copied()
    }
}

/// What `#[mla_layer(...)]` says.
pub enum Door {
    /// `spec = "path"`: the spec is in that file.
    Spec {
        /// The literal, for its value and its span.
        path: syn::LitStr,
    },
    /// The spec itself.
    Document(Document),
}

/// What was read from an item, and what a macro needs beside it.
pub struct Outcome<T> {
    /// What was read, or every error.
    pub read: Result<T, Diagnostics>,
    /// `crate = path`: where the runtime is, also where the rest has errors.
    pub krate: Option<syn::Path>,
    /// What the [`Place::Token`]s of this reading stand for.
    pub spans: TokenSpans,
}

/// Reads `#[mla_layer(args)]` on `item`.
pub fn attribute(args: TokenStream, item: &syn::Item, sources: &mut Sources) -> Outcome<Door> {
    let mut reader = Reader::new(sources);
    let mut head = Head::default();
    reader.head(args, &mut head);
    let described = reader.described(item);
    if let Some(structure) = described {
        reader.refuse_lost_attributes(&structure.attrs);
        reader.refuse_mla_attributes(&structure.attrs);
    }
    let read = match (described, head.spec.clone()) {
        (Some(structure), Some((key, path))) => {
            reader.spec_is_alone(key, &head, structure);
            Some(Door::Spec { path })
        }
        (Some(structure), None) => {
            reader.refuse_lost_field_attributes(&structure.fields);
            reader.layer(&head, structure).map(Door::Document)
        }
        (None, _) => None,
    };
    reader.outcome(read, head.krate)
}

/// Reads the `#[mla(...)]` attributes of an `item` under `#[derive(MlaLayer)]`.
pub fn derive(item: &syn::Item, sources: &mut Sources) -> Outcome<Document> {
    let mut reader = Reader::new(sources);
    let mut head = Head::default();
    let described = reader.described(item);
    let read = described.and_then(|structure| {
        for tokens in reader.mla_arguments(&structure.attrs) {
            reader.head(tokens, &mut head);
        }
        if let Some((key, _)) = &head.spec {
            reader.error(
                Diagnostic::error(
                    SPEC_ALONE,
                    "a derive describes its layer itself",
                    *key,
                    "`spec` is not read here",
                )
                .help("write `#[mla_layer(spec = \"...\")]` instead of the derive"),
            );
        }
        reader.layer(&head, structure)
    });
    reader.outcome(read, head.krate)
}

/// The arguments of the layer itself.
#[derive(Default)]
struct Head {
    spec: Option<(Span, syn::LitStr)>,
    krate: Option<syn::Path>,
    entries: Vec<Entry>,
}

impl Head {
    fn take(&self, key: &str) -> Option<Entry> {
        self.entries
            .iter()
            .find(|entry| entry.key.value == key)
            .cloned()
    }
}

/// The keys of a layer's arguments that are not its parameters.
const SECTIONS: [&str; 3] = ["mla", "module", "build"];

struct Reader<'a> {
    sources: &'a mut Sources,
    spans: TokenSpans,
    diagnostics: Diagnostics,
}

impl<'a> Reader<'a> {
    fn new(sources: &'a mut Sources) -> Self {
        Self {
            sources,
            spans: TokenSpans::default(),
            diagnostics: Diagnostics::new(),
        }
    }

    fn outcome<T>(self, read: Option<T>, krate: Option<syn::Path>) -> Outcome<T> {
        let read = match read {
            Some(read) if self.diagnostics.is_empty() => Ok(read),
            _ => Err(self.diagnostics),
        };
        Outcome {
            read,
            krate,
            spans: self.spans,
        }
    }

    fn place(&mut self, span: proc_macro2::Span) -> Span {
        self.spans.0.push(span);
        self.sources.add_place(Place::Token(self.spans.0.len() - 1))
    }

    fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reads the arguments of the layer itself into `head`.
    fn head(&mut self, args: TokenStream, head: &mut Head) {
        for chunk in values::chunks(args) {
            match chunk.key().as_deref() {
                Some("crate") => self.krate(&chunk, head),
                Some("spec") => self.spec_path(&chunk, head),
                _ => head.entries.extend(self.argument(&chunk, 0)),
            }
        }
        self.refuse_duplicates(&head.entries);
        for (key, help) in [
            ("name", "the struct's name is the layer's name"),
            (
                "params",
                "write the parameters straight into the attribute, as `hidden_size = 2048`",
            ),
            (
                "submodules",
                "write the slots as fields of the struct, as `linear_proj: RowParallelLinear`",
            ),
        ] {
            if let Some(entry) = head.take(key) {
                let message = format!("`{key}` is not an argument of a layer");
                self.error(
                    Diagnostic::error(MISPLACED, message, entry.key.span, "the struct says this")
                        .help(help),
                );
            }
        }
    }

    fn krate(&mut self, chunk: &Chunk, head: &mut Head) {
        match syn::parse2::<syn::Path>(chunk.value()) {
            Ok(path) if chunk.has_equals() => head.krate = Some(path),
            _ => {
                let span = self.place(chunk.span());
                self.error(
                    Diagnostic::error(
                        ARGUMENT,
                        "`crate` is the path of the runtime",
                        span,
                        "expected `crate = path`",
                    )
                    .help("write `crate = ::mla_runtime`, or leave it out"),
                );
            }
        }
    }

    fn spec_path(&mut self, chunk: &Chunk, head: &mut Head) {
        let span = self.place(chunk.span());
        match syn::parse2::<syn::LitStr>(chunk.value()) {
            Ok(path) if chunk.has_equals() => match &head.spec {
                None => head.spec = Some((span, path)),
                Some((first, _)) => self.error(
                    Diagnostic::error(
                        DUPLICATE_KEY,
                        "`spec` is written twice",
                        span,
                        "written again",
                    )
                    .and(*first, "first written here")
                    .help("keep one of them"),
                ),
            },
            _ => self.error(
                Diagnostic::error(
                    ARGUMENT,
                    "`spec` is the path of a spec file",
                    span,
                    "expected `spec = \"...\"`",
                )
                .help("the path is a string, relative to the folder of Cargo.toml"),
            ),
        }
    }

    fn spec_is_alone(&mut self, key: Span, head: &Head, structure: &syn::ItemStruct) {
        for entry in &head.entries {
            let message = format!("`{}` stands beside `spec`", entry.key.value);
            self.error(
                Diagnostic::error(
                    SPEC_ALONE,
                    message,
                    entry.key.span,
                    "the file says this already",
                )
                .and(key, "the layer is described there")
                .help("move it into the file, or leave `spec` out"),
            );
        }
        if !matches!(structure.fields, syn::Fields::Unit) {
            let span = self.place(structure.ident.span());
            let name = &structure.ident;
            self.error(
                Diagnostic::error(
                    SPEC_ALONE,
                    "a layer described by a file has no slots here",
                    span,
                    "has fields",
                )
                .and(key, "the layer is described there")
                .help(format!("write `struct {name};`, or leave `spec` out")),
            );
        }
    }

    /// The layer that the arguments and the fields describe.
    fn layer(&mut self, head: &Head, structure: &syn::ItemStruct) -> Option<Document> {
        let name_span = self.place(structure.ident.span());
        let slots = self.slots(&structure.fields);
        let or = |key: &str, default: Scalar| {
            head.take(key)
                .unwrap_or_else(|| entry(key, Node::scalar(default, name_span)))
        };
        let params: Vec<_> = head
            .entries
            .iter()
            .filter(|entry| !SECTIONS.contains(&entry.key.value.as_str()))
            .cloned()
            .collect();
        let mut entries = vec![
            or("mla", Scalar::Int(super::document::LANGUAGE_VERSION)),
            entry(
                "name",
                Node::scalar(Scalar::Str(values::plain(&structure.ident)), name_span),
            ),
            or("module", Scalar::Str("MLASelfAttention".to_owned())),
            entry(
                "params",
                Node {
                    kind: NodeKind::Map(params),
                    span: name_span,
                },
            ),
            entry(
                "submodules",
                Node {
                    kind: NodeKind::Map(slots),
                    span: name_span,
                },
            ),
        ];
        entries.extend(head.take("build"));
        if !self.diagnostics.is_empty() {
            return None;
        }
        match super::document(&Node {
            kind: NodeKind::Map(entries),
            span: name_span,
        }) {
            Ok(document) => Some(document),
            Err(diagnostics) => {
                self.diagnostics.extend(diagnostics);
                None
            }
        }
    }

    fn refuse_duplicates(&mut self, entries: &[Entry]) {
        for (at, again) in entries.iter().enumerate() {
            if let Some(first) = entries[..at]
                .iter()
                .find(|first| first.key.value == again.key.value)
            {
                let message = format!("`{}` is written twice", again.key.value);
                self.error(
                    Diagnostic::error(DUPLICATE_KEY, message, again.key.span, "written again")
                        .and(first.key.span, "first written here")
                        .help("keep one of them"),
                );
            }
        }
    }
}

/// An entry whose key nobody wrote.
fn entry(key: &str, value: Node) -> Entry {
    Entry {
        key: Spanned::new(key.to_owned(), value.span),
        value,
    }
}
