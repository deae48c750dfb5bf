//! Where keys stand, and what is said of one.

use std::fmt::Write;

use super::layer::{Body, FILES, SPEC};
use super::{Given, Key, Special, Value, Word};

/// A key at one place of the language.
#[derive(Debug, Clone)]
pub struct Place {
    /// Names from a spec's top down to the key: `params`, `rope`, `theta`.
    pub path: Vec<&'static str>,
    /// The kind of spec that has it; `None` where every kind does.
    pub file: Option<&'static str>,
    /// The key.
    pub key: &'static Key,
}

/// Every place at which a key may stand, kind of spec by kind of spec.
pub fn places() -> Vec<Place> {
    let mut all = Vec::new();
    for key in SPEC.keys() {
        if key.name == "model" {
            continue;
        }
        below(&[], None, key, &mut all);
    }
    for file in &FILES {
        match file.body {
            Body::Layer { params, submodules } => {
                for (name, section) in [("params", params), ("submodules", submodules)] {
                    for key in section.keys() {
                        below(&[name], Some(file.name), key, &mut all);
                    }
                }
            }
            Body::Model(model) => {
                for key in model.keys() {
                    below(&["model"], Some(file.name), key, &mut all);
                }
            }
        }
    }
    all
}

fn below(
    above: &[&'static str],
    file: Option<&'static str>,
    key: &'static Key,
    all: &mut Vec<Place>,
) {
    let path: Vec<&'static str> = above.iter().copied().chain([key.name]).collect();
    all.push(Place {
        path: path.clone(),
        file,
        key,
    });
    match key.value {
        Value::Table(section) => section.keys().for_each(|key| below(&path, file, key, all)),
        Value::Slot(fillings) => {
            for filling in fillings {
                let sections = [
                    ("params", filling.params),
                    ("submodules", filling.submodules),
                ];
                for (name, keys) in sections {
                    let path: Vec<&'static str> = path.iter().copied().chain([name]).collect();
                    keys.iter().for_each(|key| below(&path, file, key, all));
                }
            }
        }
        _ => {}
    }
}

impl Place {
    /// The path as it is spoken of: `rope.theta`, without the sections between.
    fn short(&self) -> String {
        let sections = ["params", "submodules"];
        let (last, above) = match self.path.split_last() {
            Some((last, above)) => (*last, above),
            None => ("", &[][..]),
        };
        let above = above.iter().filter(|name| !sections.contains(name));
        above.chain([&last]).copied().collect::<Vec<_>>().join(".")
    }

    /// Whether a word names it: its name, or its path from some key on down.
    fn is_called(&self, word: &str) -> bool {
        let ends_with = |path: &str| {
            path == word
                || path
                    .strip_suffix(word)
                    .is_some_and(|rest| rest.ends_with('.'))
        };
        ends_with(&self.short()) || ends_with(&self.path.join("."))
    }
}

/// What is said of a key, called by its name (`topk`) or by more of its path (`indexer.topk`, `build.cache.format`); `None` where there is
/// no such key.
///
/// ```
/// let text = mla_spec::reference::explain("rope.layout").unwrap();
/// assert!(text.contains("(x_2i, x_2i+1)"));
/// assert!(mla_spec::reference::explain("rope.sharpness").is_none());
/// ```
pub fn explain(word: &str) -> Option<String> {
    let word = word.trim();
    let mut told: Vec<(&'static Key, Vec<Place>)> = Vec::new();
    for place in places().into_iter().filter(|place| place.is_called(word)) {
        let same =
            |(key, _): &&mut (&Key, _)| key.name == place.key.name && key.means == place.key.means;
        match told.iter_mut().find(same) {
            Some((_, others)) => others.push(place),
            None => told.push((place.key, vec![place])),
        }
    }
    if word.is_empty() || told.is_empty() {
        return None;
    }
    let texts: Vec<String> = told.iter().map(|(key, places)| text(key, places)).collect();
    Some(texts.join("\n"))
}

fn text(key: &Key, places: &[Place]) -> String {
    let mut text = format!("{}: {}\n", places[0].short(), takes(key.value));
    for (path, files) in by_path(places) {
        let files = if files.is_empty() {
            String::new()
        } else {
            format!(" of {}", files.join(", "))
        };
        let _ = writeln!(text, "  {path}{files}");
    }
    let _ = writeln!(text, "\n{}", key.means);
    if !key.detail.is_empty() {
        let _ = writeln!(text, "{}", key.detail);
    }
    let _ = writeln!(text, "\n{}", given(key.given));
    for word in words(key.value) {
        let _ = writeln!(text, "\n  {}: {}", word.word, word.means);
        for line in word.formula.lines() {
            let _ = writeln!(text, "      {line}");
        }
    }
    for (title, lines) in [("formula", key.formula), ("example", key.example)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}:\n");
            for line in lines.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    if !key.source.is_empty() {
        let _ = writeln!(text, "\nsource: {}", key.source);
    }
    text
}

/// Each path once, with the kinds of specs that have it.
fn by_path(places: &[Place]) -> Vec<(String, Vec<&'static str>)> {
    let mut paths: Vec<(String, Vec<&'static str>)> = Vec::new();
    for place in places {
        let path = place.path.join(".");
        match paths.iter_mut().find(|(other, _)| *other == path) {
            Some((_, files)) => files.extend(place.file),
            None => paths.push((path, place.file.into_iter().collect())),
        }
    }
    for (_, files) in &mut paths {
        files.dedup();
    }
    paths
}

/// Whether a key has to be there, as a sentence.
pub(super) fn given(given: Given) -> String {
    match given {
        Given::Required => "Required.".to_owned(),
        Given::Optional => "Optional.".to_owned(),
        Given::Default(value) => format!("Optional; default: `{value}`."),
        Given::When(condition) => format!("Only {condition}."),
    }
}

/// The words that a key takes.
pub(super) fn words(value: Value) -> &'static [Word] {
    match value {
        Value::Words(words) | Value::List(words) | Value::PositiveOr(words) => words,
        _ => &[],
    }
}

/// What a key takes, in a few words.
pub(super) fn takes(value: Value) -> String {
    let named = |words: &[Word]| {
        let names: Vec<&str> = words.iter().map(|word| word.word).collect();
        names.join(" | ")
    };
    match value {
        Value::Size(least) => format!("integer ≥ {least}"),
        Value::Even(least) => format!("even integer ≥ {least}"),
        Value::Tokens => "tokens".to_owned(),
        Value::Number => "number".to_owned(),
        Value::Positive => "number > 0".to_owned(),
        Value::Switch => "true | false".to_owned(),
        Value::Words(words) => named(words),
        Value::List(words) => format!("list of {}", named(words)),
        Value::Numbers => "list of numbers".to_owned(),
        Value::PositiveOr(words) => format!("number > 0 | {}", named(words)),
        Value::Window => "[left, right]".to_owned(),
        Value::Table(_) => "mapping".to_owned(),
        Value::Slot(fillings) => {
            let modules = fillings.iter().flat_map(|filling| filling.modules);
            let names: Vec<&str> = modules.map(|word| word.word).collect();
            names.join(" | ")
        }
        Value::Special(special) => match special {
            Special::Version => "1",
            Special::TypeName => "UpperCamelCase",
            Special::Params | Special::Submodules => "mapping",
            Special::Prefix => "text with {layer} and {attention}",
            Special::Stages => "list of layers",
            Special::Layers => "mapping of names to layers",
            Special::Pattern => "list of names and repetitions",
            Special::Sources => "mapping or list of attentions",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_as_much_of_its_path_as_is_said() {
        for word in ["layout", "rope.layout", "params.rope.layout"] {
            assert!(
                explain(word)
                    .is_some_and(|text| text.starts_with("rope.layout: interleaved | half\n")),
                "{word}"
            );
        }
        let topk = explain("topk").unwrap_or_default();
        assert!(
            topk.starts_with("core_attention.indexer.topk: integer ≥ 1\n"),
            "{topk}"
        );
        assert!(explain("build.cache.format").is_some_and(|text| text.contains("656 bytes")));
        for word in ["", "out", "pe.layout", "layout.rope"] {
            assert!(explain(word).is_none(), "{word}");
        }
    }

    #[test]
    fn what_is_the_same_in_several_modules_is_said_once() {
        let text = explain("softmax_type").unwrap_or_default();
        assert_eq!(text.matches("off-by-one:").count(), 1, "{text}");
        assert!(
            text.contains("of MLASelfAttention, SelfAttention, CrossAttention"),
            "{text}"
        );
        let masks = explain("attn_mask_type").unwrap_or_default();
        assert_eq!(masks.matches("attn_mask_type: ").count(), 2, "{masks}");
    }
}
