//! Imports of whole configs: released style, written-back style, and what is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mla_spec::import::{self, Imported, Options};
use mla_spec::{
    Body, Build, Checked, Code, Diagnostics, Layer, Norm, Place, Query, Rope, RopeLayout, Severity,
    Sources, check, render,
};
use serde_json::{Value, json};

fn configs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/configs"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(configs().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn config(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

fn import_text(text: &str, options: &Options) -> Result<Imported, Diagnostics> {
    import::hf(&mut Sources::default(), "config.json", text, options)
}

fn import(config: &Value) -> Result<Imported, Diagnostics> {
    import_text(&config.to_string(), &Options::default())
}

/// Imports, or shows why not.
#[track_caller]
fn accept(name: &str, text: &str, options: &Options) -> Imported {
    let mut sources = Sources::default();
    match import::hf(&mut sources, name, text, options) {
        Ok(imported) => imported,
        Err(diagnostics) => panic!("{}", render::text(&diagnostics, &sources, false)),
    }
}

#[track_caller]
fn layer(imported: &Imported) -> Layer {
    let (checked, diagnostics) = check(&imported.document);
    assert!(!diagnostics.has_errors(), "{diagnostics:?}");
    let Some(Checked { layer, build }) = checked else {
        panic!("nothing was checked")
    };
    assert_eq!(
        build,
        Build::default(),
        "importers write out what an absent section means"
    );
    layer
}

fn codes(diagnostics: &Diagnostics, severity: Severity) -> Vec<u16> {
    let found: Vec<_> = diagnostics
        .iter()
        .filter(|one| one.severity == severity)
        .map(|one| one.code.0)
        .collect();
    found
}

#[track_caller]
fn refused(config: &Value) -> Vec<u16> {
    match import(config) {
        Ok(_) => panic!("was accepted: {config}"),
        Err(diagnostics) => codes(&diagnostics, Severity::Error),
    }
}

#[track_caller]
fn linted(config: &Value) -> Vec<u16> {
    codes(
        &accept("config.json", &config.to_string(), &Options::default()).lints,
        Severity::Warning,
    )
}

/// The smallest config of a family.
fn of(model_type: &str, more: Value) -> Value {
    let mut config =
        json!({ "model_type": model_type, "rope_theta": 10000, "rope_interleave": true });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    config
}

fn yarn(more: Value) -> Value {
    let mut rope = json!({ "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1 });
    rope.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    of("deepseek_v3", json!({ "rope_scaling": rope }))
}

#[test]
fn golden_configs_say_in_both_styles_what_the_modeling_code_computes() {
    let facts: BTreeMap<String, Value> = serde_json::from_str(&read("golden/facts.json")).unwrap();
    assert!(facts.len() >= 16);
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
        ("deepseek-v2-lite", "deepseek-v2-lite"),
        ("deepseek-v2", "deepseek-v2"),
        ("deepseek-v3", "deepseek-v3"),
        ("kimi-k2", "kimi-k2-instruct"),
        ("moonlight", "moonlight"),
        ("youtu", "youtu-llm-2b"),
        ("glm-4.7-flash", "glm-4.7-flash"),
        ("ax-k1", "ax-k1"),
        ("kimi-linear", "kimi-linear-48b"),
    ];
    for (model, config) in models {
        let path = format!("{}/models/{model}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=../schema/module-spec.schema.json\n"),
            "{model}"
        );
        let document = mla_spec::read::yaml(&mut Sources::default(), &path, &text).unwrap();
        let options = Options {
            name: Some(document.name.value.clone()),
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
        let mut sources = Sources::default();
        let text = std::fs::read_to_string(&path).unwrap();
        let document = mla_spec::read::yaml(&mut sources, &path.to_string_lossy(), &text).unwrap();
        let (checked, diagnostics) = check(&document);
        assert!(
            diagnostics.is_empty(),
            "{}",
            render::text(&diagnostics, &sources, false)
        );
        assert!(checked.is_some());
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
fn kimi_linear_knows_its_mla_layers() {
    let text = read("kimi-linear-48b.json");
    let at = |layer| {
        import_text(
            &text,
            &Options {
                layer,
                ..Options::default()
            },
        )
    };
    assert_eq!(at(None).unwrap().layer, 3);
    assert_eq!(
        at(Some(26)).unwrap().weight_prefix,
        "model.layers.26.self_attn"
    );
    assert_eq!(codes(&at(Some(0)).unwrap_err(), Severity::Error), [714]);
    assert_eq!(codes(&at(Some(27)).unwrap_err(), Severity::Error), [713]);

    let absent = of("kimi_linear", json!({}));
    assert_eq!(
        import(&absent).unwrap().layer,
        4,
        "the class default is every fourth layer but the first"
    );
    let listed = |kinds: Value, layers: u32| {
        of(
            "kimi_linear",
            json!({ "num_hidden_layers": layers, "layer_types": kinds }),
        )
    };
    let (full, linear) = ("full_attention", "linear_attention");
    assert_eq!(import(&listed(json!([linear, full]), 2)).unwrap().layer, 1);
    assert_eq!(refused(&listed(json!([linear, linear]), 2)), [714]);
    assert_eq!(refused(&listed(json!([linear, full]), 3)), [715]);
    assert_eq!(refused(&listed(json!([linear, "chunked"]), 2)), [707]);
    let nested = |lists: Value| {
        of(
            "kimi_linear",
            json!({ "num_hidden_layers": 4, "linear_attn_config": lists }),
        )
    };
    assert_eq!(refused(&nested(json!({ "full_attn_layers": [4] }))), [715]);
    assert_eq!(
        refused(&nested(
            json!({ "full_attn_layers": [4], "kda_layers": [1, 2, 3, 4] })
        )),
        [715]
    );
    assert_eq!(
        refused(&nested(
            json!({ "full_attn_layers": [0], "kda_layers": [1] })
        )),
        [707]
    );
    assert_eq!(
        refused(&of("kimi_linear", json!({ "mla_use_nope": false }))),
        [716]
    );
    assert_eq!(
        linted(&of(
            "kimi_linear",
            json!({ "rope_scaling": { "type": "yarn" } })
        )),
        [738, 730, 739]
    );
}

#[test]
fn layers_are_counted() {
    let config = read("deepseek-v3.json");
    let at = |layer| {
        import_text(
            &config,
            &Options {
                layer: Some(layer),
                ..Options::default()
            },
        )
    };
    assert_eq!(at(60).unwrap().layer, 60);
    assert_eq!(
        at(61).unwrap().weight_prefix,
        "model.layers.61.self_attn",
        "the prediction layer has attention too"
    );
    assert_eq!(codes(&at(62).unwrap_err(), Severity::Error), [713]);
    assert_eq!(
        refused(&of("deepseek_v3", json!({ "num_hidden_layers": 0 }))),
        [714]
    );
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
fn families_are_never_guessed() {
    assert_eq!(refused(&json!({})), [704]);
    assert_eq!(refused(&json!({ "model_type": null })), [704]);
    assert_eq!(refused(&json!({ "model_type": 3 })), [707]);
    assert_eq!(refused(&json!({ "model_type": "llama" })), [705]);
    for later in [
        "deepseek_v32",
        "glm_moe_dsa",
        "mistral4",
        "bailing_hybrid",
        "minicpm3",
        "longcat_flash",
    ] {
        assert_eq!(refused(&json!({ "model_type": later })), [706], "{later}");
    }
    let misspelt = import(&json!({ "model_type": "deepseek-v3" })).unwrap_err();
    let help = misspelt.iter().next().unwrap().help.clone().unwrap();
    assert_eq!(help, "did you mean `deepseek_v3`?");
    let inferred = json!({ "architectures": ["DeepseekV2ForCausalLM"], "rope_theta": 1e4 });
    assert!(linted(&inferred).contains(&740));
    for spelling in ["axk1", "AXK1", "youtu", "youtu_llm"] {
        assert!(import(&of(spelling, json!({}))).is_ok(), "{spelling}");
    }
}

#[test]
fn query_ranks_and_biases() {
    let plain = import(&of(
        "deepseek_v3",
        json!({ "q_lora_rank": null, "attention_bias": true }),
    ))
    .unwrap();
    let Body::Layer(spec) = &plain.document.body else {
        panic!("no layer")
    };
    let layer_of_plain = layer(&plain);
    assert_eq!(layer_of_plain.latent().unwrap().query, Query::Plain);
    assert!(layer_of_plain.output_bias);
    assert!(
        spec.submodule("linear_q_proj")
            .unwrap()
            .spec
            .params
            .is_empty(),
        "q_proj never has a bias"
    );
    assert!(
        spec.submodule("linear_kv_down_proj")
            .unwrap()
            .spec
            .param("bias")
            .is_some()
    );

    let lora = import(&of("deepseek_v3", json!({ "attention_bias": true }))).unwrap();
    let Body::Layer(spec) = &lora.document.body else {
        panic!("no layer")
    };
    for (slot, biased) in [
        ("linear_q_down_proj", true),
        ("linear_kv_down_proj", true),
        ("linear_proj", true),
        ("linear_q_up_proj", false),
        ("linear_kv_up_proj", false),
    ] {
        assert_eq!(
            spec.submodule(slot).unwrap().spec.param("bias").is_some(),
            biased,
            "{slot}"
        );
    }
    assert_eq!(
        refused(&of("deepseek_v3", json!({ "q_lora_rank": 0 }))),
        [707]
    );
    let absent = layer(&import(&of("kimi_linear", json!({}))).unwrap());
    assert_eq!(
        absent.latent().unwrap().query,
        Query::Plain,
        "the class default of kimi_linear"
    );
    assert!(matches!(
        absent.latent().unwrap().kv_norm,
        Norm::Separate(_)
    ));
}

/// Cos/sin factor and softmax correction of a config.
#[track_caller]
fn magnitudes(config: &Value) -> (f64, f64) {
    let imported = accept("config.json", &config.to_string(), &Options::default());
    let layer = layer(&imported);
    let Rope::Rotary(rotary) = &layer.rope else {
        panic!("no rope")
    };
    (rotary.cos_sin_factor(), layer.softmax_mscale())
}

#[test]
fn mscales_follow_the_modeling_code() {
    let g = |mscale: f64| 0.1 * mscale * 40f64.ln() + 1.0;
    let cases = [
        (json!({}), (g(1.0), 1.0)),
        (json!({ "mscale": 0.7 }), (g(1.0), 1.0)),
        (json!({ "mscale": 0.7, "mscale_all_dim": 0 }), (g(1.0), 1.0)),
        (
            json!({ "mscale": 0, "mscale_all_dim": 0.5 }),
            (g(1.0), g(0.5)),
        ),
        (json!({ "mscale_all_dim": 0.5 }), (g(1.0), g(0.5))),
        (
            json!({ "mscale": null, "mscale_all_dim": 0.5 }),
            (g(1.0), g(0.5)),
        ),
        (
            json!({ "mscale": 0.7, "mscale_all_dim": 0.5 }),
            (g(0.7) / g(0.5), g(0.5)),
        ),
        (json!({ "mscale": 1, "mscale_all_dim": 1 }), (1.0, g(1.0))),
        (json!({ "attention_factor": 1.25 }), (1.25, 1.0)),
        (
            json!({ "attention_factor": 1.25, "mscale": 2, "mscale_all_dim": 0.5 }),
            (1.25, g(0.5)),
        ),
    ];
    for (keys, (cos_sin, softmax)) in cases {
        let (ours, corrected) = magnitudes(&yarn(keys.clone()));
        assert!(
            (ours - cos_sin).abs() < 1e-12,
            "{keys}: {ours} and {cos_sin}"
        );
        assert!(
            (corrected - softmax).abs() < 1e-12,
            "{keys}: {corrected} and {softmax}"
        );
    }
    assert!(linted(&yarn(json!({ "mscale": 0.7, "mscale_all_dim": 1.0 }))).contains(&732));
}

#[test]
fn rope_is_read_in_every_style() {
    let theta = |config: &Value| {
        let layer = layer(&import(config).unwrap());
        let Rope::Rotary(rotary) = layer.rope else {
            panic!("no rope")
        };
        rotary.theta
    };
    let v3 = |more: Value| of("deepseek_v3", more);
    assert_eq!(
        theta(&v3(
            json!({ "rope_parameters": { "rope_theta": 5, "rope_type": "default" } })
        )),
        5.0
    );
    assert_eq!(
        theta(&v3(
            json!({ "rope_parameters": { "rope_type": "default" } })
        )),
        10000.0
    );
    assert_eq!(
        theta(&v3(json!({ "rope_parameters": {}, "rope_scaling": {} }))),
        10000.0
    );
    let both = v3(
        json!({ "rope_scaling": { "type": "linear", "factor": 2 }, "rope_parameters": { "rope_theta": 5 } }),
    );
    assert_eq!(theta(&both), 10000.0, "a non-empty `rope_scaling` wins");
    assert!(linted(&both).contains(&739));
    assert!(
        linted(&json!({ "model_type": "deepseek_v3", "rope_interleave": true })).contains(&736)
    );

    let new = json!({ "rope_type": "yarn", "rope_theta": 10000, "factor": 40, "original_max_position_embeddings": 4096, "truncate": null });
    let imported = import(&v3(json!({ "rope_parameters": new }))).unwrap();
    let Rope::Rotary(rotary) = layer(&imported).rope else {
        panic!("no rope")
    };
    let mla_spec::RopeScaling::Yarn(yarn) = rotary.scaling else {
        panic!("no yarn")
    };
    assert_eq!(
        (yarn.beta_fast, yarn.beta_slow, yarn.truncate),
        (32.0, 1.0, false)
    );

    let stretched = json!({ "rope_scaling": { "type": "yarn", "factor": null }, "max_position_embeddings": 8192, "original_max_position_embeddings": 2048 });
    let Rope::Rotary(rotary) = layer(&import(&v3(stretched)).unwrap()).rope else {
        panic!("no rope")
    };
    let mla_spec::RopeScaling::Yarn(yarn) = rotary.scaling else {
        panic!("no yarn")
    };
    assert_eq!(
        (yarn.factor, yarn.original_max_position_embeddings),
        (4.0, 2048)
    );
}

#[test]
fn rope_that_can_not_be_said_is_refused() {
    let v3 = |rope: Value| of("deepseek_v3", json!({ "rope_scaling": rope }));
    assert_eq!(
        refused(&v3(json!({ "type": "dynamic", "factor": 2 }))),
        [710]
    );
    assert_eq!(
        refused(&v3(json!({ "rope_type": "yarm", "factor": 2 }))),
        [710]
    );
    assert_eq!(refused(&v3(json!({ "type": "linear" }))), [711]);
    assert_eq!(refused(&v3(json!({ "type": "yarn" }))), [711]);
    assert_eq!(
        refused(&v3(
            json!({ "type": "linear", "factor": 2, "mscale_all_dim": 1 })
        )),
        [712]
    );
    assert!(
        import(&v3(
            json!({ "type": "linear", "factor": 1, "mscale_all_dim": 1 })
        ))
        .is_ok(),
        "a factor of 1 corrects nothing"
    );
    assert_eq!(refused(&yarn(json!({ "beta_fats": 32 }))), [708]);
    let per_kind =
        json!({ "full_attention": { "rope_theta": 5 }, "sliding_attention": { "rope_theta": 7 } });
    let per_kind = of("deepseek_v3", json!({ "rope_parameters": per_kind }));
    assert_eq!(refused(&per_kind), [708]);
    let Err(found) = import(&per_kind) else {
        panic!("accepted")
    };
    assert!(
        !codes(&found, Severity::Warning).contains(&736),
        "a theta is there, if not where one is read"
    );
    assert_eq!(refused(&yarn(json!({ "factor": "40" }))), [707]);
    let mut no_rope_part = yarn(json!({ "mscale_all_dim": 1 }));
    no_rope_part["qk_rope_head_dim"] = json!(0);
    assert_eq!(refused(&no_rope_part), [712]);
    no_rope_part["rope_scaling"]["mscale_all_dim"] = json!(0);
    assert_eq!(layer(&import(&no_rope_part).unwrap()).rope, Rope::None);
}

#[test]
fn layouts() {
    let layout = |config: &Value| {
        let Rope::Rotary(rotary) = layer(&import(config).unwrap()).rope else {
            panic!("no rope")
        };
        rotary.layout
    };
    let with =
        |family: &str, interleave: Value| of(family, json!({ "rope_interleave": interleave }));
    assert_eq!(layout(&with("deepseek_v3", json!(false))), RopeLayout::Half);
    assert_eq!(layout(&with("deepseek_v3", json!(null))), RopeLayout::Half);
    assert_eq!(
        layout(&with("glm4_moe_lite", json!(true))),
        RopeLayout::Interleaved
    );
    assert_eq!(
        layout(&with("deepseek_v2", json!(false))),
        RopeLayout::Interleaved
    );
    assert!(linted(&with("deepseek_v2", json!(false))).contains(&739));
    assert!(
        linted(&json!({ "model_type": "glm4_moe_lite", "rope_theta": 1 + 9999 })).contains(&731)
    );
}

#[test]
fn unknown_keys() {
    let v3 = |more: Value| of("deepseek_v3", more);
    assert_eq!(refused(&v3(json!({ "kv_lora_rnak": 512 }))), [708]);
    assert_eq!(refused(&v3(json!({ "index_topk": 2048 }))), [708]);
    assert_eq!(
        refused(&v3(json!({ "extra": { "attention_temperature": 2 } }))),
        [708],
        "names inside a value count"
    );
    assert_eq!(
        refused(&v3(json!({ "flavour": "windowed" }))),
        [708],
        "words inside a value count"
    );
    assert_eq!(refused(&v3(json!({ "sliding_window": 4096 }))), [708]);
    assert_eq!(refused(&v3(json!({ "num_dense_layers": 3 }))), [708]);
    for harmless in [
        json!({ "sliding_window": null, "use_sliding_window": false }),
        json!({ "layer_types": vec!["full_attention"; 61], "num_hidden_layers": 61 }),
        json!({ "attn_softcap": null }),
    ] {
        assert!(import(&v3(harmless.clone())).is_ok(), "{harmless}");
    }
    let odd = v3(json!({ "favourite_colour": "blue", "lucky_number": 7 }));
    assert!(linted(&odd).contains(&709));
    let strict = import_text(
        &odd.to_string(),
        &Options {
            strict: true,
            ..Options::default()
        },
    )
    .unwrap_err();
    assert_eq!(codes(&strict, Severity::Error), [709]);
}

#[test]
fn misleading_keys_are_pointed_out() {
    let v3 = |more: Value| of("deepseek_v3", more);
    assert!(linted(&v3(json!({ "rms_norm_eps": 1e-5 }))).contains(&730));
    assert!(linted(&v3(json!({ "head_dim": 56 }))).contains(&733));
    assert!(linted(&v3(json!({ "num_key_value_heads": 8 }))).contains(&734));
    assert!(linted(&v3(json!({ "partial_rotary_factor": 0.5 }))).contains(&735));
    assert!(
        linted(&v3(
            json!({ "quantization_config": { "quant_method": "fp8" } })
        ))
        .contains(&737)
    );
    assert!(
        linted(&v3(
            json!({ "rope_scaling": { "type": "default", "mscale": 1.0 } })
        ))
        .contains(&739)
    );
    for (outside, overruled) in [(7, true), (5, false)] {
        let rope = json!({ "rope_type": "default", "rope_theta": 5 });
        let config = v3(json!({ "rope_theta": outside, "rope_parameters": rope }));
        assert_eq!(linted(&config).contains(&739), overruled, "{outside}");
    }
    assert_eq!(refused(&v3(json!({ "qk_head_dim": 100 }))), [716]);
    assert_eq!(
        refused(&of(
            "glm4_moe_lite",
            json!({ "head_dim": 32, "qk_rope_head_dim": 64 })
        )),
        [716]
    );
    let alias = layer(&import(&of("glm4_moe_lite", json!({ "head_dim": 32 }))).unwrap());
    assert_eq!(alias.latent().unwrap().dims.qk_rope_head_dim, 32);
}

#[test]
fn garbage_is_refused_with_a_place() {
    for text in [
        "",
        "[]",
        "null",
        "3",
        "\"x\"",
        "{",
        "{\"model_type\": \"deepseek_v3\", \"hidden_size\": NaN}",
        "\u{0}",
        "{\"a\":1}{",
    ] {
        let diagnostics = import_text(text, &Options::default()).unwrap_err();
        assert!(diagnostics.has_errors(), "{text:?}");
    }
    for value in [
        json!(-1),
        json!(1.5),
        json!("64"),
        json!(null),
        json!([64]),
        json!({}),
        json!(true),
        json!(1e300),
        json!(u64::MAX),
    ] {
        let codes = refused(&of("deepseek_v3", json!({ "hidden_size": value.clone() })));
        assert_eq!(codes, [707], "{value}");
    }
    let mut sources = Sources::default();
    let text = of("deepseek_v3", json!({ "hidden_size": 0 })).to_string();
    let diagnostics =
        import::hf(&mut sources, "config.json", &text, &Options::default()).unwrap_err();
    let error = diagnostics
        .iter()
        .find(|one| one.severity == Severity::Error)
        .unwrap();
    let Some(Place::Text { range, .. }) = sources.place(error.primary.span) else {
        panic!("no place: {error:?}")
    };
    assert_eq!(
        &text[range.clone()],
        "0",
        "what check refuses is shown in the config"
    );
}

#[test]
fn a_name_that_is_no_identifier_is_refused() {
    let options = Options {
        name: Some("x; fn main() {}".to_owned()),
        ..Options::default()
    };
    assert!(import_text(&of("deepseek_v3", json!({})).to_string(), &options).is_err());
}

#[test]
fn every_code_is_explained_by_a_config_that_meets_it() {
    for rule in mla_spec::explain::import::RULES {
        assert!((701..=749).contains(&rule.code.0));
        // Only the caller's `--layer` can ask for a layer that does not exist.
        let (wrong, options) = match rule.code.0 {
            713 => (
                rule.right,
                Options {
                    layer: Some(1000),
                    ..Options::default()
                },
            ),
            _ => (rule.wrong, Options::default()),
        };
        let found = |text: &str, options: &Options| -> Vec<Code> {
            match import_text(text, options) {
                Ok(imported) => imported.lints.iter().map(|one| one.code).collect(),
                Err(diagnostics) => diagnostics.iter().map(|one| one.code).collect(),
            }
        };
        assert!(
            found(wrong, &options).contains(&rule.code),
            "{}: {:?}",
            rule.code,
            found(wrong, &options)
        );
        let right = found(rule.right, &Options::default());
        assert!(!right.contains(&rule.code), "{}", rule.code);
        assert!(
            import_text(rule.right, &Options::default()).is_ok(),
            "{}: {right:?}",
            rule.code
        );
    }
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
