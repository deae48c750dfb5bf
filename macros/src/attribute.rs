//! `#[mla_layer(...)]`.

use mla_spec::read::tokens::{self, Door, TokenSpans};
use mla_spec::{Document, Sources, check};
use proc_macro2::TokenStream;
use quote::quote;

use crate::layer::{self, Frame};
use crate::{errors, skeleton, spec_file};

/// The expansion of `#[mla_layer(args)]` on `item`.
pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let parsed: syn::Item = match syn::parse2(item.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            let error = error.into_compile_error();
            return quote!(#error #item);
        }
    };
    let mut sources = Sources::default();
    let outcome = tokens::attribute(args, &parsed, &mut sources);
    let syn::Item::Struct(structure) = &parsed else {
        let errors = outcome
            .read
            .err()
            .map(|errors| errors::of_tokens(&errors, &sources, &outcome.spans));
        return quote!(#errors #item);
    };
    let frame = Frame::new(structure, structure.ident.clone(), outcome.krate);
    match outcome.read {
        Ok(Door::Document(document)) => from_document(&document, &sources, &outcome.spans, &frame),
        Ok(Door::Spec { path }) => from_file(&path, &frame),
        Err(errors) => {
            let errors = errors::of_tokens(&errors, &sources, &outcome.spans);
            let skeleton = skeleton::expand(&frame, None);
            quote!(#errors #skeleton)
        }
    }
}

fn from_document(
    document: &Document,
    sources: &Sources,
    spans: &TokenSpans,
    frame: &Frame<'_>,
) -> TokenStream {
    let (checked, diagnostics) = check(document);
    let diagnostics = errors::of_tokens(&diagnostics, sources, spans);
    let layer = match checked {
        Some(checked) => emitted(
            layer::expand(&checked, frame, &frame.name.to_string()),
            document,
            frame,
        ),
        None => skeleton::expand(frame, skeleton::hidden_size(document)),
    };
    quote!(#diagnostics #layer)
}

fn from_file(path: &syn::LitStr, frame: &Frame<'_>) -> TokenStream {
    let file = spec_file::read(path);
    let mut tokens = file.tokens;
    let Some(document) = file.document else {
        tokens.extend(skeleton::expand(frame, None));
        return tokens;
    };
    let (checked, diagnostics) = check(&document);
    tokens.extend(errors::of_file(&diagnostics, &file.sources, path));
    tokens.extend(match checked {
        Some(_) if frame.name != document.name.value => other_name(&document, frame),
        Some(checked) => emitted(
            layer::expand(&checked, frame, &path.value()),
            &document,
            frame,
        ),
        None => skeleton::expand(frame, skeleton::hidden_size(&document)),
    });
    tokens
}

/// The file and the struct name two layers.
fn other_name(document: &Document, frame: &Frame<'_>) -> TokenStream {
    let (written, name) = (&document.name.value, &frame.name);
    let message = format!(
        "the file describes `{written}`, the struct is `{name}` [{}]\n  help: name both alike",
        mla_spec::read::OTHER_NAME
    );
    let error = errors::at(name.span(), &message);
    let skeleton = skeleton::expand(frame, skeleton::hidden_size(document));
    quote!(#error #skeleton)
}

/// The layer, or what is left of it where the compiler itself failed.
pub(crate) fn emitted(
    layer: Result<TokenStream, String>,
    document: &Document,
    frame: &Frame<'_>,
) -> TokenStream {
    layer.unwrap_or_else(|message| {
        let error = errors::at(frame.name.span(), &message);
        let skeleton = skeleton::expand(frame, skeleton::hidden_size(document));
        quote!(#error #skeleton)
    })
}
