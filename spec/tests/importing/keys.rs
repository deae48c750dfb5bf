//! Keys, families and values: what is read, refused and pointed out.

use super::*;

#[test]
fn families_are_never_guessed() {
    assert_eq!(refused(&json!({})), [704]);
    assert_eq!(refused(&json!({ "model_type": null })), [704]);
    assert_eq!(refused(&json!({ "model_type": 3 })), [707]);
    assert_eq!(refused(&json!({ "model_type": "llama" })), [705]);
    for later in [
        "deepseek_v4",
        "kimi_k3",
        "pangu_ultra_moe",
        "bailing_moe_v2_5",
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
