//! Rope parameters, in every style and type.

use mla_spec::{Llama3, LongRopeSelect, RopeScaling};

use super::*;

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
    let RopeScaling::Yarn(yarn) = rotary.scaling else {
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
    let RopeScaling::Yarn(yarn) = rotary.scaling else {
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
    assert_eq!(refused(&v3(json!({ "type": "mrope", "factor": 2 }))), [710]);
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
fn what_engines_misread_is_pointed_out() {
    let v3 = |rope: Value| of("deepseek_v3", json!({ "rope_scaling": rope }));
    assert!(linted(&v3(json!({ "type": "linear", "factor": 2 }))).contains(&747));
    assert!(linted(&yarn(json!({ "truncate": false }))).contains(&747));
    assert!(!linted(&yarn(json!({ "truncate": true }))).contains(&747));
    let steps = |beta: f64| {
        let rope = json!({ "type": "yarn", "factor": 8, "original_max_position_embeddings": 8192, "llama_4_scaling_beta": beta });
        of("mistral4", json!({ "rope_parameters": rope }))
    };
    assert!(linted(&steps(0.1)).contains(&747));
    assert!(!linted(&steps(0.0)).contains(&747));
}

/// Types that stretch frequencies by other means than a factor or YaRN's ramp.
#[test]
fn other_types_say_what_the_library_reads() {
    let rotary = |rope: Value| {
        let config = of(
            "deepseek_v3",
            json!({ "rope_scaling": rope, "max_position_embeddings": 8192 }),
        );
        match layer(&import(&config).unwrap()).rope {
            Rope::Rotary(rotary) => rotary.scaling,
            Rope::None => panic!("no rope"),
        }
    };
    let dynamic = rotary(json!({ "type": "dynamic", "factor": 2 }));
    let wanted = RopeScaling::Dynamic {
        factor: 2.0,
        max_position_embeddings: 8192,
    };
    assert_eq!(dynamic, wanted);
    let bands = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 4096 });
    let wanted = RopeScaling::Llama3(Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 4096,
    });
    assert_eq!(rotary(bands.clone()), wanted);
    let long = json!({ "type": "longrope", "short_factor": vec![1.0; 32], "long_factor": vec![2.0; 32], "original_max_position_embeddings": 2048 });
    let RopeScaling::LongRope(long) = rotary(long) else {
        panic!("no longrope")
    };
    let stretched: f64 = 1.0 + 4f64.ln() / 2048f64.ln();
    assert!((long.attention_factor - stretched.sqrt()).abs() < 1e-15);
    assert_eq!(long.select, LongRopeSelect::ByLength);
    let mut without = bands;
    without.as_object_mut().unwrap().remove("low_freq_factor");
    assert_eq!(
        refused(&of("deepseek_v3", json!({ "rope_scaling": without }))),
        [711]
    );
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
