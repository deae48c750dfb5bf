//! YAML and Rust are two spellings of one language: the same documents, and the same errors.

mod rust_layers;

// Layers that compile, each an ordinary module of this test: the attribute, the derive and a path.
#[path = "../ui/pass/deepseek_v3.rs"]
mod deepseek_v3;
#[path = "../ui/pass/moonlight.rs"]
mod moonlight;
#[path = "../ui/pass/nope_odd.rs"]
mod nope_odd;
#[path = "../ui/pass/odd_small.rs"]
mod odd_small;
#[path = "../ui/pass/youtu.rs"]
mod youtu;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mla_runtime::Cpu;
use mla_runtime::proof::{self, Failure, Sample, Verdict};
use mla_spec::{Code, Diagnostics, Document, Severity, Sources, check, read};
use rust_layers::{RustLayer, files, stem};

/// Specs whose name no struct can have, so that there is nothing to pair them with.
const NOT_IN_RUST: [&str; 2] = ["name_injects_code", "name_is_self"];

/// A spec with more mistakes than its name, whose struct is called otherwise.
const NAMED_OTHERWISE: &str = "everything_at_once";

/// The codes of refused names.
const NAME_CODES: [Code; 2] = [Code(109), Code(110)];

fn specs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut specs: Vec<_> = entries
        .map(|entry| entry.expect("a folder entry").path())
        .collect();
    specs.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    specs.sort();
    specs
}

fn from_yaml(path: &Path) -> (Option<Document>, Diagnostics) {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match read::yaml(&mut Sources::default(), "spec.yaml", &text) {
        Ok(document) => {
            let diagnostics = check(&document).1;
            (Some(document), diagnostics)
        }
        Err(diagnostics) => (None, diagnostics),
    }
}

fn from_rust(path: &Path) -> RustLayer {
    let mut layers = rust_layers::read(path);
    assert_eq!(layers.len(), 1, "{} describes one layer", path.display());
    layers.remove(0)
}

#[test]
fn yaml_and_rust_agree() {
    let mut paired = 0;
    for yaml in specs("specs/err") {
        let name = stem(&yaml);
        let rust = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("ui")
            .join(name)
            .with_extension("rs");
        if NOT_IN_RUST.contains(&name) {
            assert!(!rust.exists(), "{name} can be written in Rust");
            continue;
        }
        if !rust.exists() {
            continue; // the corpus of the checks is larger than that of the macros
        }
        let (mut document, diagnostics) = from_yaml(&yaml);
        let layer = from_rust(&rust);
        let named_otherwise = name == NAMED_OTHERWISE;
        if let (Some(document), Some(other), true) =
            (&mut document, &layer.document, named_otherwise)
        {
            document.name = other.name.clone();
        }
        assert_eq!(document, layer.document, "{name}");
        assert_eq!(
            said(diagnostics, named_otherwise),
            layer
                .errors
                .into_iter()
                .map(|error| (error.code, error.message))
                .collect(),
            "{name}"
        );
        paired += 1;
    }
    assert!(paired >= 40, "{paired} pairs");
}

/// What the errors say, whatever their order: a struct's name stands behind its parameters, a spec's before them.
fn said(diagnostics: Diagnostics, without_name: bool) -> BTreeSet<(Code, String)> {
    let errors = diagnostics
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error);
    errors
        .filter(|error| !(without_name && NAME_CODES.contains(&error.code)))
        .map(|error| (error.code, error.message))
        .collect()
}

#[test]
fn models_are_the_same_through_every_door() {
    let mut compared = 0;
    for path in files("ui/pass") {
        let layer = from_rust(&path);
        assert_eq!(layer.errors, [], "{}", path.display());
        let document = layer.document.expect("a document without errors");
        let model = format!("{}.yaml", stem(&path).replace('_', "-"));
        let yaml = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../spec/models")
            .join(model);
        assert_eq!(
            from_yaml(&yaml).0.as_ref(),
            Some(&document),
            "{}",
            path.display()
        );
        compared += 1;
    }
    assert!(compared >= 4, "{compared} models");
}

#[test]
fn an_attribute_computes_what_the_generated_module_computes() -> Verdict {
    type Generated = mla_generated::odd_small::OddSmallAttention<Cpu<f64>>;
    let pair: Result<(odd_small::OddSmallAttention<Cpu<f64>>, Generated), Failure> =
        proof::load_pair(1);
    let (layer, generated) = pair?;
    proof::same_forward("macro = module", &layer, &generated, &Sample::short(1))?;
    proof::same_prefill("macro = module", &layer, &generated, &Sample::short(1))?;
    proof::same_decode("macro = module", &layer, &generated, &Sample::short(1))
}

#[test]
fn a_derive_computes_what_the_generated_module_computes() -> Verdict {
    type Generated = mla_generated::nope_odd::NopeOddAttention<Cpu<f64>>;
    let (layer, generated) = proof::load_pair::<nope_odd::Layer, Generated, _>(1)?;
    proof::same_forward("macro = module", &layer, &generated, &Sample::short(1))?;
    proof::same_prefill("macro = module", &layer, &generated, &Sample::short(1))?;
    proof::same_decode("macro = module", &layer, &generated, &Sample::short(1))
}

/// A layer must not be called as something that its own module imports or defines.
#[test]
fn names_that_generated_code_uses_are_refused() {
    let generated = Path::new(env!("CARGO_MANIFEST_DIR")).join("../generated/src");
    let entries = std::fs::read_dir(generated).expect("the generated layers are readable");
    let modules = entries.map(|entry| entry.expect("a folder entry").path().join("mod.rs"));
    let modules: Vec<PathBuf> = modules.filter(|module| module.is_file()).collect();
    assert!(!modules.is_empty(), "no generated layer");
    let document = from_rust(&files("ui/pass")[0])
        .document
        .expect("a valid layer");
    for module in modules {
        let text = std::fs::read_to_string(&module).expect("a generated module is readable");
        let file =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", module.display()));
        for name in file.items.iter().flat_map(names) {
            let mut called = document.clone();
            called.name.value.clone_from(&name);
            assert!(
                check(&called).0.is_none(),
                "`{name}`, as {} has it, can be a layer's name",
                module.display()
            );
        }
    }
}

/// The names that a module's item brings into scope where types are looked up, but for the layer itself. A constant and
/// a struct may share a name.
fn names(item: &syn::Item) -> Vec<String> {
    match item {
        syn::Item::Use(item) => imported(&item.tree),
        syn::Item::Type(item) => vec![item.ident.to_string()],
        _ => Vec::new(),
    }
}

fn imported(tree: &syn::UseTree) -> Vec<String> {
    match tree {
        syn::UseTree::Path(path) => imported(&path.tree),
        syn::UseTree::Name(name) => vec![name.ident.to_string()],
        syn::UseTree::Rename(rename) => vec![rename.rename.to_string()],
        syn::UseTree::Glob(_) => Vec::new(),
        syn::UseTree::Group(group) => group.items.iter().flat_map(imported).collect(),
    }
}
