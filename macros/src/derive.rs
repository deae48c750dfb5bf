//! `#[derive(MlaLayer)]`.

use mla_spec::read::tokens;
use mla_spec::{Sources, check};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::layer::{self, Frame};
use crate::{attribute, errors, skeleton};

/// What the derive adds beside `item`.
pub(crate) fn expand(item: TokenStream) -> TokenStream {
    let parsed: syn::Item = match syn::parse2(item) {
        Ok(parsed) => parsed,
        Err(error) => return error.into_compile_error(),
    };
    let mut sources = Sources::default();
    let outcome = tokens::derive(&parsed, &mut sources);
    let refused = outcome
        .read
        .as_ref()
        .err()
        .map(|errors| errors::of_tokens(errors, &sources, &outcome.spans));
    let syn::Item::Struct(structure) = &parsed else {
        return refused.unwrap_or_default();
    };
    let name = format_ident!("{}Layer", structure.ident);
    let mut frame = Frame::new(structure, name, outcome.krate);
    frame.attrs.clear(); // they stay on the struct
    let document = outcome.read.ok();
    let (checked, diagnostics) = document.as_ref().map(check).unwrap_or_default();
    let diagnostics = errors::of_tokens(&diagnostics, &sources, &outcome.spans);
    let layer = match (checked, &document) {
        (Some(mut checked), Some(document)) => {
            checked.layer.name = frame.name.to_string();
            let layer = layer::expand(&checked, &frame, &structure.ident.to_string());
            let layer = attribute::emitted(layer, document, &frame);
            let used = used(structure);
            quote!(#layer #used)
        }
        _ => skeleton::expand(&frame, document.as_ref().and_then(skeleton::hidden_size)),
    };
    let describes = describes(structure, &frame);
    quote!(#refused #diagnostics #layer #describes)
}

/// Ties the description to its layer.
fn describes(structure: &syn::ItemStruct, frame: &Frame<'_>) -> TokenStream {
    if !structure.generics.params.is_empty() {
        return TokenStream::new(); // refused already; a second error would say nothing new
    }
    let (
        description,
        Frame {
            name,
            cfgs,
            runtime,
            ..
        },
    ) = (&structure.ident, frame);
    quote! {
        #(#cfgs)*
        impl #runtime::Describes for #description {
            type Layer<B: #runtime::Backend> = #name<B>;
        }
    }
}

/// A description is only read by the derive; this keeps rustc from calling it dead code.
fn used(structure: &syn::ItemStruct) -> TokenStream {
    let name = &structure.ident;
    let fields: Vec<_> = structure
        .fields
        .iter()
        .filter_map(|field| field.ident.as_ref())
        .collect();
    quote! {
        const _: fn() = || {
            let description = #name { #(#fields: ::core::default::Default::default()),* };
            let _ = (#(&description.#fields,)*);
        };
    }
}
