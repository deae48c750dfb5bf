//! What a door writes.

use std::collections::BTreeMap;

/// Relative file names and their texts. A model's layers stand in folders: `full/mod.rs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, String>);

/// A layer's name as that of a module or a folder: `DeepSeekV3Attention` is `deep_seek_v3_attention`.
///
/// A word starts at a capital after a small letter or a digit, and at the last of several capitals before a small letter. A
/// layer named like a keyword, such as `Type`, has the module `type_layer`.
pub fn module_name(layer: &str) -> String {
    let letters: Vec<char> = layer.chars().collect();
    let mut name = String::new();
    for (i, &letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| letters[i]);
        let after = letters.get(i + 1);
        let starts = match before {
            Some(before) if letter.is_ascii_uppercase() && before != '_' => {
                !before.is_ascii_uppercase() || after.is_some_and(char::is_ascii_lowercase)
            }
            _ => false,
        };
        if starts {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    if KEYWORDS.contains(&name.as_str()) {
        name.push_str("_layer");
    }
    name
}

/// The modules of a model's layers, whose names in the spec these are: the same, but no keyword, none of `taken`, and no two alike.
pub(crate) fn layer_modules(layers: &[&str], taken: &[&str]) -> Vec<String> {
    let is_free = |name: &str| !KEYWORDS.contains(&name) && !taken.contains(&name);
    let mut modules: Vec<String> = Vec::new();
    for &layer in layers {
        let mut name = layer.to_owned();
        // Another layer may be called as this one would be then
        while !is_free(&name)
            || modules.contains(&name)
            || (name != layer && layers.contains(&name.as_str()))
        {
            name.push_str("_layer");
        }
        modules.push(name);
    }
    modules
}

/// Rust's keywords, strict and reserved, of all editions.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_start_at_capitals() {
        assert_eq!(module_name("DeepSeekV3Attention"), "deep_seek_v3_attention");
        assert_eq!(module_name("AXK1Attention"), "axk1_attention");
        assert_eq!(module_name("Glm47Flash"), "glm47_flash");
        assert_eq!(module_name("MLA"), "mla");
        assert_eq!(module_name("MLALayer"), "mla_layer");
    }

    #[test]
    fn the_modules_of_a_model_are_free_names() {
        let layers = ["full", "use", "use_layer", "layer"];
        assert_eq!(
            layer_modules(&layers, &["layer"]),
            ["full", "use_layer_layer", "use_layer", "layer_layer"]
        );
    }

    #[test]
    fn no_module_is_named_like_a_keyword() {
        assert_eq!(module_name("Type"), "type_layer");
        assert_eq!(module_name("Crate"), "crate_layer");
    }
}
