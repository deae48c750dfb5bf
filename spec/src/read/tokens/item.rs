//! A struct's shape: fields as slots, field attributes as their parameters.

use proc_macro2::TokenStream;
use syn::spanned::Spanned as _;

use super::super::{ARGUMENT, FIELD_TYPE, GENERIC_STRUCT, LOST_ATTRIBUTE, MISPLACED, NOT_A_STRUCT};
use super::{Reader, entry, values};
use crate::diagnostic::Diagnostic;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::Spanned;

/// Attributes that an expansion carries over, or that say nothing about the layer.
const KEPT: [&str; 7] = ["doc", "cfg", "allow", "expect", "warn", "deny", "mla"];

impl Reader<'_> {
    /// The struct that describes a layer, if `item` is one.
    pub(super) fn described<'i>(&mut self, item: &'i syn::Item) -> Option<&'i syn::ItemStruct> {
        let syn::Item::Struct(structure) = item else {
            return self.not_a_struct(name_span(item), "this is no struct");
        };
        if matches!(structure.fields, syn::Fields::Unnamed(_)) {
            return self.not_a_struct(structure.ident.span(), "its fields have no names");
        }
        if !structure.generics.params.is_empty() || structure.generics.where_clause.is_some() {
            let span = self.place(structure.generics.span());
            self.error(
                Diagnostic::error(
                    GENERIC_STRUCT,
                    "a described layer has no generic parameters",
                    span,
                    "not allowed here",
                )
                .note("the generated layer is generic over its backend by itself")
                .help("remove the parameters"),
            );
        }
        Some(structure)
    }

    fn not_a_struct<T>(&mut self, span: proc_macro2::Span, label: &str) -> Option<T> {
        let span = self.place(span);
        self.error(
            Diagnostic::error(
                NOT_A_STRUCT,
                "a layer is described by a struct with named fields",
                span,
                label,
            )
            .help("write one field per slot, as `linear_proj: RowParallelLinear`"),
        );
        None
    }

    /// The fields as slots.
    pub(super) fn slots(&mut self, fields: &syn::Fields) -> Vec<Entry> {
        let slots: Vec<_> = fields.iter().filter_map(|field| self.slot(field)).collect();
        self.refuse_duplicates(&slots);
        slots
    }

    fn slot(&mut self, field: &syn::Field) -> Option<Entry> {
        let name = field.ident.as_ref()?;
        let module = self.module(&field.ty);
        let mut params = Vec::new();
        for tokens in self.mla_arguments(&field.attrs) {
            params.extend(self.arguments(tokens, 0));
        }
        self.refuse_duplicates(&params);
        let module = module?;
        for (key, help) in [
            ("module", "the field's type is the module"),
            (
                "params",
                "write the parameters straight into `#[mla(...)]`, as `eps = 1e-6`",
            ),
        ] {
            if let Some(entry) = params.iter().find(|entry| entry.key.value == key) {
                let message = format!("`{key}` is not an argument of a slot");
                self.error(
                    Diagnostic::error(MISPLACED, message, entry.key.span, "the field says this")
                        .help(help),
                );
            }
        }
        let submodules = params
            .iter()
            .position(|entry| entry.key.value == "submodules")
            .map(|at| params.remove(at));
        let key = Spanned::new(values::plain(name), self.place(name.span()));
        if params.is_empty() && submodules.is_none() {
            return Some(Entry { key, value: module });
        }
        let span = module.span;
        let mut spec = vec![entry("module", module)];
        if !params.is_empty() {
            spec.push(entry(
                "params",
                Node {
                    kind: NodeKind::Map(params),
                    span,
                },
            ));
        }
        spec.extend(submodules);
        Some(Entry {
            key,
            value: Node {
                kind: NodeKind::Map(spec),
                span,
            },
        })
    }

    /// The module that a field's type names: the last segment of its path.
    fn module(&mut self, ty: &syn::Type) -> Option<Node> {
        if let syn::Type::Group(group) = ty {
            return self.module(&group.elem); // a type from a `macro_rules!` variable
        }
        if let syn::Type::Path(syn::TypePath {
            qself: None, path, ..
        }) = ty
            && let Some(last) = path.segments.last()
            && path
                .segments
                .iter()
                .all(|segment| segment.arguments.is_none())
        {
            let span = self.place(last.ident.span());
            return Some(Node::scalar(Scalar::Str(values::plain(&last.ident)), span));
        }
        let span = self.place(ty.span());
        self.error(
            Diagnostic::error(
                FIELD_TYPE,
                "a field's type names a module",
                span,
                "not a plain name",
            )
            .help("write the module's name, as `linear_proj: RowParallelLinear`"),
        );
        None
    }

    /// What stands inside every `#[mla(...)]` of a list of attributes.
    pub(super) fn mla_arguments(&mut self, attributes: &[syn::Attribute]) -> Vec<TokenStream> {
        let mut arguments = Vec::new();
        for attribute in attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("mla"))
        {
            match &attribute.meta {
                syn::Meta::List(list)
                    if matches!(list.delimiter, syn::MacroDelimiter::Paren(_)) =>
                {
                    arguments.push(list.tokens.clone());
                }
                meta => {
                    let span = self.place(meta.span());
                    self.error(
                        Diagnostic::error(
                            ARGUMENT,
                            "`mla` takes its arguments in parentheses",
                            span,
                            "none here",
                        )
                        .help("write `#[mla(key = value)]`"),
                    );
                }
            }
        }
        arguments
    }

    pub(super) fn refuse_mla_attributes(&mut self, attributes: &[syn::Attribute]) {
        for attribute in attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("mla"))
        {
            let span = self.place(attribute.path().span());
            self.error(
                Diagnostic::error(
                    MISPLACED,
                    "`#[mla(...)]` on the struct belongs to the derive",
                    span,
                    "not read here",
                )
                .help("write its arguments into `#[mla_layer(...)]`"),
            );
        }
    }

    pub(super) fn refuse_lost_field_attributes(&mut self, fields: &syn::Fields) {
        for field in fields {
            for attribute in field
                .attrs
                .iter()
                .filter(|attribute| attribute.path().is_ident("cfg"))
            {
                self.lost(attribute);
            }
            self.refuse_lost_attributes(&field.attrs);
        }
    }

    /// `#[mla_layer]` replaces the item, so an attribute it doesn't know would silently disappear.
    pub(super) fn refuse_lost_attributes(&mut self, attributes: &[syn::Attribute]) {
        for attribute in attributes
            .iter()
            .filter(|attribute| !KEPT.iter().any(|kept| attribute.path().is_ident(kept)))
        {
            self.lost(attribute);
        }
    }

    fn lost(&mut self, attribute: &syn::Attribute) {
        let span = self.place(attribute.path().span());
        let name = attribute
            .path()
            .segments
            .last()
            .map(|segment| segment.ident.to_string())
            .unwrap_or_default();
        self.error(
            Diagnostic::error(
                LOST_ATTRIBUTE,
                format!("`#[{name}]` has no meaning here"),
                span,
                "would be lost",
            )
            .note("`#[mla_layer]` replaces the struct by the generated layer")
            .help("remove it, or keep the struct with `#[derive(MlaLayer)]`"),
        );
    }
}

/// Where an item's name stands: its first token may be one of its attributes.
fn name_span(item: &syn::Item) -> proc_macro2::Span {
    match item {
        syn::Item::Enum(item) => item.ident.span(),
        syn::Item::Union(item) => item.ident.span(),
        syn::Item::Fn(item) => item.sig.ident.span(),
        syn::Item::Mod(item) => item.ident.span(),
        syn::Item::Trait(item) => item.ident.span(),
        syn::Item::Type(item) => item.ident.span(),
        other => other.span(),
    }
}
