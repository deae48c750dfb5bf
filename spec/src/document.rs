//! What a spec says, as written: names and values with their spans, nothing proved.

use crate::node::Node;
use crate::span::{Span, Spanned};

/// A whole spec file, or what a macro's arguments amount to. Equality ignores spans.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Version of the language: `mla: 1`.
    pub mla: Spanned<i64>,
    /// Name of the generated layer or model, not yet known to be an identifier.
    pub name: Spanned<String>,
    /// What is described.
    pub body: Body,
    /// The `build:` section, where one was written.
    pub build: Option<Node>,
}

/// What a [`Document`] describes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Body {
    /// One attention layer.
    Layer(ModuleSpec),
    /// The attention layers of a model.
    Model(ModelSpec),
}

/// The `model:` section, a mapping: named layers, and which of them stands where. [`crate::check_model()`] reads it;
/// [`crate::ModelDocument`] writes one.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The mapping, as written.
    pub node: Node,
}

/// Megatron-Core's ModuleSpec: a module, its parameters, and the specs of its submodules.
#[derive(Debug, Clone)]
pub struct ModuleSpec {
    /// Name of the module, such as `MLASelfAttention`.
    pub module: Spanned<String>,
    /// Its parameters, in the order written.
    pub params: Vec<Param>,
    /// Its submodules, in the order written.
    pub submodules: Vec<Submodule>,
    /// The module's name where the spec is a bare name, else its first key.
    pub span: Span,
}

impl PartialEq for ModuleSpec {
    fn eq(&self, other: &Self) -> bool {
        self.module == other.module
            && self.params == other.params
            && self.submodules == other.submodules
    }
}

/// One parameter of a [`ModuleSpec`].
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name.
    pub key: Spanned<String>,
    /// Its value.
    pub value: Node,
}

/// One filled slot of a [`ModuleSpec`].
#[derive(Debug, Clone, PartialEq)]
pub struct Submodule {
    /// Name of the slot.
    pub slot: Spanned<String>,
    /// What fills it.
    pub spec: ModuleSpec,
}

impl ModuleSpec {
    /// The parameter with this name.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.key.value == name)
    }

    /// The submodule in this slot.
    pub fn submodule(&self, slot: &str) -> Option<&Submodule> {
        self.submodules
            .iter()
            .find(|submodule| submodule.slot.value == slot)
    }
}
