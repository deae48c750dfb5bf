//! `mla-gen show`.

use super::room::{Room, checkout};

#[test]
fn a_layer_is_shown_phase_by_phase() {
    let room = Room::new();
    let spec = checkout("spec/models/deepseek-v3.yaml");
    let told = room.run(&["show", &spec, "--phase", "decode"]);
    assert_eq!(told.code, 0, "{told:?}");
    for wanted in [
        "softmax scale 0.1352337788608801",
        "in bf16, a latent cache takes 1152 B and a naive one 81920 B",
        "640 FLOP per query, key and head as MHA, 2176 as MQA",
        "170.7 new tokens",
        "\ndecode: MQA form, because",
    ] {
        assert!(told.stdout.contains(wanted), "{wanted}: {}", told.stdout);
    }
    assert!(!told.stdout.contains("\nprefill: "), "{}", told.stdout);
    let forced = room.run(&["show", &spec, "--phase", "decode", "--form", "mha"]);
    assert!(forced.stdout.contains("\ndecode: MHA form"), "{forced:?}");
}

#[test]
fn a_model_is_shown_as_a_table() {
    let room = Room::new();
    let told = room.run(&["show", &checkout("spec/models/whole/glm-5.2.yaml")]);
    assert_eq!(told.code, 0, "{told:?}");
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 2 + 78, "{}", told.stdout);
    assert!(told.stdout.contains("what 2 picks"), "{}", told.stdout);
    let phase = [
        "show",
        &checkout("spec/models/whole/glm-5.2.yaml"),
        "--phase",
        "decode",
    ];
    assert_eq!(room.run(&phase).code, 2);
}

#[test]
fn every_layer_of_a_config_is_shown_where_that_is_asked_for() {
    let room = Room::new();
    let config = checkout("tests/golden/v32_dsa_b1_s40/config.json");
    let told = room.run(&["show", &config, "--model"]);
    assert_eq!((told.code, told.stdout.lines().count()), (0, 4), "{told:?}");
    let one = room.run(&["show", &config]);
    assert!(one.stdout.contains("the indexer takes"), "{one:?}");
}
