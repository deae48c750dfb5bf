//! Layers described in a Rust file, read as the macros read them, but inside of the test.

use std::path::{Path, PathBuf};

use mla_spec::read::tokens::{self, Door, Outcome, TokenSpans};
use mla_spec::read::{self, OTHER_BODY, OTHER_NAME, SPEC_FILE};
use mla_spec::{Body, Code, Diagnostics, Document, Place, Severity, Sources, Span, check};
use proc_macro2::TokenStream;

/// A layer of a Rust file.
pub(crate) struct RustLayer {
    /// What was read, where reading succeeded.
    pub(crate) document: Option<Document>,
    /// Every error, in the order the macro reports them.
    pub(crate) errors: Vec<Found>,
}

/// An error and the token it points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Line and column, both counted from one, as rustc counts them.
    pub(crate) at: (usize, usize),
    /// The token itself.
    pub(crate) token: String,
}

/// Every layer that the file at `path` describes, those of inner modules included.
pub(crate) fn read(path: &Path) -> Vec<RustLayer> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let folder = path.parent().expect("a file lies in a folder");
    let mut layers = Vec::new();
    below(&file.items, folder, &mut layers);
    layers
}

fn below(items: &[syn::Item], folder: &Path, layers: &mut Vec<RustLayer>) {
    for item in items {
        if let syn::Item::Mod(module) = item {
            below(
                module.content.as_ref().map_or(&[], |(_, items)| items),
                folder,
                layers,
            );
        } else if let Some((args, item)) = under_attribute(item) {
            layers.push(from_attribute(args, &item, folder));
        } else if is_derived(item) {
            let mut sources = Sources::default();
            let outcome = tokens::derive(item, &mut sources);
            layers.push(checked(outcome.read, &sources, &outcome.spans));
        }
    }
}

/// What `#[mla_layer(...)]` is given: its arguments, and the item without it.
fn under_attribute(item: &syn::Item) -> Option<(TokenStream, syn::Item)> {
    let mut item = item.clone();
    let attributes = attributes(&mut item)?;
    let is_ours = |attribute: &syn::Attribute| {
        attribute
            .path()
            .segments
            .last()
            .is_some_and(|last| last.ident == "mla_layer")
    };
    let at = attributes.iter().position(is_ours)?;
    match attributes.remove(at).meta {
        syn::Meta::List(list) => Some((list.tokens, item)),
        _ => Some((TokenStream::new(), item)),
    }
}

fn is_derived(item: &syn::Item) -> bool {
    let names_derive = |attribute: &syn::Attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("derive") => {
            list.tokens.to_string().contains("MlaLayer")
        }
        _ => false,
    };
    attributes(&mut item.clone()).is_some_and(|attributes| attributes.iter().any(names_derive))
}

fn attributes(item: &mut syn::Item) -> Option<&mut Vec<syn::Attribute>> {
    match item {
        syn::Item::Struct(item) => Some(&mut item.attrs),
        syn::Item::Enum(item) => Some(&mut item.attrs),
        syn::Item::Union(item) => Some(&mut item.attrs),
        syn::Item::Fn(item) => Some(&mut item.attrs),
        _ => None,
    }
}

fn from_attribute(args: TokenStream, item: &syn::Item, folder: &Path) -> RustLayer {
    let mut sources = Sources::default();
    let Outcome { read, spans, .. } = tokens::attribute(args, item, &mut sources);
    match read {
        Ok(Door::Document(document)) => checked(Ok(document), &sources, &spans),
        Ok(Door::Spec { path }) => from_file(&path, item, folder),
        Err(errors) => checked(Err(errors), &sources, &spans),
    }
}

fn checked(
    read: Result<Document, Diagnostics>,
    sources: &Sources,
    spans: &TokenSpans,
) -> RustLayer {
    let at = |span: Span| match sources.place(span) {
        Some(Place::Token(index)) => spans.get(*index).expect("every token place has a span"),
        place => panic!("{place:?} is no token"),
    };
    let (document, diagnostics) = split(read);
    RustLayer {
        document,
        errors: errors(diagnostics, at),
    }
}

/// All that is wrong in a file is reported at the literal that names it.
fn from_file(path: &syn::LitStr, item: &syn::Item, folder: &Path) -> RustLayer {
    let candidates =
        [Path::new(env!("CARGO_MANIFEST_DIR")), folder].map(|folder| folder.join(path.value()));
    let Some(text) = candidates
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok())
    else {
        let error = found(SPEC_FILE, "no such file", path.span());
        return RustLayer {
            document: None,
            errors: vec![error],
        };
    };
    let (document, diagnostics) = split(read::yaml(&mut Sources::default(), &path.value(), &text));
    if document
        .as_ref()
        .is_some_and(|document| !matches!(document.body, Body::Layer(_)))
    {
        return RustLayer {
            document: None,
            errors: vec![found(OTHER_BODY, "not a layer", path.span())],
        };
    }
    let mut errors = errors(diagnostics, |_| path.span());
    if let (Some(document), syn::Item::Struct(structure), true) =
        (&document, item, errors.is_empty())
        && structure.ident != document.name.value
    {
        errors.push(found(OTHER_NAME, "another name", structure.ident.span()));
    }
    RustLayer { document, errors }
}

fn split(read: Result<Document, Diagnostics>) -> (Option<Document>, Diagnostics) {
    match read {
        Ok(document) => {
            let diagnostics = check(&document).1;
            (Some(document), diagnostics)
        }
        Err(diagnostics) => (None, diagnostics),
    }
}

fn errors(diagnostics: Diagnostics, at: impl Fn(Span) -> proc_macro2::Span) -> Vec<Found> {
    let errors = diagnostics
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error);
    errors
        .map(|error| found(error.code, error.message, at(error.primary.span)))
        .collect()
}

fn found(code: Code, message: impl Into<String>, at: proc_macro2::Span) -> Found {
    let start = at.start();
    Found {
        code,
        message: message.into(),
        at: (start.line, start.column + 1),
        token: at.source_text().unwrap_or_default(),
    }
}

/// The Rust files directly below a folder of this crate, sorted.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a folder entry").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.sort();
    files
}

/// A file's name without its extension.
pub(crate) fn stem(path: &Path) -> &str {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .expect("names of test files are UTF-8")
}
