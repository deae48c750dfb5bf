//! Sample configs with keys dropped, renamed, retyped and cut: imported or refused, never a panic, and whatever is
//! imported passes the check and reads back from its own YAML.

use mla_spec::import::{self, Options};
use mla_spec::{Sources, check, check_model, read, render, write};
use proptest::prelude::*;
use serde_json::{Value, json};

const SAMPLES: &[&str] = &[
    "deepseek-v2-lite",
    "deepseek-v3",
    "kimi-k2.5",
    "youtu-llm-2b",
    "ax-k1",
    "glm-4.7-flash",
    "kimi-linear-48b",
    "deepseek-v3.2",
    "glm-5.2",
    "glm-5.3-flash",
    "ax-k2-light",
    "hy-v4",
    "dots3-note",
    "longcat-flash-lite-sparse",
    "minicpm3-4b",
    "mistral-4",
    "mistral-large-4",
    "ling-3",
    "golden/v3_yarn_mscale_ratio_b1_s16.transformers",
    "golden/kimi_linear_nope_b1_s24.released",
];

fn sample(index: usize) -> String {
    let name = SAMPLES[index % SAMPLES.len()];
    std::fs::read_to_string(format!(
        "{}/../tests/configs/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

/// The property, on any text. Answers whether it was imported.
fn holds(text: &str, options: &Options) -> bool {
    let mut sources = Sources::default();
    match import::hf(&mut sources, "config.json", text, options) {
        Ok(imported) => {
            let (checked, diagnostics) = check(&imported.document);
            assert!(
                checked.is_some() && !diagnostics.has_errors(),
                "{diagnostics:?}\n{text}"
            );
            assert!(!imported.lints.has_errors());
            render::text(&imported.lints, &sources, false);
            let written = write::yaml(&imported.document, &imported.comments);
            let again = read::yaml(&mut Sources::default(), "spec.yaml", &written);
            assert_eq!(again.as_ref().ok(), Some(&imported.document), "{written}");
            true
        }
        Err(diagnostics) => {
            assert!(diagnostics.has_errors());
            render::text(&diagnostics, &sources, false);
            false
        }
    }
}

/// The same of whole models.
fn holds_of_models(text: &str) {
    let mut sources = Sources::default();
    match import::hf_model(&mut sources, "config.json", text, &Options::default()) {
        Ok(imported) => {
            let (checked, diagnostics) = check_model(&imported.document);
            assert!(
                checked.is_some() && !diagnostics.has_errors(),
                "{diagnostics:?}\n{text}"
            );
            let written = write::yaml(&imported.document, &imported.comments);
            let again = read::yaml(&mut Sources::default(), "spec.yaml", &written);
            assert_eq!(again.as_ref().ok(), Some(&imported.document), "{written}");
        }
        Err(diagnostics) => {
            assert!(diagnostics.has_errors());
            render::text(&diagnostics, &sources, false);
        }
    }
}

/// Values that configs might hold by accident or malice.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..130).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(Value::from),
        (0.0f64..3.0).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "yarn",
            "linear",
            "default",
            "full_attention",
            "deepseek_v3",
            "kimi_linear",
            "mistral_large4_text",
            "dots3_note",
            "longrope",
            "shared",
            "indexed_attention",
            "dynamic"
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([1, 2, null, "x"])),
        Just(json!({ "rope_type": "yarn", "factor": 0.5 })),
        Just(json!({ "type": "linear", "factor": 2, "rope_theta": 0 })),
        Just(json!({ "full_attn_layers": [1], "kda_layers": [2] })),
    ]
}

/// All objects of a config, as paths from its root.
fn objects(root: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(map) = root {
        found.push(path.to_owned());
        for (key, inner) in map {
            objects(
                inner,
                &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")),
                found,
            );
        }
    }
}

/// A sample with some of its keys changed: which object, which key of it, how, and to what.
fn changed(
    index: usize,
    changes: Vec<(prop::sample::Index, prop::sample::Index, u8, Value)>,
) -> Value {
    let mut config: Value = serde_json::from_str(&sample(index)).unwrap();
    for (object, key, how, value) in changes {
        let mut paths = Vec::new();
        objects(&config, "", &mut paths);
        let path = paths[object.index(paths.len())].clone();
        let Some(Value::Object(map)) = config.pointer_mut(&path) else {
            continue;
        };
        if map.is_empty() {
            continue;
        }
        let name = map.keys().nth(key.index(map.len())).unwrap().clone();
        match how {
            0 => drop(map.remove(&name)),
            1 => drop(map.insert(name, value)),
            2 => {
                let old = map.remove(&name).unwrap_or_default();
                map.insert(name.chars().rev().collect(), old);
            }
            _ => drop(map.insert(format!("{name}_x"), value)),
        }
    }
    config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn changed_keys(
        index in 0..SAMPLES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8, value()), 1..4),
        layer in prop::option::of(0u32..70),
        strict in any::<bool>(),
    ) {
        holds(&changed(index, changes).to_string(), &Options { layer, strict, name: None });
    }

    #[test]
    fn changed_bytes(index in 0..SAMPLES.len(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = sample(index).into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        holds(&String::from_utf8_lossy(&bytes), &Options::default());
    }

    #[test]
    fn changed_models(
        index in 0..SAMPLES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8, value()), 1..3),
    ) {
        // Whole models cost as much as their layers: a quarter of the cases.
        if changes[0].2 == 1 {
            holds_of_models(&changed(index, changes).to_string());
        }
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        holds(&text, &Options::default());
    }
}

#[test]
fn the_samples_themselves_are_imported() {
    for (index, name) in SAMPLES.iter().enumerate() {
        assert!(holds(&sample(index), &Options::default()), "{name}");
    }
}
