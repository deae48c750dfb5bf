//! The schema of a model: named layers, and where they stand.

use serde_json::{Map, Value, json};

use super::{closed, described, head, layer, list_of, value};
use crate::read::MODEL_FILE_KEYS;
use crate::reference::{BUILD, Body, FILES, NAME, Section, VERSION};

/// A spec of a model.
pub(super) fn model(section: &Section) -> Value {
    let sections = [
        head(&VERSION),
        head(&NAME),
        value::section(section),
        value::section(&BUILD),
    ];
    closed(
        MODEL_FILE_KEYS.into_iter().zip(sections),
        &["mla", "name", "model"],
    )
}

/// Named layers.
pub(super) fn layers() -> Value {
    let kinds = FILES.iter().filter_map(|file| match file.body {
        Body::Layer { params, submodules } => Some(layer(file.name, params, submodules)),
        Body::Model(_) => None,
    });
    let layer = json!({ "anyOf": kinds.map(|layer| named(&layer)).collect::<Vec<_>>() });
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[a-z][a-z0-9]*(_[a-z0-9]+)*$" },
        "additionalProperties": layer,
    })
}

/// A layer of this kind, or what differs from the one that it is like.
fn named(layer: &Value) -> Value {
    let like = json!({ "type": "string",
                       "description": "Another layer. What stands here is laid over it; null takes a key away." });
    let mut properties = vec![("like", like)];
    for key in ["module", "params", "submodules", "build"] {
        properties.push((key, partial(&layer["properties"][key])));
    }
    closed(properties, &[])
}

/// A schema whose mappings may lack any key and take any away.
fn partial(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(partial).collect(),
        Value::Object(entries) => entries
            .iter()
            .filter(|(key, _)| *key != "required")
            .map(|(key, value)| match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => (key.clone(), nullable(properties)),
                _ => (key.clone(), partial(value)),
            })
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn nullable(properties: &Map<String, Value>) -> Value {
    properties
        .iter()
        .map(|(key, value)| {
            let shapes = [partial(value), json!({ "type": "null" })];
            (key.clone(), json!({ "anyOf": shapes }))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// Which layer stands where.
pub(super) fn pattern() -> Value {
    let layer = || json!({ "type": "string", "description": "A layer's name." });
    let block = described("Layers, in the order in which they run.", list_of(layer()));
    let often =
        json!({ "type": "integer", "minimum": 1, "description": "How often the block runs." });
    let repetition = closed([("repeat", often), ("of", block)], &["repeat", "of"]);
    list_of(json!({ "anyOf": [layer(), repetition] }))
}
