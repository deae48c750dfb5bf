//! The schema of a model: named layers, and where they stand.

use serde_json::{Map, Value, json};

use super::{build, closed, described, grouped, latent, list_of, mla, name, size};
use crate::read::MODEL_FILE_KEYS;

/// A spec of a model.
pub(super) fn model() -> Value {
    let sections = [mla(), name(), section(), build()];
    closed(
        MODEL_FILE_KEYS.into_iter().zip(sections),
        &["mla", "name", "model"],
    )
}

fn section() -> Value {
    let index = || json!({ "type": "integer", "minimum": 0 });
    let sources = |description: &str| {
        let pairs = json!({ "type": "object", "additionalProperties": index() });
        json!({ "description": description, "anyOf": [pairs, list_of(index(), description)] })
    };
    described(
        "A model's attention layers.",
        closed(
            [
                ("num_hidden_layers", size("Number of decoder layers.")),
                (
                    "attentions_per_layer",
                    size(
                        "Attentions in a decoder layer. `pattern` and sources count attentions. Default: 1.",
                    ),
                ),
                (
                    "prefix",
                    json!({ "type": "string",
                            "description": "Where checkpoints hold an attention's tensors. Default: model.layers.{layer}.self_attn, \
                                            with .{attention} behind it where a layer has several." }),
                ),
                (
                    "pipeline_stages",
                    list_of(
                        size("A decoder layer."),
                        "First layer of every pipeline stage but the first.",
                    ),
                ),
                ("layers", layers()),
                ("pattern", pattern()),
                (
                    "topk_source",
                    sources(
                        "Whose selection an attention with a shared indexer attends to, both counted from 0. Default: the nearest \
                         earlier one's.",
                    ),
                ),
                (
                    "kv_source",
                    sources(
                        "Whose latents an attention with `kv_source: shared` attends to, both counted from 0. Default: the nearest \
                         earlier one's that fit.",
                    ),
                ),
            ],
            &["num_hidden_layers", "layers", "pattern"],
        ),
    )
}

fn layers() -> Value {
    let modules = std::iter::once(latent::layer()).chain(grouped::layers());
    let layer = json!({ "anyOf": modules.map(|layer| named(&layer)).collect::<Vec<_>>() });
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[a-z][a-z0-9]*(_[a-z0-9]+)*$" },
        "additionalProperties": layer,
        "description": "The layers that differ from each other, by name. Name and model's name make the type.",
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

fn pattern() -> Value {
    let layer = json!({ "type": "string", "description": "A layer's name." });
    let block = list_of(layer.clone(), "Layers, in the order in which they run.");
    let repetition = closed(
        [("repeat", size("How often the block runs.")), ("of", block)],
        &["repeat", "of"],
    );
    list_of(
        json!({ "anyOf": [layer, repetition] }),
        "Which layer stands where, every attention in the order in which it runs.",
    )
}
