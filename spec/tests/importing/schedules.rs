//! Layers of one model that differ: which pick keys, which rotate, which slide, whose latents they use.

use mla_spec::{Indexer, KvSource, Window};

use super::*;

/// A layer of a config.
#[track_caller]
fn at(config: &Value, number: u32) -> Layer {
    let options = Options {
        layer: Some(number),
        ..Options::default()
    };
    layer(&accept("config.json", &config.to_string(), &options))
}

/// Which of the first layers use what another one picked.
#[track_caller]
fn sharing(config: &Value, count: u32) -> Vec<u32> {
    (0..count)
        .filter(|number| matches!(at(config, *number).indexer(), Some(Indexer::Shared { .. })))
        .collect()
}

fn glm(more: Value) -> Value {
    of("glm_moe_dsa", more)
}

#[test]
fn frequencies_and_offsets_count_from_0() {
    let shared = |frequency: u32, offset: u32| {
        let config = glm(
            json!({ "num_hidden_layers": 12, "index_topk_freq": frequency, "index_skip_topk_offset": offset }),
        );
        sharing(&config, 12)
    };
    assert_eq!(
        shared(4, 3),
        [3, 4, 5, 7, 8, 9, 11],
        "GLM-5.2 picks at 0, 1, 2, 6, 10, …"
    );
    assert_eq!(shared(4, 1), [1, 2, 3, 5, 6, 7, 9, 10, 11]);
    assert_eq!(shared(1, 2), [0u32; 0]);
    assert_eq!(shared(0, 2), [0u32; 0], "below 1 counts as 1");
    let megatrons = glm(json!({ "index_topk_freq": 4, "index_skip_topk_offset": 0 }));
    assert_eq!(refused(&megatrons), [715], "nobody picks before layer 0");
    assert!(linted(&glm(json!({ "index_topk_freq": 4 }))).contains(&741));
    let far = glm(json!({ "index_topk_freq": 4, "index_skip_topk_offset": 3 }));
    assert_eq!(at(&far, 74).indexer().map(|one| one.width()), Some(2048));
    assert!(matches!(at(&far, 74).indexer(), Some(Indexer::Lightning(one)) if one.shared));
    assert!(matches!(
        at(&far, 77).indexer(),
        Some(Indexer::Shared { .. })
    ));
}

#[test]
fn lists_win_over_frequencies() {
    let types =
        json!({ "num_hidden_layers": 4, "indexer_types": ["full", "shared", "full", "shared"] });
    assert_eq!(sharing(&glm(types.clone()), 4), [1, 3]);
    for pattern in [json!("FSSF"), json!(["full", "shared", "shared", "full"])] {
        let config = glm(json!({ "num_hidden_layers": 4, "index_topk_pattern": pattern }));
        assert_eq!(sharing(&config, 4), [1, 2]);
    }
    let mut both = types;
    both["index_topk_pattern"] = json!("FSSF");
    both["index_topk_freq"] = json!(4);
    assert_eq!(sharing(&glm(both.clone()), 4), [1, 3]);
    assert!(linted(&glm(both)).contains(&741));
    let four = |more: Value| {
        let mut config = glm(json!({ "num_hidden_layers": 4 }));
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        refused(&config)
    };
    assert_eq!(four(json!({ "indexer_types": ["full"] })), [715]);
    assert_eq!(
        four(json!({ "indexer_types": ["shared", "full", "full", "full"] })),
        [715]
    );
    assert_eq!(
        four(json!({ "indexer_types": ["full", "full", "none", "full"] })),
        [707]
    );
    assert_eq!(four(json!({ "index_topk_pattern": "FSX" })), [707]);
    assert_eq!(four(json!({ "index_topk_pattern": "FFFX" })), [707]);
}

#[test]
fn hy_v4_picks_first_and_then_from_the_second_on() {
    let config = of("hy_v4", json!({ "num_hidden_layers": 10 }));
    assert_eq!(sharing(&config, 10), [2, 3, 4, 6, 7, 8]);
}

#[test]
fn an_indexers_layout_is_the_modeling_codes() {
    assert_eq!(
        refused(&glm(json!({ "indexer_rope_interleave": false }))),
        [716]
    );
    assert_eq!(
        refused(&of(
            "deepseek_v32",
            json!({ "indexer_rope_interleave": true })
        )),
        [716]
    );
    let shared = json!({ "index_topk_freq": 4, "index_skip_topk_offset": 3, "indexer_rope_interleave": true });
    assert!(linted(&glm(shared)).contains(&742));
    assert!(!linted(&glm(json!({ "indexer_rope_interleave": true }))).contains(&742));
}

fn mistral(more: Value) -> Value {
    let mut config = json!({ "model_type": "mistral_large4_text", "num_hidden_layers": 8, "rms_norm_eps": 1e-5 });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    config
}

/// Which layers do not rotate.
fn unrotated(config: &Value, count: u32) -> Vec<u32> {
    (0..count)
        .filter(|number| at(config, *number).rope == Rope::None)
        .collect()
}

#[test]
fn a_1_in_no_rope_layers_rotates() {
    assert_eq!(unrotated(&mistral(json!({})), 8), [3, 7]);
    let every_second = mistral(json!({ "no_rope_layer_interval": 2 }));
    assert_eq!(unrotated(&every_second, 8), [1, 3, 5, 7]);
    let listed = mistral(json!({ "no_rope_layers": [0, 1, 1, 1, 1, 1, 1, 0, 0, 0] }));
    assert_eq!(unrotated(&listed, 8), [0, 7], "the list may be longer");
    assert_eq!(
        refused(&mistral(json!({ "no_rope_layers": [0, 1] }))),
        [715]
    );
    assert_eq!(
        refused(&mistral(
            json!({ "no_rope_layers": [0, 1, 1, 2, 1, 1, 1, 0] })
        )),
        [707]
    );
    assert_eq!(
        refused(&mistral(json!({ "no_rope_layer_interval": 0 }))),
        [707]
    );
    let dims = at(&mistral(json!({})), 3).latent().unwrap().dims;
    assert_eq!((dims.qk_nope_head_dim, dims.qk_rope_head_dim), (128, 0));
}

#[test]
fn latents_are_shared_among_layers_that_are_alike() {
    let sources = json!([0, 0, 2, 3, 2, 2, 2, 3]);
    let config = mistral(json!({ "kv_source_layers": sources }));
    let kv: Vec<KvSource> = (0..8)
        .map(|number| at(&config, number).latent().unwrap().kv_source)
        .collect();
    let (store, reuse) = (KvSource::Own { shared: true }, KvSource::Other);
    assert_eq!(kv, [store, reuse, store, store, reuse, reuse, reuse, reuse]);
    let own = mistral(json!({ "kv_source_layers": [0, 1, 2, 3, 4, 5, 6, 7] }));
    assert_eq!(
        at(&own, 3).latent().unwrap().kv_source,
        KvSource::Own { shared: false }
    );
    for (wrong, code) in [
        (json!([0, 2, 2, 3, 4, 5, 6, 7]), 707),
        (json!([0, 0, 1, 3, 4, 5, 6, 7]), 707),
        (json!([0, 0]), 715),
        // Layer 3 does not rotate, layer 0 does.
        (json!([0, 1, 2, 0, 4, 5, 6, 7]), 715),
        // The code gives layer 5 the latents of layer 2, which shares too.
        (json!([0, 0, 2, 3, 2, 0, 6, 7]), 715),
    ] {
        assert_eq!(
            refused(&mistral(json!({ "kv_source_layers": wrong.clone() }))),
            [code],
            "{wrong}"
        );
    }
}

#[test]
fn written_back_configs_mean_what_released_ones_do() {
    let pairs: &[(&str, &str, &[u32])] = &[
        ("axk2", "ax-k2-light", &[0]),
        ("hy_v4", "hy-v4", &[0, 1, 2]),
        ("dots3_note", "dots3-note", &[0, 1, 2, 5, 6]),
        ("longcat_flash", "longcat-flash", &[0, 1]),
        ("mistral4", "mistral-4", &[0]),
        ("mistral_large4", "mistral-large-4", &[0, 3]),
        ("glm5_next", "glm-5.3-flash", &[3, 43]),
        ("bailing_hybrid", "ling-3", &[5, 41]),
    ];
    for (written_back, released, layers) in pairs {
        let written_back = config(&format!("families/{written_back}.written_back.json"));
        let released = config(&format!("{released}.json"));
        for number in *layers {
            assert_eq!(
                at(&written_back, *number),
                at(&released, *number),
                "{number}"
            );
        }
    }
}

#[test]
fn sliding_layers_have_sizes_of_their_own() {
    let config = config("dots3-note.json");
    let (full, sliding) = (at(&config, 1), at(&config, 2));
    assert_eq!((full.mask.window, full.indexer().is_some()), (None, true));
    let window = Window {
        left: Some(511),
        right: Some(0),
    };
    assert_eq!(sliding.mask.window, Some(window));
    assert_eq!(sliding.indexer(), None);
    let heads = |layer: &Layer| layer.latent().unwrap().dims.num_attention_heads;
    assert_eq!((heads(&full), heads(&sliding)), (128, 64));
    let theta = |layer: &Layer| match &layer.rope {
        Rope::Rotary(rotary) => rotary.theta,
        Rope::None => panic!("no rope"),
    };
    assert_eq!((theta(&full), theta(&sliding)), (8e7, 5e4));

    let dense = of("dots3_note", json!({ "use_dsa": false }));
    assert_eq!(at(&dense, 0).indexer(), None);
    let without = of("dots3_note", json!({ "use_sliding_window": false }));
    assert_eq!(at(&without, 2).mask.window, None);
    let uneven = of("dots3_note", json!({ "swa_head_dim": 100 }));
    let options = Options {
        layer: Some(2),
        ..Options::default()
    };
    let found = import_text(&uneven.to_string(), &options).unwrap_err();
    assert_eq!(codes(&found, Severity::Error), [716]);
    let corrected = json!({ "rope_scaling": { "type": "yarn", "factor": 4, "mscale": 1, "mscale_all_dim": 1 } });
    assert_eq!(refused(&of("dots3_note", corrected)), [712]);
}

#[test]
fn hybrid_models_name_their_mla_layers() {
    let flash = config("glm-5.3-flash.json");
    let options = |layer| Options {
        layer: Some(layer),
        ..Options::default()
    };
    let found = import_text(&flash.to_string(), &options(0)).unwrap_err();
    assert_eq!(codes(&found, Severity::Error), [714]);
    let help = found.iter().find_map(|one| one.help.clone()).unwrap();
    assert_eq!(help, "the first MLA layer is 3; layers count from 0");
    let imported = accept("flash", &flash.to_string(), &options(7));
    assert_eq!(
        imported.weight_prefix,
        "model.language_model.layers.7.self_attn"
    );
    let ling = config("ling-3.json");
    let found = import_text(&ling.to_string(), &options(6)).unwrap_err();
    assert_eq!(codes(&found, Severity::Error), [714]);
    assert_eq!(
        refused(&of("bailing_hybrid", json!({ "layer_group_size": 0 }))),
        [707]
    );
    assert_eq!(
        refused(&of("bailing_hybrid", json!({ "q_lora_rank": 1536 }))),
        [716]
    );
    assert_eq!(
        refused(&of("glm5_next_text", json!({ "qk_rope_head_dim": 64 }))),
        [716]
    );
}

#[test]
fn longcat_counts_attentions() {
    let config = config("longcat-flash.json");
    let prefix = |number| {
        let options = Options {
            layer: Some(number),
            ..Options::default()
        };
        import_text(&config.to_string(), &options).map(|imported| imported.weight_prefix)
    };
    assert_eq!(prefix(0).unwrap(), "model.layers.0.self_attn.0");
    assert_eq!(prefix(55).unwrap(), "model.layers.27.self_attn.1");
    assert_eq!(codes(&prefix(56).unwrap_err(), Severity::Error), [713]);
    let longcat = |more: Value| of("longcat_flash", more);
    assert_eq!(
        refused(&longcat(
            json!({ "num_layers": 28, "num_hidden_layers": 28 })
        )),
        [716]
    );
    assert_eq!(
        refused(&longcat(json!({ "mla_scale_q_lora": false }))),
        [716]
    );
    assert_eq!(refused(&longcat(json!({ "q_lora_rank": null }))), [716]);
    assert_eq!(
        refused(&longcat(
            json!({ "index_topk": 2048, "index_k_norm_type": "group" })
        )),
        [707]
    );
    let sparse = super::config("longcat-flash-lite-sparse.json");
    assert_eq!(sharing(&sparse, 6), [1, 3, 5], "cli_factor is 2");
}

#[test]
fn what_a_family_needs_is_asked_for() {
    let without = json!({ "type": "yarn", "factor": 8, "original_max_position_embeddings": 8192 });
    assert_eq!(
        refused(&of("mistral4", json!({ "rope_parameters": without }))),
        [711]
    );
    let text = json!({ "model_type": "mistral3", "text_config": { "hidden_size": 4096 } });
    assert_eq!(refused(&text), [704]);
    let named = json!({ "model_type": "mistral3", "text_config": { "model_type": "mistral4" } });
    assert_eq!(
        import(&named).unwrap().weight_prefix,
        "language_model.model.layers.0.self_attn"
    );
    let lists = |short: Value| {
        of(
            "minicpm3",
            json!({ "rope_scaling": { "type": "longrope", "short_factor": short, "long_factor": vec![2.0; 16] } }),
        )
    };
    assert!(import(&lists(json!(vec![1.0; 16]))).is_ok());
    assert_eq!(refused(&lists(json!(null))), [711]);
    assert_eq!(refused(&lists(json!([1, "2"]))), [707]);
    assert_eq!(
        refused(&of(
            "minicpm3",
            json!({ "hidden_size": 2560, "num_attention_heads": 48 })
        )),
        [716]
    );
}
