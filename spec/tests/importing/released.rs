//! Released and written-back configs: what they import as, in numbers.

use super::*;

#[test]
fn golden_configs_say_in_both_styles_what_the_modeling_code_computes() {
    let facts: BTreeMap<String, Value> = serde_json::from_str(&read("golden/facts.json")).unwrap();
    assert!(facts.len() >= 21);
    for (case, facts) in facts {
        let styles = ["released", "transformers"].map(|style| {
            let path = format!("golden/{case}.{style}.json");
            let imported = accept(
                &path,
                &read(&path),
                &Options {
                    strict: true,
                    ..Options::default()
                },
            );
            assert_eq!(
                (imported.layer, imported.weight_prefix.as_str()),
                (0, "model.layers.0.self_attn")
            );
            layer(&imported)
        });
        assert_eq!(styles[0], styles[1], "{case}: the styles differ");
        let [layer, _] = styles;
        let near = |ours: f64, theirs: &Value, what: &str| {
            let theirs = theirs.as_f64().unwrap();
            assert!(
                (ours - theirs).abs() <= 1e-14 * theirs.abs().max(1.0),
                "{case}: {what}: {ours} and {theirs}"
            );
        };
        near(
            layer.softmax_scale(),
            &facts["softmax_scale"],
            "softmax scale",
        );
        match (&layer.rope, facts["style"].as_str().unwrap()) {
            (Rope::None, "none") => {}
            (Rope::Rotary(rotary), style) => {
                let layout = if style == "half" {
                    RopeLayout::Half
                } else {
                    RopeLayout::Interleaved
                };
                assert_eq!(rotary.layout, layout, "{case}");
                near(
                    rotary.cos_sin_factor(),
                    &facts["cos_sin_factor"],
                    "cos/sin factor",
                );
                let theirs = facts["inv_freq"].as_array().unwrap();
                let ours = rotary.inv_freq(layer.rotated_dim());
                assert_eq!(ours.len(), theirs.len());
                ours.iter()
                    .zip(theirs)
                    .for_each(|(ours, theirs)| near(*ours, theirs, "frequency"));
            }
            other => panic!("{case}: {other:?}"),
        }
        assert_eq!(
            layer
                .latent()
                .unwrap()
                .kv_norm
                .params()
                .map(|norm| norm.eps),
            facts["kv_eps"].as_f64(),
            "{case}"
        );
        let q_eps = match &layer.latent().unwrap().query {
            Query::Plain => None,
            Query::Lora { norm, .. } => norm.params().map(|norm| norm.eps),
        };
        assert_eq!(q_eps, facts["q_eps"].as_f64(), "{case}");
    }
}

#[test]
fn released_configs_import_and_lint() {
    let expected: &[(&str, &str, &[u16])] = &[
        ("deepseek-v2", "DeepSeekV2Attention", &[]),
        ("deepseek-v2-lite", "DeepSeekV2Attention", &[]),
        ("deepseek-v3", "DeepSeekV3Attention", &[731, 737]),
        ("deepseek-r1", "DeepSeekV3Attention", &[731, 737]),
        ("kimi-k2-instruct", "KimiK2Attention", &[731, 737]),
        ("kimi-k2.5", "KimiK2Attention", &[730, 731, 737]),
        ("kimi-vl", "DeepSeekV3Attention", &[730, 731]),
        ("moonlight", "DeepSeekV3Attention", &[730, 731]),
        ("youtu-llm-2b", "YoutuAttention", &[]),
        ("ax-k1", "AXK1Attention", &[731]),
        ("glm-4.7-flash", "GLM4MoeLiteAttention", &[730, 731]),
        ("kimi-linear-48b", "KimiLinearAttention", &[730, 733]),
        ("deepseek-v3.2", "DeepSeekV32Attention", &[737]),
        ("glm-5", "GLMMoeDsaAttention", &[730]),
        ("glm-5.2", "GLMMoeDsaAttention", &[730, 742, 733]),
        ("glm-5.3-flash", "GLM5NextAttention", &[]),
        ("ax-k2-light", "AXK2Attention", &[746]),
        ("hy-v4", "HYV4Attention", &[730, 745]),
        ("dots3-note", "Dots3NoteAttention", &[]),
        ("longcat-flash", "LongcatFlashAttention", &[730]),
        (
            "longcat-flash-lite-sparse",
            "LongcatFlashAttention",
            &[730, 744],
        ),
        ("minicpm3-4b", "MiniCPM3Attention", &[730, 736]),
        ("mistral-4", "Mistral4Attention", &[747]),
        ("mistral-large-4", "MistralLarge4Attention", &[743, 745]),
        ("ling-3", "BailingHybridAttention", &[745]),
    ];
    for (file, name, lints) in expected {
        let path = format!("{file}.json");
        let imported = accept(
            &path,
            &read(&path),
            &Options {
                strict: true,
                ..Options::default()
            },
        );
        assert_eq!(imported.document.name.value, *name);
        assert_eq!(codes(&imported.lints, Severity::Warning), *lints, "{file}");
        layer(&imported);
    }
}

#[test]
fn the_models_are_what_import_gives() {
    let models = [
        ("deepseek-v2-lite", "deepseek-v2-lite", None),
        ("deepseek-v2", "deepseek-v2", None),
        ("deepseek-v3", "deepseek-v3", None),
        ("kimi-k2", "kimi-k2-instruct", None),
        ("moonlight", "moonlight", None),
        ("youtu", "youtu-llm-2b", None),
        ("glm-4.7-flash", "glm-4.7-flash", None),
        ("ax-k1", "ax-k1", None),
        ("kimi-linear", "kimi-linear-48b", None),
        ("deepseek-v3.2", "deepseek-v3.2", None),
        ("glm-5", "glm-5", None),
        ("glm-5.2-shared", "glm-5.2", Some(3)),
        ("glm-5.3-flash", "glm-5.3-flash", None),
        ("axk2", "ax-k2-light", None),
        ("hy-v4", "hy-v4", None),
        ("dots3-note", "dots3-note", None),
        ("dots3-note-sliding", "dots3-note", Some(2)),
        ("longcat-flash", "longcat-flash", None),
        ("longcat-lite-sparse", "longcat-flash-lite-sparse", None),
        ("minicpm3", "minicpm3-4b", None),
        ("mistral-4", "mistral-4", None),
        ("mistral-large-4", "mistral-large-4", None),
        ("mistral-large-4-nope", "mistral-large-4", Some(3)),
        ("bailing-ling-3", "ling-3", None),
    ];
    for (model, config, layer) in models {
        let path = format!("{}/models/{model}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=../schema/module-spec.schema.json\n"),
            "{model}"
        );
        let document = mla_spec::read::yaml(&mut Sources::default(), &path, &text).unwrap();
        let options = Options {
            name: Some(document.name.value.clone()),
            layer,
            ..Options::default()
        };
        let imported = accept(config, &read(&format!("{config}.json")), &options);
        assert_eq!(document.name, imported.document.name);
        assert_eq!(document.body, imported.document.body, "{model}");
    }
}

#[test]
fn every_model_passes_the_check_without_a_warning() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/models")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue; // whole models, which are checked as such
        }
        let mut sources = Sources::default();
        let text = std::fs::read_to_string(&path).unwrap();
        let document = mla_spec::read::yaml(&mut sources, &path.to_string_lossy(), &text).unwrap();
        let (is_right, diagnostics) = match &document.body {
            Body::Model(_) => {
                let (checked, diagnostics) = check_model(&document);
                (checked.is_some(), diagnostics)
            }
            _ => {
                let (checked, diagnostics) = check(&document);
                (checked.is_some(), diagnostics)
            }
        };
        assert!(
            diagnostics.is_empty(),
            "{}",
            render::text(&diagnostics, &sources, false)
        );
        assert!(is_right);
        count += 1;
    }
    assert!(count >= 11);
}

#[test]
fn what_is_written_reads_back_equal() {
    for file in [
        "deepseek-v3",
        "glm-4.7-flash",
        "kimi-linear-48b",
        "moonlight",
    ] {
        let imported = accept(file, &read(&format!("{file}.json")), &Options::default());
        let text = mla_spec::write::yaml(&imported.document, &imported.comments);
        let document = mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &text).unwrap();
        assert_eq!(document, imported.document);
        for comment in imported.comments.0.values() {
            assert!(
                text.contains(comment.as_str()),
                "{file}: `{comment}` is not in\n{text}"
            );
        }
    }
}

#[test]
fn nested_configs_are_looked_into() {
    let imported = accept("k", &read("kimi-k2.5.json"), &Options::default());
    assert_eq!(
        imported.weight_prefix,
        "language_model.model.layers.0.self_attn"
    );
    let unnamed = json!({ "model_type": "kimi_vl", "text_config": { "rope_theta": 1e4 } });
    assert_eq!(
        import(&unnamed).unwrap().document.name.value,
        "DeepSeekV3Attention"
    );
    assert_eq!(refused(&json!({ "model_type": "kimi_vl" })), [704]);
    assert_eq!(
        refused(&json!({ "model_type": "kimi_vl", "text_config": { "model_type": "llama" } })),
        [705]
    );
}

#[test]
fn configs_keep_their_meaning_without_optional_keys() {
    let mut config = config("deepseek-v3.json");
    let whole = layer(&import(&config).unwrap());
    let object = config.as_object_mut().unwrap();
    let needed = ["model_type", "rope_scaling", "rope_theta"];
    object.retain(|key, _| needed.contains(&key.as_str()));
    assert_eq!(
        layer(&import(&config).unwrap()),
        whole,
        "the class defaults are DeepSeek-V3's"
    );
}
