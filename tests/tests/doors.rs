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

use std::path::{Path, PathBuf};

use mla_runtime::Cpu;
use mla_runtime::proof::{self, Failure, Sample, Verdict};
use mla_spec::{Body, Code, Document, Place, Severity, Sources, check, read};
use rust_layers::{RustLayer, files, stem};

/// Specs whose name no struct can have, so that there is nothing to pair them with.
const NOT_IN_RUST: [&str; 2] = ["name_injects_code", "name_is_self"];

/// An error's code, its message, and the text that it points at.
type Said = (Code, String, String);

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

/// A spec, and what is wrong with it: codes, messages, and the text that each points at.
fn from_yaml(path: &Path) -> (Option<Document>, Vec<Said>) {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut sources = Sources::default();
    let (document, diagnostics) = match read::yaml(&mut sources, "spec.yaml", &text) {
        Ok(document) => {
            let diagnostics = check(&document).1;
            (Some(document), diagnostics)
        }
        Err(diagnostics) => (None, diagnostics),
    };
    let pointed = |span| match sources.place(span) {
        Some(Place::Text { range, .. }) => text[range.clone()].to_owned(),
        place => panic!("{place:?} is no text"),
    };
    let errors = diagnostics
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error);
    let said = errors
        .map(|error| (error.code, error.message, pointed(error.primary.span)))
        .collect();
    (document, said)
}

fn from_rust(path: &Path) -> RustLayer {
    let mut layers = rust_layers::read(path);
    assert_eq!(layers.len(), 1, "{} describes one layer", path.display());
    layers.remove(0)
}

#[test]
fn yaml_and_rust_agree() {
    let mut paired = 0;
    let mut elsewhere = Vec::new();
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
        let (mut document, mut said) = from_yaml(&yaml);
        let mut layer = from_rust(&rust);
        let named_otherwise = name == NAMED_OTHERWISE;
        if named_otherwise {
            said.retain(|(code, ..)| !NAME_CODES.contains(code));
        }
        if let (Some(document), Some(other), true) =
            (&mut document, &layer.document, named_otherwise)
        {
            document.name = other.name.clone();
        }
        assert_eq!(document, layer.document, "{name}");
        // A struct's name stands behind its parameters, a spec's before them.
        said.sort();
        layer
            .errors
            .sort_by(|a, b| (a.code, &a.message).cmp(&(b.code, &b.message)));
        let texts = said.iter().map(|(code, message, _)| (*code, message));
        let others = layer
            .errors
            .iter()
            .map(|found| (found.code, &found.message));
        assert!(texts.eq(others), "{name}:\n{said:?}\n{:?}", layer.errors);
        for ((code, message, pointed), found) in said.iter().zip(&layer.errors) {
            if !same_token(pointed, &found.token, layer.document.as_ref()) {
                elsewhere.push(format!(
                    "{name}: {code} {message}: `{pointed}` in YAML, `{}` in Rust",
                    found.token
                ));
            }
        }
        paired += 1;
    }
    assert!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
    assert!(paired >= 190, "{paired} pairs");
}

/// Whether two spellings are of one token. A list is its bracket in YAML, and whole in Rust; a negative number is a sign and a
/// number in Rust. What a layer lacks is said at its module in YAML, and at its name in Rust, where the module often goes
/// without saying.
fn same_token(yaml: &str, rust: &str, document: Option<&Document>) -> bool {
    let bare = |text: &str| text.trim_matches(['"', '\'']).to_owned();
    let number = |text: &str| text.trim_start_matches('-').parse::<f64>().ok();
    let (a, b) = (bare(yaml), bare(rust));
    a == b
        || a == "[" && b.starts_with('[')
        || number(&a).is_some_and(|value| number(&b) == Some(value))
        || document.is_some_and(|document| {
            let module = match &document.body {
                Body::Layer(spec) => Some(&spec.module.value),
                _ => None,
            };
            module == Some(&a) && b == document.name.value
        })
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
