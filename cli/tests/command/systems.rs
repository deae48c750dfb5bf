//! import and diff: configs of other systems, read, written and laid side by side.

use crate::room::{Room, checkout};

const V3: &str = "tests/configs/deepseek-v3.json";
const FLAGS: &str = "tests/configs/megatron/deepseek-v3.sh";

#[test]
fn configs_of_other_systems_are_imported_as_their_keys_tell() {
    let room = Room::new();
    for config in [FLAGS, "tests/configs/maxtext/deepseek2-16b.yml"] {
        let told = room.run(&["import", &checkout(config)]);
        assert_eq!(told.code, 0, "{told:?}");
        room.write("imported.yaml", &told.stdout);
        assert_eq!(room.run(&["check", "imported.yaml"]).code, 0);
        assert_eq!(room.run(&["check", &checkout(config)]).code, 0);
    }
    room.write("flags.txt", "nothing of the kind\n");
    let told = room.run(&["import", "flags.txt", "--from", "megatron"]);
    assert!(
        told.code == 3 && told.stderr.contains("error[MLA0718]"),
        "{told:?}"
    );
    let hugging_face = room.run(&["import", "flags.txt"]);
    assert!(
        hugging_face.stderr.contains("error[MLA0701]"),
        "hf is the default: {hugging_face:?}"
    );
    let model = room.run(&["import", &checkout(FLAGS), "--model"]);
    assert!(
        model.code == 2 && model.stderr.contains("is Megatron's"),
        "{model:?}"
    );
}

#[test]
fn the_exit_code_says_whether_the_mathematics_differ() {
    let room = Room::new();
    let same = room.run(&["diff", &checkout(V3), &checkout(FLAGS)]);
    assert_eq!(same.code, 0, "{same:?}");
    assert!(
        same.stdout.contains("\nmathematics: no difference\n"),
        "{}",
        same.stdout
    );
    assert!(
        same.stdout
            .contains("by itself  inside the up projection\n"),
        "{}",
        same.stdout
    );

    for (config, maxtext) in [
        ("deepseek-v2-lite.json", "deepseek2-16b.yml"),
        ("deepseek-v3.json", "deepseek3-671b.yml"),
    ] {
        let config = checkout(&format!("tests/configs/{config}"));
        let maxtext = checkout(&format!("tests/configs/maxtext/{maxtext}"));
        let told = room.run(&["diff", &config, &maxtext]);
        assert_eq!(told.code, 0, "{told:?}");
        assert_eq!(
            told.stdout.matches(": no difference\n").count(),
            4,
            "{}",
            told.stdout
        );
    }

    let kimi = checkout("tests/configs/maxtext/kimi-k2-1t.yml");
    let other = room.run(&["diff", &checkout(V3), &kimi]);
    assert_eq!(other.code, 1, "{other:?}");
    for line in [
        "  heads          128 ",
        "\nweights\n",
        "  o_proj.weight     [7168, 16384]  [7168, 8192]\n",
    ] {
        assert!(other.stdout.contains(line), "{line}: {}", other.stdout);
    }
    assert!(
        other.stderr.ends_with("error: the mathematics differ\n"),
        "{}",
        other.stderr
    );

    let told = room.run(&["diff", &checkout(V3), &kimi, "--message-format", "json"]);
    let found: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(found["same_mathematics"], false);
    assert_eq!(found["differences"][0]["mathematics"][0]["name"], "heads");
    assert_eq!(found["differences"][0]["mathematics"][0]["b"], "64");
}

#[test]
fn models_are_compared_attention_by_attention() {
    let room = Room::new();
    let model = checkout("spec/models/whole/glm-5.2.yaml");
    let same = room.run(&["diff", &model, &model]);
    assert_eq!(same.code, 0, "{same:?}");
    assert!(
        same.stdout.contains("\nattentions 0 to 77\n"),
        "{}",
        same.stdout
    );
    let half = std::fs::read_to_string(&model).unwrap();
    room.write("half.yaml", &half.replacen("topk: 2048", "topk: 1024", 1));
    let layer = room.run(&["diff", &model, &checkout(V3)]);
    assert!(
        layer.code == 2 && layer.stderr.contains("choose an attention with `--layer`"),
        "{layer:?}"
    );
}

#[test]
fn a_layer_is_written_in_other_systems_words_or_refused() {
    let room = Room::new();
    for system in ["megatron", "maxtext", "hf"] {
        let spec = checkout("spec/models/deepseek-v3.yaml");
        let told = room.run(&["import", &spec, "--to", system, "-o", system]);
        assert_eq!(told.code, 0, "{told:?}");
        let diff = room.run(&["diff", &spec, system]);
        assert_eq!(diff.code, 0, "{system}: {diff:?}");
    }
    assert!(
        room.read("megatron")
            .contains("    --rotary-scaling-factor 40\n")
    );
    assert!(room.read("maxtext").contains("\nattention_type: mla\n"));
    let gated = room.run(&[
        "import",
        &checkout("spec/models/hy-v4.yaml"),
        "--to",
        "megatron",
    ]);
    assert_eq!(gated.code, 3, "{gated:?}");
    for part in [
        "error[MLA0722]: Megatron can't say `attention_output_gate`",
        "spec/models/hy-v4.yaml:",
    ] {
        assert!(gated.stderr.contains(part), "{part}: {}", gated.stderr);
    }
    let from_flags = room.run(&["import", &checkout(FLAGS), "--to", "maxtext"]);
    assert!(
        from_flags.code == 0 && from_flags.stdout.contains("q_lora_rank: 1536\n"),
        "{from_flags:?}"
    );
}
