//! The JSON Schema that editors complete and check specs with.
//!
//! It knows names, kinds and closed words, with a sentence on each, all of them [`crate::reference`]'s; what one value asks of another is
//! `check`'s.

mod model;
mod value;

use serde_json::{Map, Value, json};

use crate::read::{SPEC_KEYS, TOP_LEVEL_KEYS};
use crate::reference::{BUILD, Body, FILES, Key, LAYERS, NAME, Section, VERSION};

/// The schema (draft 2020-12) of the language, ending with a line end.
pub fn json_schema() -> String {
    let mut text = format!("{:#}", schema());
    text.push('\n');
    text
}

fn schema() -> Value {
    let bodies: Vec<Value> = FILES
        .iter()
        .map(|file| match file.body {
            Body::Layer { params, submodules } => layer(file.name, params, submodules),
            Body::Model(model) => model::model(model),
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mla-gen spec",
        "description": "An attention layer, as Megatron-Core's ModuleSpec: a module, its parameters and its submodules; or a model of such layers.",
        "anyOf": bodies,
    })
}

/// A spec of one layer.
fn layer(module: &str, params: &Section, submodules: &Section) -> Value {
    let means = LAYERS
        .iter()
        .find(|word| word.word == module)
        .map_or("", |word| word.means);
    let module = words(&[module], means);
    let sections = [
        head(&VERSION),
        head(&NAME),
        module,
        value::section(params),
        value::section(submodules),
        value::section(&BUILD),
    ];
    closed(
        TOP_LEVEL_KEYS.into_iter().zip(sections),
        &["mla", "name", "module", "params", "submodules"],
    )
}

/// A key at a spec's top, with its description.
fn head(key: &Key) -> Value {
    value::of(key)
}

/// A module's spec, written out.
fn nested(modules: Value, params: Value, submodules: Value, required: &[&str]) -> Value {
    let params = described("The module's parameters.", params);
    closed(
        SPEC_KEYS.into_iter().zip([modules, params, submodules]),
        required,
    )
}

/// One of a closed set of words.
fn words(words: &[&str], description: &str) -> Value {
    json!({ "type": "string", "enum": words, "description": description })
}

/// A list of such items.
fn list_of(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A mapping with these keys and no others.
fn closed<'a>(properties: impl IntoIterator<Item = (&'a str, Value)>, required: &[&str]) -> Value {
    let properties: Map<_, _> = properties
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn described(description: &str, schema: Value) -> Value {
    let mut described = json!({ "description": description });
    if let (Value::Object(into), Value::Object(from)) = (&mut described, schema) {
        into.extend(from);
    }
    described
}
