//! What a spec holds at its top.

use super::build::BUILD;
use super::grouped::{CROSS_PARAMS, CROSS_SLOTS, SELF_PARAMS, SELF_SLOTS};
use super::latent::{LATENT_SLOTS, PARAMS};
use super::model::MODEL;
use super::{Given, Key, Section, Special, Value, Word, key, word};

/// A kind of spec.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// The module that is described, or `model`.
    pub name: &'static str,
    /// What stands in it.
    pub body: Body,
}

/// What a kind of spec describes.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    /// A layer.
    Layer {
        /// Its parameters.
        params: &'static Section,
        /// Its slots.
        submodules: &'static Section,
    },
    /// A model.
    Model(&'static Section),
}

/// Every kind of spec.
pub static FILES: [File; 4] = [
    File {
        name: "MLASelfAttention",
        body: Body::Layer {
            params: &PARAMS,
            submodules: &LATENT_SLOTS,
        },
    },
    File {
        name: "SelfAttention",
        body: Body::Layer {
            params: &SELF_PARAMS,
            submodules: &SELF_SLOTS,
        },
    },
    File {
        name: "CrossAttention",
        body: Body::Layer {
            params: &CROSS_PARAMS,
            submodules: &CROSS_SLOTS,
        },
    },
    File {
        name: "model",
        body: Body::Model(&MODEL),
    },
];

/// The modules that a layer may be.
pub(crate) const LAYERS: [Word; 3] = [
    word(
        "MLASelfAttention",
        "Multi-head Latent Attention over one sequence: keys and values come from a latent that all heads share.",
    ),
    word(
        "SelfAttention",
        "Grouped-query attention over one sequence; multi-head and multi-query attention are its ends.",
    ),
    word("CrossAttention", "Attention from one sequence to another."),
];

/// What stands at the top of every spec.
pub(crate) const VERSION: Key = key(
    "mla",
    Value::Special(Special::Version),
    Given::Required,
    "Version of the language.",
);

/// The name of a layer or a model.
pub(crate) const NAME: Key = key(
    "name",
    Value::Special(Special::TypeName),
    Given::Required,
    "Name of the generated Rust type, in upper camel case.",
)
.detail(
    "The names that generated code itself uses, such as `Cache`, and those of types in scope there, such as `Linear`, are refused. \
     A folder that `mla-gen build` writes is called as the type, in snake case.",
);

const MODULE: Key = key(
    "module",
    Value::Words(&LAYERS),
    Given::Required,
    "What the layer is.",
)
.source("Megatron-Core's modules of these names.");

const PARAMETERS: Key = key(
    "params",
    Value::Special(Special::Params),
    Given::Required,
    "The layer's sizes and options.",
)
.detail(
    "There is no default for what changes numbers and checkpoints disagree on: those are required. Keys are in the pages on \
     each module.",
);

const SLOTS: Key = key(
    "submodules",
    Value::Special(Special::Submodules),
    Given::Required,
    "What fills each of the layer's slots: a module's name, or a mapping with `module`, `params` and `submodules`.",
)
.detail("Slot names are Megatron-Core's. `RMSNorm` and `{ module: RMSNorm }` are the same.");

const BUILD_SECTION: Key = key(
    "build",
    Value::Table(&BUILD),
    Given::Optional,
    "How the layer is computed.",
)
.detail("Nothing in here changes the mathematics. Leave the section out for its defaults.");

const MODEL_SECTION: Key = key(
    "model",
    Value::Table(&MODEL),
    Given::When("in a model's spec, in place of `module`, `params` and `submodules`"),
    "A model's attention layers.",
);

/// A spec file.
pub(super) static SPEC: Section = Section {
    about: "One layer, or the layers of a model.",
    groups: &[&[
        VERSION,
        NAME,
        MODULE,
        PARAMETERS,
        SLOTS,
        BUILD_SECTION,
        MODEL_SECTION,
    ]],
};
