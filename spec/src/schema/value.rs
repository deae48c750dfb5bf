//! What each kind of value is in a schema.

use serde_json::{Value as Json, json};

use super::{closed, described, list_of, model, nested, words};
use crate::reference::{Filling, Given, Key, Section, Special, Value, Word};

/// A key's value, with its description.
pub(super) fn of(key: &Key) -> Json {
    let description = key.description();
    described(&description, kind(key.value))
}

/// A mapping with a section's keys.
pub(super) fn section(section: &Section) -> Json {
    described(section.about, mapping(section.keys()))
}

fn mapping<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Json {
    let keys: Vec<&Key> = keys.into_iter().collect();
    let required: Vec<&str> = keys
        .iter()
        .filter(|key| key.given == Given::Required)
        .map(|key| key.name)
        .collect();
    closed(keys.iter().map(|key| (key.name, of(key))), &required)
}

fn kind(value: Value) -> Json {
    match value {
        Value::Size(least) => json!({ "type": "integer", "minimum": least }),
        Value::Even(least) => json!({ "type": "integer", "minimum": least, "multipleOf": 2 }),
        Value::Tokens => json!({ "type": "integer", "minimum": 0 }),
        Value::Number => json!({ "type": "number" }),
        Value::Positive => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Value::Switch => json!({ "type": "boolean" }),
        Value::Words(words) => choice(words),
        Value::List(words) => {
            json!({ "type": "array", "items": choice(words), "minItems": 1, "uniqueItems": true })
        }
        Value::Numbers => json!({ "type": "array", "items": { "type": "number" }, "minItems": 1 }),
        Value::PositiveOr(words) => {
            json!({ "anyOf": [{ "type": "number", "exclusiveMinimum": 0 }, choice(words)] })
        }
        Value::Window => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": -1 }, "minItems": 2, "maxItems": 2 })
        }
        Value::Table(section) => mapping(section.keys()),
        Value::Slot(fillings) => {
            let shapes: Vec<Json> = fillings.iter().flat_map(shapes).collect();
            json!({ "anyOf": shapes })
        }
        Value::Special(special) => self::special(special),
    }
}

fn choice(words: &[Word]) -> Json {
    json!({ "type": "string", "enum": names(words) })
}

fn names(words: &[Word]) -> Vec<&'static str> {
    words.iter().map(|word| word.word).collect()
}

/// The ways to write a module: its name, and a mapping.
fn shapes(filling: &Filling) -> Vec<Json> {
    let description = match filling.modules {
        [module] => module.means,
        _ => "The module in this slot.",
    };
    let modules = words(&names(filling.modules), description);
    let submodules = match filling.submodules {
        [] => described("These modules have no submodules.", mapping([])),
        slots => described("What fills each of its slots.", mapping(slots)),
    };
    let mut required = vec!["module"];
    for (section, keys) in [
        ("params", filling.params),
        ("submodules", filling.submodules),
    ] {
        if keys.iter().any(|key| key.given == Given::Required) {
            required.push(section);
        }
    }
    let written_out = nested(
        modules.clone(),
        mapping(filling.params),
        submodules,
        &required,
    );
    if filling.is_bare() {
        vec![modules, written_out]
    } else {
        vec![written_out]
    }
}

fn special(special: Special) -> Json {
    let index = || json!({ "type": "integer", "minimum": 0 });
    match special {
        Special::Version => json!({ "const": 1 }),
        Special::TypeName => json!({ "type": "string", "pattern": "^[A-Z][A-Za-z0-9]*$" }),
        Special::Params | Special::Submodules => json!({ "type": "object" }),
        Special::Prefix => json!({ "type": "string" }),
        Special::Stages => list_of(json!({ "type": "integer", "minimum": 1 })),
        Special::Layers => model::layers(),
        Special::Pattern => model::pattern(),
        Special::Sources => {
            let pairs = json!({ "type": "object", "additionalProperties": index() });
            json!({ "anyOf": [pairs, list_of(index())] })
        }
    }
}
