//! The JSON Schema: the committed file is current, and names what the checks know.

use std::path::Path;

use mla_spec::{Body, Sources, check, check_model, read, schema};
use serde_json::Value;

#[test]
fn the_committed_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/module-spec.schema.json");
    let current = schema::json_schema();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &current)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "{} is stale: BLESS=1 cargo test -p mla-spec",
        path.display()
    );
}

fn schema() -> Value {
    serde_json::from_str(&schema::json_schema()).unwrap_or_else(|error| panic!("{error}"))
}

/// The messages about a spec, those of the doors and of the checks.
fn messages(text: &str) -> Vec<String> {
    let mut sources = Sources::default();
    let diagnostics = match read::yaml(&mut sources, "spec.yaml", text) {
        Ok(document) => match &document.body {
            Body::Layer(_) => check(&document).1,
            Body::Model(_) => check_model(&document).1,
            _ => panic!("another kind of spec"),
        },
        Err(diagnostics) => diagnostics,
    };
    diagnostics
        .iter()
        .map(|diagnostic| format!("{} {}", diagnostic.code, diagnostic.message))
        .collect()
}

/// Codes that call a key, a slot, a module or a word unknown, at all or in this module.
const UNKNOWN: [&str; 6] = [
    "MLA0011", "MLA0101", "MLA0111", "MLA0201", "MLA0203", "MLA0660",
];

fn refused(text: &str) -> Vec<String> {
    messages(text)
        .into_iter()
        .filter(|message| UNKNOWN.iter().any(|code| message.starts_with(code)))
        .collect()
}

/// A value that the schema allows.
fn examples(schema: &Value) -> Vec<String> {
    if let Some(words) = schema["enum"].as_array() {
        return words
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
    }
    if let Some(shapes) = schema["anyOf"].as_array() {
        return shapes.iter().flat_map(examples).collect();
    }
    match schema["type"].as_str() {
        Some("array") => examples(&schema["items"])
            .into_iter()
            .map(|item| format!("[{item}]"))
            .collect(),
        Some("object") => objects(schema),
        Some("boolean") => vec!["true".to_owned()],
        _ => vec!["2".to_owned()],
    }
}

/// A mapping for each value of each key, beside the first values of the words among the others, which decide what is known.
fn objects(schema: &Value) -> Vec<String> {
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    let word = |key: &str| examples(&properties[key]).pop();
    let deciding: Vec<_> = ["module", "type"]
        .into_iter()
        .filter(|key| properties.contains_key(*key))
        .collect();
    let mut all = Vec::new();
    for (key, value) in properties {
        for example in examples(value) {
            let mut pairs = vec![format!("{key}: {example}")];
            pairs.extend(
                deciding
                    .iter()
                    .filter(|other| *other != key)
                    .filter_map(|other| Some(format!("{other}: {}", word(other)?))),
            );
            all.push(format!("{{ {} }}", pairs.join(", ")));
        }
    }
    all
}

#[test]
fn what_the_schema_names_the_checks_know() {
    let schema = schema();
    let layers = schema["anyOf"].as_array().expect("the kinds of specs");
    let mut modules = Vec::new();
    for layer in layers {
        let properties = &layer["properties"];
        if properties.get("model").is_some() {
            for example in objects(&properties["model"]) {
                let text = format!("mla: 1\nname: Example\nmodel: {example}\n");
                assert_eq!(refused(&text), [""; 0], "{text}");
            }
            modules.push("model".to_owned());
            continue;
        }
        let Some(module) = examples(&properties["module"]).pop() else {
            continue;
        };
        for section in ["params", "submodules", "build"] {
            let examples = objects(&properties[section]);
            assert!(examples.len() > 3, "{section}: {examples:?}");
            for example in examples {
                let text =
                    format!("mla: 1\nname: Example\nmodule: {module}\n{section}: {example}\n");
                assert_eq!(refused(&text), [""; 0], "{text}");
            }
        }
        modules.push(module);
    }
    assert_eq!(
        modules,
        [
            "MLASelfAttention",
            "SelfAttention",
            "CrossAttention",
            "model"
        ]
    );
}

#[test]
fn what_the_schema_lacks_the_checks_refuse() {
    for text in [
        "params: { sharpness: 2 }",
        "submodules: { gate: Linear }",
        "build: { unroll: 2 }",
        "mask: 1",
    ] {
        let text = format!("mla: 1\nname: Example\nmodule: MLASelfAttention\n{text}\n");
        assert_ne!(refused(&text), [""; 0], "{text}");
    }
}

/// Where `value` breaks the schema.
fn breaks(value: &Value, schema: &Value, path: &str) -> Vec<String> {
    if let Some(shapes) = schema["anyOf"].as_array() {
        let fits = shapes
            .iter()
            .any(|shape| breaks(value, shape, path).is_empty());
        return if fits {
            Vec::new()
        } else {
            vec![format!("{path}: {value}")]
        };
    }
    if let (Some(properties), Some(entries)) = (schema["properties"].as_object(), value.as_object())
    {
        let missing = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let missing = missing
            .filter(|key| !entries.contains_key(*key))
            .map(|key| format!("{path}: no {key}"));
        let inside = entries
            .iter()
            .flat_map(|(key, value)| match properties.get(key) {
                Some(schema) => breaks(value, schema, &format!("{path}.{key}")),
                None => vec![format!("{path}.{key} is unknown")],
            });
        return missing.chain(inside).collect();
    }
    if let (Some(_), Some(entries)) = (schema.get("additionalProperties"), value.as_object()) {
        let each = &schema["additionalProperties"];
        let inside = entries
            .iter()
            .flat_map(|(key, value)| breaks(value, each, &format!("{path}.{key}")));
        return inside.collect();
    }
    let fits = match (schema["enum"].as_array(), schema["type"].as_str()) {
        (Some(words), _) => words.contains(value),
        (_, Some("integer")) => value.is_i64() && value.as_i64() >= schema["minimum"].as_i64(),
        (_, Some("number")) => value.is_number(),
        (_, Some("boolean")) => value.is_boolean(),
        (_, Some("null")) => value.is_null(),
        (_, Some("string")) => value.is_string(),
        (_, Some("array")) => value.as_array().is_some_and(|items| {
            items
                .iter()
                .all(|item| breaks(item, &schema["items"], path).is_empty())
        }),
        (_, Some(_)) => false,
        (_, None) => schema.get("const").is_none_or(|wanted| wanted == value),
    };
    if fits {
        Vec::new()
    } else {
        vec![format!("{path}: {value}")]
    }
}

#[test]
fn every_model_fits_the_schema() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let files = [models.clone(), models.join("whole")]
        .into_iter()
        .flat_map(|folder| {
            std::fs::read_dir(&folder)
                .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        });
    let mut seen = 0;
    for path in files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
    {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
        let value: Value = serde_yaml::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(breaks(&value, &schema(), ""), [""; 0], "{}", path.display());
        seen += 1;
    }
    assert!(seen > 0, "no models in {}", models.display());
}

#[test]
fn every_right_example_fits_the_schema() {
    let schema = schema();
    for rule in mla_spec::explain::check::rules() {
        let text = mla_spec::explain::whole(rule.right);
        let value: Value =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", rule.code));
        assert_eq!(breaks(&value, &schema, ""), [""; 0], "{}", rule.code);
    }
}
