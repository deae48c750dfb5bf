//! The shared pass: from a tree of nodes to a document, collecting every error of shape.

use super::{
    EMPTY, MISSING_KEY, MISSING_MODULE, NOT_A_MAPPING, NOT_A_SUBMODULE, TWO_BODIES,
    UNKNOWN_SPEC_KEY, UNKNOWN_TOP_LEVEL_KEY, VERSION, WRONG_KIND,
};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::document::{Body, Document, ModelSpec, ModuleSpec, Param, Submodule};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::suggest::suggest;

/// The version of the language that this release reads.
pub(crate) const LANGUAGE_VERSION: i64 = 1;
/// The keys of a spec file, in the order they are written.
pub(crate) const TOP_LEVEL_KEYS: [&str; 6] =
    ["mla", "name", "module", "params", "submodules", "build"];
/// The keys of a model's spec file, in the order they are written.
pub(crate) const MODEL_FILE_KEYS: [&str; 4] = ["mla", "name", "model", "build"];
/// Keys that describe a layer.
const LAYER_KEYS: [&str; 3] = ["module", "params", "submodules"];
/// The keys of a submodule's spec.
pub(crate) const SPEC_KEYS: [&str; 3] = ["module", "params", "submodules"];

/// Turns a tree into a document.
///
/// Knows the shape of the language only: which sections there are and what kind of value each holds. Names of
/// modules, parameters and slots are `check`'s business.
///
/// # Errors
///
/// Every error of shape, in the order of the text.
pub fn document(root: &Node) -> Result<Document, Diagnostics> {
    let mut shape = Shape {
        diagnostics: Diagnostics::new(),
    };
    match shape.document(root) {
        Some(document) if shape.diagnostics.is_empty() => Ok(document),
        _ => Err(in_order_of_the_text(shape.diagnostics)),
    }
}

/// The spec of a named layer: a mapping with the keys of a submodule's spec.
///
/// # Errors
///
/// Every error of shape.
pub(crate) fn named_spec(entry: &Entry) -> Result<ModuleSpec, Diagnostics> {
    let mut shape = Shape {
        diagnostics: Diagnostics::new(),
    };
    match shape.submodule(entry) {
        Some(submodule) if shape.diagnostics.is_empty() => Ok(submodule.spec),
        _ => Err(shape.diagnostics),
    }
}

fn in_order_of_the_text(diagnostics: Diagnostics) -> Diagnostics {
    let mut list: Vec<_> = diagnostics.into_iter().collect();
    list.sort_by_key(|diagnostic| diagnostic.primary.span);
    let mut sorted = Diagnostics::new();
    list.into_iter()
        .for_each(|diagnostic| sorted.push(diagnostic));
    sorted
}

/// The pass; a method answers `None` only after it has pushed a diagnostic.
struct Shape {
    diagnostics: Diagnostics,
}

impl Shape {
    fn document(&mut self, root: &Node) -> Option<Document> {
        let entries = match &root.kind {
            NodeKind::Map(entries) if !entries.is_empty() => entries,
            NodeKind::Map(_) | NodeKind::Scalar(Scalar::Null) => return self.empty(root.span),
            _ => return self.not_a_mapping(root),
        };
        if let Some(model) = find(entries, "model") {
            return self.model(entries, model, root.span);
        }
        self.unknown_keys(entries, &TOP_LEVEL_KEYS, UNKNOWN_TOP_LEVEL_KEY, "a spec");
        let mla = self.version(entries, root.span);
        let name = self.name(entries, root.span);
        let module = match find(entries, "module") {
            Some(entry) => self.string(entry, "the name of a module"),
            None => self.missing(root.span, "module", "add `module: MLASelfAttention`"),
        };
        let params = self.params(entries);
        let submodules = self.submodules(entries);
        let build = self.build(entries);
        let body = ModuleSpec {
            module: module?,
            params: params?,
            submodules: submodules?,
            span: root.span,
        };
        Some(Document {
            mla: mla?,
            name: name?,
            body: Body::Layer(body),
            build: build?,
        })
    }

    /// A file that describes a model.
    fn model(&mut self, entries: &[Entry], model: &Entry, root: Span) -> Option<Document> {
        let (of_a_layer, others): (Vec<_>, Vec<_>) = entries
            .iter()
            .cloned()
            .partition(|entry| LAYER_KEYS.contains(&entry.key.value.as_str()));
        for entry in of_a_layer {
            let message = format!(
                "`{}` describes a layer, and `model` a model",
                entry.key.value
            );
            let label = "a spec describes one of them";
            self.diagnostics.push(
                Diagnostic::error(TWO_BODIES, message, entry.key.span, label)
                    .and(model.key.span, "the model")
                    .help("write it below one of the layers in `model.layers`, or remove `model`"),
            );
        }
        self.unknown_keys(
            &others,
            &MODEL_FILE_KEYS,
            UNKNOWN_TOP_LEVEL_KEY,
            "a spec of a model",
        );
        let mla = self.version(entries, root);
        let name = self.name(entries, root);
        let build = self.build(entries);
        let node = match &model.value.kind {
            NodeKind::Map(_) => Some(model.value.clone()),
            _ => self.wrong_kind(model, "a mapping of layers and where they stand"),
        };
        Some(Document {
            mla: mla?,
            name: name?,
            body: Body::Model(ModelSpec { node: node? }),
            build: build?,
        })
    }

    fn empty<T>(&mut self, span: Span) -> Option<T> {
        self.diagnostics.push(
            Diagnostic::error(
                EMPTY,
                "the spec is empty",
                span,
                "nothing is described here",
            )
            .help("`mla-gen init` writes a commented spec to start from"),
        );
        None
    }

    fn not_a_mapping<T>(&mut self, root: &Node) -> Option<T> {
        let message = format!("a spec is a mapping, found {}", root.kind_name());
        self.diagnostics.push(
            Diagnostic::error(
                NOT_A_MAPPING,
                message,
                root.span,
                "expected `key: value` lines",
            )
            .help(format!(
                "the keys of a spec are {}",
                listed(&TOP_LEVEL_KEYS)
            )),
        );
        None
    }

    fn version(&mut self, entries: &[Entry], root: Span) -> Option<Spanned<i64>> {
        let Some(entry) = find(entries, "mla") else {
            return self.missing(root, "mla", "add `mla: 1`, the version of the language");
        };
        match entry.value.kind {
            NodeKind::Scalar(Scalar::Int(LANGUAGE_VERSION)) => {
                Some(Spanned::new(LANGUAGE_VERSION, entry.value.span))
            }
            NodeKind::Scalar(Scalar::Int(other)) => {
                let message = format!("version {other} of the language is not known");
                self.diagnostics.push(
                    Diagnostic::error(
                        VERSION,
                        message,
                        entry.value.span,
                        "this release reads version 1",
                    )
                    .help("write `mla: 1`"),
                );
                None
            }
            _ => {
                let message = format!(
                    "`mla` is the version of the language, found {}",
                    entry.value.kind_name()
                );
                self.diagnostics.push(
                    Diagnostic::error(VERSION, message, entry.value.span, "expected `1`")
                        .help("write `mla: 1`"),
                );
                None
            }
        }
    }

    fn name(&mut self, entries: &[Entry], root: Span) -> Option<Spanned<String>> {
        match find(entries, "name") {
            Some(entry) => self.string(entry, "the name of the layer"),
            None => self.missing(
                root,
                "name",
                "add `name:` and the name of the Rust type to generate",
            ),
        }
    }

    fn string(&mut self, entry: &Entry, wanted: &str) -> Option<Spanned<String>> {
        match &entry.value.kind {
            NodeKind::Scalar(Scalar::Str(text)) => {
                Some(Spanned::new(text.clone(), entry.value.span))
            }
            _ => self.wrong_kind(entry, wanted),
        }
    }

    fn params(&mut self, entries: &[Entry]) -> Option<Vec<Param>> {
        let entries = self.section(entries, "params", "a mapping of parameters")?;
        let param = |entry: &Entry| Param {
            key: entry.key.clone(),
            value: entry.value.clone(),
        };
        Some(entries.iter().map(param).collect())
    }

    fn submodules(&mut self, entries: &[Entry]) -> Option<Vec<Submodule>> {
        let entries = self.section(entries, "submodules", "a mapping of slots")?;
        // Not `collect::<Option<_>>`, which would stop at the first broken slot.
        let specs: Vec<_> = entries.iter().map(|entry| self.submodule(entry)).collect();
        specs.into_iter().collect()
    }

    fn submodule(&mut self, entry: &Entry) -> Option<Submodule> {
        let spec = match &entry.value.kind {
            NodeKind::Scalar(Scalar::Str(name)) => ModuleSpec {
                module: Spanned::new(name.clone(), entry.value.span),
                params: Vec::new(),
                submodules: Vec::new(),
                span: entry.value.span,
            },
            NodeKind::Map(entries) => self.spec(entry, entries)?,
            _ => return self.not_a_submodule(entry),
        };
        Some(Submodule {
            slot: entry.key.clone(),
            spec,
        })
    }

    fn spec(&mut self, slot: &Entry, entries: &[Entry]) -> Option<ModuleSpec> {
        let owner = format!("the spec of `{}`", slot.key.value);
        self.unknown_keys(entries, &SPEC_KEYS, UNKNOWN_SPEC_KEY, &owner);
        let module = match find(entries, "module") {
            Some(entry) => self.string(entry, "the name of a module"),
            None => {
                let message = format!("{owner} does not say which module");
                self.diagnostics.push(
                    Diagnostic::error(
                        MISSING_MODULE,
                        message,
                        slot.key.span,
                        "this slot has no `module`",
                    )
                    .help("add `module: ..`, the name of the module that fills the slot"),
                );
                None
            }
        };
        let params = self.params(entries);
        let submodules = self.submodules(entries);
        Some(ModuleSpec {
            module: module?,
            params: params?,
            submodules: submodules?,
            span: slot.value.span,
        })
    }

    fn not_a_submodule<T>(&mut self, slot: &Entry) -> Option<T> {
        let name = &slot.key.value;
        let message = format!("slot `{name}` holds {}", slot.value.kind_name());
        self.diagnostics.push(
            Diagnostic::error(NOT_A_SUBMODULE, message, slot.value.span, "expected a module")
                .note("a slot is filled by a module's name, or by a mapping with `module` and perhaps `params` and `submodules`")
                .help(format!("write `{name}: IdentityOp` if the slot is meant to do nothing, else name its module")),
        );
        None
    }

    fn build(&mut self, entries: &[Entry]) -> Option<Option<Node>> {
        match find(entries, "build") {
            None => Some(None),
            Some(entry) if matches!(entry.value.kind, NodeKind::Map(_)) => {
                Some(Some(entry.value.clone()))
            }
            Some(entry) => self.wrong_kind(entry, "a mapping of build options"),
        }
    }

    /// The entries of a section; none where the section is absent.
    fn section<'a>(
        &mut self,
        entries: &'a [Entry],
        key: &str,
        wanted: &str,
    ) -> Option<&'a [Entry]> {
        match find(entries, key) {
            None => Some(&[]),
            Some(Entry {
                value:
                    Node {
                        kind: NodeKind::Map(entries),
                        ..
                    },
                ..
            }) => Some(entries),
            Some(entry) => self.wrong_kind(entry, wanted),
        }
    }

    fn wrong_kind<T>(&mut self, entry: &Entry, wanted: &str) -> Option<T> {
        let (key, found) = (&entry.key.value, entry.value.kind_name());
        let diagnostic = Diagnostic::error(
            WRONG_KIND,
            format!("`{key}` is {wanted}, found {found}"),
            entry.value.span,
            format!("this is {found}"),
        );
        self.diagnostics.push(match entry.value.kind {
            NodeKind::Scalar(Scalar::Null) => {
                diagnostic.help(format!("fill `{key}`, or leave it out if it may be absent"))
            }
            NodeKind::Scalar(Scalar::Int(_) | Scalar::Float(_) | Scalar::Bool(_))
                if wanted.starts_with("the name") =>
            {
                diagnostic.help("a name starts with a letter")
            }
            _ => diagnostic.help(format!("write {wanted} here")),
        });
        None
    }

    fn missing<T>(&mut self, root: Span, key: &str, help: &str) -> Option<T> {
        let message = format!("`{key}` is missing");
        let label = format!("this spec has no `{key}`");
        self.diagnostics
            .push(Diagnostic::error(MISSING_KEY, message, root, label).help(help));
        None
    }

    fn unknown_keys(&mut self, entries: &[Entry], known: &[&'static str], code: Code, owner: &str) {
        for Entry { key, .. } in entries
            .iter()
            .filter(|entry| !known.contains(&entry.key.value.as_str()))
        {
            let message = format!("unknown key `{}` in {owner}", key.value);
            let diagnostic =
                Diagnostic::error(code, message, key.span, "not a key of the language");
            self.diagnostics
                .push(match suggest(&key.value, known.iter().copied()) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                    None => diagnostic.help(format!(
                        "the keys are {}; parameters of a module go below `params`",
                        listed(known)
                    )),
                });
        }
    }
}

fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key.value == key)
}

/// `` `a`, `b` and `c` ``.
fn listed(keys: &[&str]) -> String {
    let quoted: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
