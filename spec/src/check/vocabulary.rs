//! Every key of the language: none of them is a misspelling of another, however near they are.

use crate::reference::has_key;

/// Whether a key is one of the language's, at some place.
pub(super) fn has(key: &str) -> bool {
    has_key(key)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::has;

    /// The keys of each mapping of the schema but the slots, whose keys name modules.
    fn keys(schema: &Value, found: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (key, value) in properties {
                if key != "submodules" {
                    found.push(key.clone());
                    keys(value, found);
                }
            }
        }
        for shape in schema["anyOf"].as_array().into_iter().flatten() {
            keys(shape, found);
        }
    }

    #[test]
    fn it_has_the_keys_of_the_schema() {
        let schema: Value =
            serde_json::from_str(&crate::schema::json_schema()).expect("the schema is JSON");
        let mut found = Vec::new();
        for layer in schema["anyOf"].as_array().into_iter().flatten() {
            for section in ["params", "build"] {
                keys(&layer["properties"][section], &mut found);
            }
        }
        assert!(found.len() > 100, "{found:?}");
        found
            .iter()
            .for_each(|key| assert!(has(key), "the language has no `{key}`"));
    }
}
