//! The reference of keys: the book's pages are current, the schema has exactly its keys, and defaults are what absence means.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mla_spec::reference::{self, Given, Value as Takes, places};
use mla_spec::{Body, Document, Sources, check, check_model, explain, read, schema};
use serde_json::Value;

fn book(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/book/src/language")
        .join(file)
}

#[test]
fn the_pages_are_current() {
    for (file, text) in reference::pages() {
        let path = book(file);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == text,
            "{} is stale: BLESS=1 cargo test -p mla-spec --test reference",
            path.display()
        );
    }
}

/// Paths of keys in a schema of one kind of spec.
fn paths(schema: &Value, above: &str, found: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (key, value) in properties {
            let path = if above.is_empty() {
                key.clone()
            } else {
                format!("{above}.{key}")
            };
            // How a module is written is no key of its own
            let of_a_slot = above.starts_with("submodules.");
            if !(of_a_slot && ["module", "params", "submodules"].contains(&key.as_str())) {
                found.insert(path.clone());
            }
            paths(value, &path, found);
        }
    }
    for shape in schema["anyOf"].as_array().into_iter().flatten() {
        paths(shape, above, found);
    }
}

#[test]
fn every_key_of_the_schema_is_told_and_the_other_way_round() {
    let schema: Value = serde_json::from_str(&schema::json_schema()).unwrap();
    let kinds = schema["anyOf"].as_array().unwrap();
    assert_eq!(kinds.len(), reference::FILES.len());
    for (schema, file) in kinds.iter().zip(&reference::FILES) {
        let mut in_schema = BTreeSet::new();
        paths(schema, "", &mut in_schema);
        let absent = match file.name {
            "model" => ["module", "params", "submodules"].as_slice(),
            _ => &["model"],
        };
        let told: BTreeSet<String> = places()
            .iter()
            .filter(|place| place.file.is_none_or(|other| other == file.name))
            .map(|place| place.path.join("."))
            .chain((file.name == "model").then(|| "model".to_owned()))
            .filter(|path| !absent.contains(&path.as_str()))
            .collect();
        assert_eq!(in_schema, told, "{}", file.name);
    }
}

#[test]
fn every_key_has_its_heading_on_a_page() {
    let pages: String = reference::pages()
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    for place in places() {
        let name = place.key.name;
        let headed = pages
            .lines()
            .filter(|line| line.starts_with('#'))
            .any(|line| {
                line.ends_with(&format!(" `{name}`")) || line.ends_with(&format!(".{name}`"))
            });
        assert!(headed, "{name}");
    }
}

#[test]
fn every_key_says_what_it_means() {
    for place in places() {
        let key = place.key;
        let path = place.path.join(".");
        assert!(key.means.ends_with('.'), "{path}: {}", key.means);
        assert!(
            key.detail.is_empty() || key.detail.ends_with('.'),
            "{path}: {}",
            key.detail
        );
        if let Takes::Words(words) | Takes::List(words) | Takes::PositiveOr(words) = key.value {
            assert!(words.iter().all(|word| word.means.ends_with('.')), "{path}");
        }
        assert!(explain::whole(key.example).ends_with('\n'));
    }
}

fn document(text: &str) -> Document {
    let mut sources = Sources::default();
    read::yaml(&mut sources, "spec.yaml", text).unwrap_or_else(|found| panic!("{found:?}\n{text}"))
}

/// What a spec is checked to, spans left out.
fn checked(text: &str) -> String {
    let document = document(text);
    match &document.body {
        Body::Layer(_) => {
            let (layer, found) = check(&document);
            format!("{:?}", layer.unwrap_or_else(|| panic!("{found:?}\n{text}")))
        }
        _ => {
            let (model, found) = check_model(&document);
            format!("{:?}", model.unwrap_or_else(|| panic!("{found:?}\n{text}")))
        }
    }
}

/// A default is the value that changes nothing where it is written.
#[test]
fn defaults_are_what_absence_means() {
    let mut seen = 0;
    for place in places() {
        let Given::Default(value) = place.key.given else {
            continue;
        };
        let name = place.key.name;
        let path = &place.path;
        let (with, without) = match path.as_slice() {
            ["params", "rope", "truncate"] => {
                let rope = |more: &str| {
                    format!(
                        "params:\n  rope: {{ type: yarn, theta: 10000.0, layout: half, factor: 40.0, original_max_position_embeddings: 4096, beta_fast: 32.0, beta_slow: 1.0, mscale: 1.0, mscale_all_dim: 1.0{more} }}\n"
                    )
                };
                (rope(&format!(", truncate: {value}")), rope(""))
            }
            ["params" | "build", key] => {
                (format!("{}:\n  {key}: {value}\n", path[0]), String::new())
            }
            ["model", key] => {
                let layers = "  num_hidden_layers: 4\n";
                (
                    format!("model:\n{layers}  {key}: {value}\n"),
                    format!("model:\n{layers}"),
                )
            }
            ["build", table, key] => (
                format!("build:\n  {table}: {{ {key}: {value} }}\n"),
                String::new(),
            ),
            [
                "submodules",
                slot @ ("linear_proj" | "linear_kv_down_proj"),
                "params",
                "bias",
            ] => {
                let module = match *slot {
                    "linear_proj" => "RowParallelLinear",
                    _ => "Linear",
                };
                let slot = format!("submodules:\n  {slot}:");
                let written =
                    format!("{slot} {{ module: {module}, params: {{ bias: {value} }} }}\n");
                (written, format!("{slot} {module}\n"))
            }
            // The same parameter of a slot that the bases don't fill
            ["submodules", _, "params", "bias"] => continue,
            [
                "submodules",
                "core_attention",
                "submodules",
                "indexer",
                "params",
                key,
            ] => {
                let indexer = |more: &str| {
                    format!(
                        "submodules:\n  core_attention:\n    module: SparseAttention\n    submodules:\n      indexer:\n        module: LightningIndexer\n        params: {{ num_heads: 4, head_dim: 128, topk: 64, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true{more} }}\n        submodules: {{ linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: Linear, k_norm: {{ module: LayerNorm, params: {{ eps: 1.0e-6 }} }} }}\n"
                    )
                };
                (indexer(&format!(", {key}: {value}")), indexer(""))
            }
            other => panic!("no spec to try the default of {other:?} in"),
        };
        let module = match place.file {
            Some(file @ ("SelfAttention" | "CrossAttention")) => format!("module: {file}\n"),
            _ => String::new(),
        };
        let spec = |text: &str| explain::whole(&format!("{module}{text}"));
        assert_eq!(checked(&spec(&with)), checked(&spec(&without)), "{name}");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}
