//! Which layers of a model are MLA, and how they are counted.

use super::*;

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
