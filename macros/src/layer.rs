//! A checked layer as tokens: the emitted module, and the names it is used by.

use mla_codegen::{Options, Origin};
use mla_spec::{Checked, Phase};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};

/// The attributes of a struct that its layer takes over; any other one is refused, and not carried to where it would
/// mean something else.
const CARRIED: [&str; 6] = ["doc", "cfg", "allow", "expect", "warn", "deny"];

/// A type that stands beside the layer under the layer's name and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Companion {
    Cache,
    Parameters,
}

impl Companion {
    fn name(self) -> &'static str {
        match self {
            Companion::Cache => "Cache",
            Companion::Parameters => "Parameters",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Companion::Cache => "The cache of",
            Companion::Parameters => "Gradients, master weights or moments of",
        }
    }

    /// Those that a layer's phases call for.
    fn of(checked: &Checked) -> Vec<Self> {
        let runs = |phases: &[Phase]| {
            checked
                .build
                .phases
                .iter()
                .any(|phase| phases.contains(phase))
        };
        let cache =
            runs(&[Phase::Prefill, Phase::Decode, Phase::Mixed]).then_some(Companion::Cache);
        let parameters = runs(&[Phase::Train]).then_some(Companion::Parameters);
        cache.into_iter().chain(parameters).collect()
    }
}

/// What an expansion keeps of the user's struct.
pub(crate) struct Frame<'a> {
    /// Name of the layer, with the span of the struct's name.
    pub(crate) name: Ident,
    /// The struct's visibility.
    pub(crate) vis: &'a syn::Visibility,
    /// Attributes for the layer: doc comments and lint levels.
    pub(crate) attrs: Vec<&'a syn::Attribute>,
    /// `cfg`s, which every emitted item needs.
    pub(crate) cfgs: Vec<&'a syn::Attribute>,
    /// Where the runtime is, as seen from the struct.
    pub(crate) runtime: syn::Path,
}

impl<'a> Frame<'a> {
    /// `krate` is what `crate = path` says.
    pub(crate) fn new(item: &'a syn::ItemStruct, name: Ident, krate: Option<syn::Path>) -> Self {
        let is = |attribute: &syn::Attribute, name: &str| attribute.path().is_ident(name);
        let (cfgs, attrs) = item
            .attrs
            .iter()
            .filter(|attribute| CARRIED.iter().any(|carried| is(attribute, carried)))
            .partition(|attribute| is(attribute, "cfg"));
        let runtime = krate.unwrap_or_else(|| syn::parse_quote!(::mla_runtime));
        Self {
            name,
            vis: &item.vis,
            attrs,
            cfgs,
            runtime,
        }
    }

    /// The module that holds the layer, and the names that the layer and its `companions` are used by beside it.
    pub(crate) fn around(
        &self,
        lints: &TokenStream,
        body: &TokenStream,
        companions: &[Companion],
    ) -> TokenStream {
        let Frame {
            name,
            vis,
            attrs,
            cfgs,
            ..
        } = self;
        let module = self.module();
        let (docs, levels): (Vec<&syn::Attribute>, Vec<_>) = attrs
            .iter()
            .copied()
            .partition(|attribute| attribute.path().is_ident("doc"));
        let about = format!("[`{name}`] and the types it works with, as mla-gen emits them.");
        let companions = companions.iter().map(|companion| {
            let inner = Ident::new(companion.name(), Span::call_site());
            let (alias, doc) = (
                format_ident!("{name}{inner}"),
                format!("{} [`{name}`].", companion.about()),
            );
            quote! {
                #(#cfgs)*
                #[doc = #doc]
                #[allow(unused_imports)]
                #vis use self::#module::#inner as #alias;
            }
        });
        quote! {
            #(#cfgs)*
            #[doc = #about]
            #(#levels)*
            #lints
            #vis mod #module { #body }
            #(#cfgs)*
            #(#docs)*
            #[doc(inline)]
            #[allow(unused_imports)]
            #vis use self::#module::#name;
            #(#companions)*
        }
    }

    /// Where the runtime is, as seen from the layer's module: a level further up after `self` or `super`.
    pub(crate) fn runtime_inside(&self) -> syn::Path {
        let mut path = self.runtime.clone();
        match path.segments.first_mut() {
            Some(first) if first.ident == "self" => {
                first.ident = Ident::new("super", first.ident.span())
            }
            Some(first) if first.ident == "super" => {
                path.segments
                    .insert(0, Ident::new("super", Span::call_site()).into());
            }
            _ => {}
        }
        path
    }

    /// Name of the module that the layer stands in.
    fn module(&self) -> Ident {
        let layer = self.name.to_string();
        let mut name = mla_codegen::module_name(&layer);
        // A refused layer `in_snake_case` can't have a module of its own name; nor one with a letter that no name has, any.
        if name == layer || syn::parse_str::<Ident>(&name).is_err() {
            name.push_str("_layer");
        }
        Ident::new(&name, Span::call_site())
    }
}

/// The emitted module of a checked layer and its names, or a message for the user. `shown` is what the spec is called.
pub(crate) fn expand(
    checked: &Checked,
    frame: &Frame<'_>,
    shown: &str,
) -> Result<TokenStream, String> {
    let origin = Origin {
        spec: shown.to_owned(),
        command: None,
    };
    let runtime = frame
        .runtime_inside()
        .to_token_stream()
        .to_string()
        .replace(' ', "");
    let options = Options {
        runtime,
        tests: false,
        ..Options::new(origin)
    };
    let text = mla_codegen::emit_module_text(checked, &options);
    let body: TokenStream = text
        .parse()
        .map_err(|error| format!("this is a bug in mla-codegen, please report it: {error}"))?;
    let companions = Companion::of(checked);
    Ok(frame.around(&quote!(#[allow(dead_code)]), &body, &companions))
}
