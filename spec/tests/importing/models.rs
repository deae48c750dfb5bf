//! Whole models: every layer, equal ones said once.

use mla_spec::import::ImportedModel;
use mla_spec::{CheckedModel, check_model};

use super::*;

#[track_caller]
fn accept_model(name: &str, text: &str, options: &Options) -> ImportedModel {
    let mut sources = Sources::default();
    match import::hf_model(&mut sources, name, text, options) {
        Ok(imported) => imported,
        Err(diagnostics) => panic!("{}", render::text(&diagnostics, &sources, false)),
    }
}

#[track_caller]
fn model(imported: &ImportedModel) -> CheckedModel {
    let (model, found) = check_model(&imported.document);
    assert!(!found.has_errors(), "{found:?}");
    model.unwrap()
}

/// The names of a model's layers, one per attention.
fn names(model: &CheckedModel) -> Vec<&str> {
    (0..model.indices.len())
        .map(|index| model.layer(index).unwrap().name.as_str())
        .collect()
}

fn refused_model(config: &Value) -> Vec<u16> {
    let text = config.to_string();
    let found =
        import::hf_model(&mut Sources::default(), "m", &text, &Options::default()).unwrap_err();
    codes(&found, Severity::Error)
}

const WHOLE: &[&str] = &[
    "deepseek-v3.2",
    "glm-5.2",
    "longcat-flash",
    "mistral-large-4",
    "dots3-note",
    "hy-v4",
];

#[test]
fn the_whole_models_are_what_import_gives() {
    for file in WHOLE {
        let path = format!("{}/models/whole/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let document = mla_spec::read::yaml(&mut Sources::default(), &path, &text).unwrap();
        let options = Options {
            name: Some(document.name.value.clone()),
            strict: true,
            ..Options::default()
        };
        let imported = accept_model(file, &read(&format!("{file}.json")), &options);
        assert_eq!(document.name, imported.document.name);
        assert_eq!(document.body, imported.document.body, "{file}");
        let (checked, found) = check_model(&document);
        assert!(checked.is_some() && found.is_empty(), "{file}: {found:?}");
    }
}

/// A layer of a model is the layer that import gives for its number.
#[test]
fn every_layer_is_the_one_that_is_imported_alone() {
    for file in WHOLE
        .iter()
        .chain(&["deepseek-v3", "kimi-k2.5", "minicpm3-4b", "mistral-4"])
    {
        let text = read(&format!("{file}.json"));
        let imported = accept_model(file, &text, &Options::default());
        let model = model(&imported);
        for index in 0..model.indices.len() {
            let options = Options {
                layer: Some(u32::try_from(index).unwrap()),
                ..Options::default()
            };
            let alone = accept(file, &text, &options);
            assert_eq!(alone.weight_prefix, model.prefix_of(index), "{file}");
            let mut alone = layer(&alone);
            let whole = &model.layer(index).unwrap().checked.layer;
            alone.name.clone_from(&whole.name);
            assert_eq!(alone, *whole, "{file}: {index}");
        }
    }
}

#[test]
fn what_is_written_reads_back_equal() {
    for file in WHOLE {
        let imported = accept_model(file, &read(&format!("{file}.json")), &Options::default());
        let text = mla_spec::write::yaml(&imported.document, &imported.comments);
        let document = mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &text).unwrap();
        assert_eq!(document, imported.document, "{file}");
        assert!(
            text.contains("# Layers count from 0") || text.contains("# Attentions count from 0")
        );
    }
}

#[test]
fn glm_5_2_picks_in_21_of_78_layers() {
    let imported = accept_model("glm-5.2", &read("glm-5.2.json"), &Options::default());
    let model = model(&imported);
    let names = names(&model);
    let picking: Vec<_> = (0..78).filter(|index| names[*index] == "full").collect();
    let wanted: Vec<usize> = [0, 1].into_iter().chain((2..78).step_by(4)).collect();
    assert_eq!(picking, wanted);
    assert_eq!(model.indices[77].topk_source, Some(74));
    assert_eq!(model.indices[6].topk_source, None);
    let lints = codes(&imported.lints, Severity::Warning);
    assert_eq!(lints, [730, 742, 733], "each said once");
}

#[test]
fn mistral_large_4_shares_what_its_list_says() {
    let mut config = config("mistral-large-4.json");
    let text = &mut config["text_config"];
    text["num_hidden_layers"] = json!(8);
    text["kv_source_layers"] = json!([0, 0, 2, 3, 2, 2, 2, 3]);
    text["indexer_types"] = json!([
        "full", "shared", "full", "full", "shared", "full", "full", "shared"
    ]);
    let imported = accept_model("m", &config.to_string(), &Options::default());
    let model = model(&imported);
    assert_eq!(
        names(&model),
        [
            "full_store",
            "shared_reuse",
            "full_store",
            "nope_full_store",
            "shared_reuse",
            "full_reuse",
            "full_reuse",
            "nope_shared_reuse"
        ]
    );
    let kv: Vec<_> = model.indices.iter().map(|at| at.kv_source).collect();
    let (two, three) = (Some(2), Some(3));
    assert_eq!(kv, [None, Some(0), None, None, two, two, two, three]);
    let topk: Vec<_> = model.indices.iter().map(|at| at.topk_source).collect();
    assert_eq!(
        topk,
        [None, Some(0), None, None, Some(3), None, None, Some(6)]
    );
    assert_eq!(
        imported.prefix,
        "model.language_model.layers.{layer}.self_attn"
    );
    let above = &imported.comments.0[""];
    for said in ["1 means that a layer rotates", "`shared`", "`reuse`"] {
        assert!(above.contains(said), "{above}");
    }
}

#[test]
fn hybrid_and_absurd_models_are_refused() {
    for file in ["ling-3", "glm-5.3-flash", "kimi-linear-48b"] {
        assert_eq!(refused_model(&config(&format!("{file}.json"))), [714]);
    }
    for layers in [0u32, 5000, u32::MAX] {
        let config = of("deepseek_v3", json!({ "num_hidden_layers": layers }));
        assert_eq!(refused_model(&config), [707], "{layers}");
    }
    let wrong = of("glm_moe_dsa", json!({ "hidden_size": "6144" }));
    assert_eq!(refused_model(&wrong), [707], "said once for 78 layers");
    assert_eq!(refused_model(&json!([])), [702]);
}
