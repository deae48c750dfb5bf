//! The JSON Schema that editors complete and check specs with.
//!
//! It knows names, kinds and closed words, with a sentence on each; what one value asks of another is `check`'s.

mod build;
mod grouped;
mod latent;
mod model;
mod rope;
mod scores;
mod sparse;

use serde_json::{Map, Value, json};

use crate::read::SPEC_KEYS;
use build::build;
use rope::rope;

/// The schema (draft 2020-12) of the language, ending with a line end.
pub fn json_schema() -> String {
    let mut text = format!("{:#}", schema());
    text.push('\n');
    text
}

fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mla-gen spec",
        "description": "An attention layer, as Megatron-Core's ModuleSpec: a module, its parameters and its submodules; or a model of such layers.",
    });
    let bodies: Vec<Value> = std::iter::once(latent::layer())
        .chain(grouped::layers())
        .chain([model::model()])
        .collect();
    merge(&mut root, json!({ "anyOf": bodies }));
    root
}

fn mla() -> Value {
    json!({ "const": 1, "description": "Version of the language." })
}

fn name() -> Value {
    json!({
        "type": "string",
        "pattern": "^[A-Z][A-Za-z0-9]*$",
        "description": "Name of the generated Rust type, in upper camel case.",
    })
}

/// A size in elements or a number of heads.
fn size(text: &str) -> Value {
    json!({ "type": "integer", "minimum": 1, "description": text })
}

/// A slot that one of `modules` fills.
fn slot(modules: &[&str], description: &str) -> Value {
    let modules = words(modules, "The module in this slot.");
    let params = module_params(&modules);
    filled(modules, params, description)
}

/// A slot that a module with these parameters fills.
fn slot_with(module: &str, params: Vec<(&'static str, Value)>, description: &str) -> Value {
    filled(
        words(&[module], "The module in this slot."),
        params,
        description,
    )
}

fn filled(modules: Value, params: Vec<(&'static str, Value)>, description: &str) -> Value {
    let shapes = [modules.clone(), spec(&modules, params)];
    json!({ "description": description, "anyOf": shapes })
}

fn spec(modules: &Value, params: Vec<(&'static str, Value)>) -> Value {
    let params = closed(params, &[]);
    let submodules = described("These modules have no submodules.", closed([], &[]));
    nested(modules.clone(), params, submodules, &["module"])
}

/// A module's spec, written out.
fn nested(modules: Value, params: Value, submodules: Value, required: &[&str]) -> Value {
    let params = described("The module's parameters.", params);
    closed(
        SPEC_KEYS.into_iter().zip([modules, params, submodules]),
        required,
    )
}

/// Whether a projection has a bias.
fn bias() -> (&'static str, Value) {
    let description = "Whether the projection has a bias. Default: false.";
    (
        "bias",
        json!({ "type": "boolean", "description": description }),
    )
}

/// The parameters of the modules of a slot.
fn module_params(modules: &Value) -> Vec<(&'static str, Value)> {
    let has = |module: &str| {
        modules["enum"]
            .as_array()
            .is_some_and(|words| words.iter().any(|word| word == module))
    };
    let mut params = Vec::new();
    if has("Linear") || has("RowParallelLinear") {
        params.push(bias());
    }
    if has("RMSNorm") || has("LayerNormColumnParallelLinear") {
        params.push((
            "eps",
            json!({ "type": "number", "exclusiveMinimum": 0, "description": "The norm's epsilon. Often not the config's `rms_norm_eps`." }),
        ));
    }
    if has("GatedRMSNorm") {
        params.push(("rank", size("Rank of the gate behind the norm.")));
    }
    if has("LayerNormColumnParallelLinear") {
        params.push((
            "normalization",
            words(
                &["RMSNorm", "LayerNorm"],
                "The norm that the projection holds.",
            ),
        ));
    }
    params
}

/// Norms that a norm slot may hold, the one with the most parameters last.
const NORMS: [&str; 4] = ["IdentityOp", "RMSNorm", "LayerNorm", "GatedRMSNorm"];

/// A projection that may be computed in f32 whatever the layer is computed in.
fn full_precision() -> (&'static str, Value) {
    let dtype = words(&["f32"], "Computed in f32 whatever `build.dtype` says.");
    ("dtype", dtype)
}

fn switch(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "number", "description": description })
}

/// A number of tokens, 0 included.
fn tokens(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

/// One of a closed set of words.
fn words(words: &[&str], description: &str) -> Value {
    json!({ "type": "string", "enum": words, "description": description })
}

/// A list of distinct words.
fn list(choices: &[&str], description: &str) -> Value {
    let items = words(choices, description);
    json!({ "type": "array", "items": items, "minItems": 1, "uniqueItems": true, "description": description })
}

/// A list of such items.
fn list_of(items: Value, description: &str) -> Value {
    json!({ "type": "array", "items": items, "description": description })
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
    merge(&mut described, schema);
    described
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
