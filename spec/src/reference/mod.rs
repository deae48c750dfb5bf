//! Every key of the language: what it takes, what it means, its formula, its default and where it comes from.
//!
//! This is the one place that says so. The JSON Schema ([`crate::schema`]), the book's pages on the language ([`pages`]), what
//! `mla-gen explain KEY` prints ([`explain`]) and the list of known keys that did-you-mean goes by are all made from it.

mod build;
mod find;
mod grouped;
mod latent;
mod layer;
mod markdown;
mod model;
mod modules;
mod pages;
mod rope;
mod scores;
mod sparse;

pub(crate) use build::BUILD;
pub use find::{Place, explain, places};
pub(crate) use grouped::{CROSS_SLOTS, SELF_SLOTS};
pub(crate) use latent::LATENT_SLOTS;
pub use layer::{Body, FILES, File};
pub(crate) use layer::{LAYERS, NAME, VERSION};
pub use markdown::{anchor, pages};
pub(crate) use sparse::{INDEXER_SLOTS, SPARSE_SLOTS};

/// Keys that stand side by side in one mapping.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// What the mapping is, in one sentence.
    pub about: &'static str,
    /// Its keys, in groups; a group may be part of several mappings.
    pub groups: &'static [&'static [Key]],
}

impl Section {
    /// Its keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.groups.iter().copied().flatten()
    }
}

/// One key of a mapping.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub value: Value,
    /// Whether it has to be there.
    pub given: Given,
    /// What it means, in a sentence or two of plain text: the description in the JSON Schema.
    pub means: &'static str,
    /// More than that, in Markdown; may be empty.
    pub detail: &'static str,
    /// What is computed, a line each; may be empty.
    pub formula: &'static str,
    /// An excerpt of a spec, as those of [`crate::explain`]; may be empty.
    pub example: &'static str,
    /// Where the option, its name or its formula comes from; may be empty.
    pub source: &'static str,
}

/// Whether a key has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Always.
    Required,
    /// Never. What its absence means follows from what it means.
    Optional,
    /// Never; writing this value changes nothing.
    Default(&'static str),
    /// Where this holds, and nowhere else.
    When(&'static str),
}

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// A number of elements or heads: an integer from this one on.
    Size(u32),
    /// An even number of elements from this one on.
    Even(u32),
    /// A number of tokens, 0 included.
    Tokens,
    /// A number.
    Number,
    /// A number above 0.
    Positive,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Words(&'static [Word]),
    /// A list of distinct words.
    List(&'static [Word]),
    /// A list of numbers.
    Numbers,
    /// A number above 0, or one of these words.
    PositiveOr(&'static [Word]),
    /// Two numbers of tokens, -1 for no bound.
    Window,
    /// A mapping.
    Table(&'static Section),
    /// The module in a slot: one of these, written as a word or as a mapping.
    Slot(&'static [Filling]),
    /// Something that occurs once.
    Special(Special),
}

/// Values that occur once in the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// The number 1.
    Version,
    /// A type's name.
    TypeName,
    /// The parameters of the layer's module.
    Params,
    /// The slots of the layer's module.
    Submodules,
    /// A prefix of tensors' names.
    Prefix,
    /// A list of first layers.
    Stages,
    /// Named layers.
    Layers,
    /// Names of layers, with repetitions.
    Pattern,
    /// Attentions and whose output they use.
    Sources,
}

/// A word that a key takes.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// As it is written.
    pub word: &'static str,
    /// What it means.
    pub means: &'static str,
    /// What is computed; may be empty.
    pub formula: &'static str,
}

/// A word and what it means.
const fn word(word: &'static str, means: &'static str) -> Word {
    Word {
        word,
        means,
        formula: "",
    }
}

/// A word, what it means and what is computed.
const fn formula(word: &'static str, means: &'static str, formula: &'static str) -> Word {
    Word {
        word,
        means,
        formula,
    }
}

/// Modules that may fill a slot, and what they take there.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// One of these.
    pub modules: &'static [Word],
    /// Their parameters.
    pub params: &'static [Key],
    /// Their slots.
    pub submodules: &'static [Key],
}

impl Filling {
    /// Whether a module's name alone says it all.
    pub fn is_bare(&self) -> bool {
        let mut keys = self.params.iter().chain(self.submodules);
        keys.all(|key| key.given != Given::Required)
    }
}

const fn key(name: &'static str, value: Value, given: Given, means: &'static str) -> Key {
    Key {
        name,
        value,
        given,
        means,
        detail: "",
        formula: "",
        example: "",
        source: "",
    }
}

impl Key {
    const fn detail(self, detail: &'static str) -> Self {
        Self { detail, ..self }
    }

    const fn formula(self, formula: &'static str) -> Self {
        Self { formula, ..self }
    }

    const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    const fn source(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    /// What it means, and its default or where it belongs, as one line.
    pub fn description(&self) -> String {
        match self.given {
            Given::Required | Given::Optional => self.means.to_owned(),
            Given::Default(value) => format!("{} Default: {value}.", self.means),
            Given::When(condition) => format!("{} Only {condition}.", self.means),
        }
    }
}

/// Whether the language has a key of this name among parameters or in `build`, at any depth.
pub(crate) fn has_key(name: &str) -> bool {
    fn among<'a>(keys: impl Iterator<Item = &'a Key>, name: &str) -> bool {
        let mut keys = keys;
        keys.any(|key| key.name == name || below(key, name))
    }
    // A slot's name is no parameter; those of its modules are.
    fn below(key: &Key, name: &str) -> bool {
        match key.value {
            Value::Table(section) => among(section.keys(), name),
            Value::Slot(fillings) => fillings.iter().any(|filling| {
                among(filling.params.iter(), name)
                    || filling.submodules.iter().any(|slot| below(slot, name))
            }),
            _ => false,
        }
    }
    FILES.iter().any(|file| match file.body {
        layer::Body::Layer { params, submodules } => {
            among(params.keys(), name) || submodules.keys().any(|slot| below(slot, name))
        }
        layer::Body::Model(_) => false,
    }) || among(build::BUILD.keys(), name)
}
