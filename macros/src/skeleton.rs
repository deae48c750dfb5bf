//! What stands in for a layer that has errors, so that the user's other code resolves and only our errors show.

use mla_spec::{Body, Document, NodeKind, Scalar};
use proc_macro2::TokenStream;
use quote::quote;

use crate::layer::{Companion, Frame};

/// A layer with every name a generated one has, whose functions never run: the errors beside it stop compilation.
pub(crate) fn expand(frame: &Frame<'_>, hidden_size: Option<usize>) -> TokenStream {
    let (name, runtime) = (&frame.name, frame.runtime_inside());
    // An unknown width is whatever the user's code says it is.
    let (generic, width) = match hidden_size {
        Some(size) => (quote!(), quote!(#size)),
        None => (quote!(const W: usize), quote!(W)),
    };
    let size = hidden_size.unwrap_or(0);
    let never = quote!(::core::panic!("this layer has errors"));
    let step = quote! {
        <E, #generic>(&self, _: &mut Cache<B, E>, _: &#runtime::Batch, _: &#runtime::Rows<B, #width>)
            -> #runtime::Result<#runtime::Rows<B, #width>> { #never }
    };
    let body = quote! {
        pub const HIDDEN_SIZE: usize = #size;

        pub struct #name<B: #runtime::Backend = #runtime::Cpu>(::core::marker::PhantomData<B>);

        impl<B: #runtime::Backend> #name<B> {
            pub fn load(_: &#runtime::Weights, _: &str, _: &B::Device) -> #runtime::Result<Self> { #never }
            pub fn forward<#generic>(&self, _: &#runtime::Rows<B, #width>, _: &[u32], _: &#runtime::Mask)
                -> #runtime::Result<#runtime::Rows<B, #width>> { #never }
            pub fn prefill #step
            pub fn decode #step
            pub fn mixed #step
            pub fn forward_train<#generic>(&self, _: &#runtime::Rows<B, #width>, _: &[u32], _: &#runtime::Mask)
                -> #runtime::Result<(#runtime::Rows<B, #width>, Saved<B>)> { #never }
            pub fn backward<#generic>(
                &self,
                _: Saved<B>,
                _: &#runtime::Rows<B, #width>,
                _: &#runtime::Rows<B, #width>,
                _: &mut Parameters<B>,
            ) -> #runtime::Result<InputGradients<B, #width>> { #never }
        }

        pub struct Saved<B: #runtime::Backend>(::core::marker::PhantomData<B>);

        pub struct InputGradients<B: #runtime::Backend, const WIDTH: usize> {
            pub hidden: #runtime::Rows<B, WIDTH>,
        }

        pub struct Parameters<B: #runtime::Backend = #runtime::Cpu>(::core::marker::PhantomData<B>);

        impl<B: #runtime::Backend> Parameters<B> {
            pub fn zeros(_: &B::Device) -> #runtime::Result<Self> { #never }
        }

        pub struct Cache<B: #runtime::Backend = #runtime::Cpu, E = f32>(::core::marker::PhantomData<(B, E)>);

        impl<B: #runtime::Backend, E> Cache<B, E> {
            pub fn contiguous(_: &B::Device, _: usize, _: usize) -> #runtime::Result<Self> { #never }
            pub fn paged(_: &B::Device, _: usize) -> #runtime::Result<Self> { #never }
        }
    };
    let lints = quote!(#[allow(missing_docs, dead_code, nonstandard_style, clippy::all)]);
    frame.around(&lints, &body, &[Companion::Cache, Companion::Parameters])
}

/// The width of the residual stream, where a refused document says it.
pub(crate) fn hidden_size(document: &Document) -> Option<usize> {
    let Body::Layer(layer) = &document.body else {
        return None;
    };
    match layer.param("hidden_size")?.value.kind {
        NodeKind::Scalar(Scalar::Int(size)) => usize::try_from(size).ok(),
        _ => None,
    }
}
