//! check, import, explain, init, and what the command line itself refuses.

use super::room::{Room, checkout};

#[test]
fn a_spec_is_accepted_and_says_nothing_on_stdout() {
    let room = Room::new();
    let told = room.run(&["check", &checkout("spec/models/deepseek-v3.yaml")]);
    assert_eq!((told.code, told.stdout.as_str()), (0, ""));
    assert!(
        told.stderr.contains("accepted") && told.stderr.contains("DeepSeekV3Attention"),
        "{told:?}"
    );
}

#[test]
fn every_mistake_is_shown_at_once() {
    let room = Room::new();
    assert_eq!(room.run(&["init", "a.yaml"]).code, 0);
    let text = room
        .read("a.yaml")
        .replace("hidden_size: 2048", "hiden_size: 2048")
        .replace("v_head_dim: 128", "v_head_dim: 0");
    room.write("a.yaml", &text);
    let told = room.run(&["check", "a.yaml"]);
    assert_eq!((told.code, told.stdout.as_str()), (3, ""));
    assert!(
        told.stderr.contains("`hiden_size`") && told.stderr.contains("`hidden_size`"),
        "{}",
        told.stderr
    );
    assert!(told.stderr.contains("--> a.yaml:"), "{}", told.stderr);
    let last = told.stderr.lines().last().unwrap();
    assert!(
        last.starts_with("error: `a.yaml` is refused: 2 errors; `mla-gen explain MLA01"),
        "{last}"
    );
    assert!(
        !told.stderr.contains('\u{1b}'),
        "no colours where no terminal is"
    );
}

#[test]
fn one_bad_spec_does_not_hide_the_others() {
    let room = Room::new();
    room.write("empty.yaml", "");
    let good = checkout("spec/models/moonlight.yaml");
    let told = room.run(&["check", "empty.yaml", "missing.yaml", &good]);
    assert_eq!(told.code, 3);
    assert!(
        told.stderr.contains("MoonlightAttention")
            && told.stderr.contains("can't read `missing.yaml`"),
        "{told:?}"
    );
    assert!(
        told.stderr.ends_with("error: 2 of 3 specs failed\n"),
        "{told:?}"
    );
    assert_eq!(room.run(&["check", "missing.yaml", &good]).code, 4);
}

#[test]
fn a_model_is_checked_as_a_whole() {
    let room = Room::new();
    let told = room.run(&["check", &checkout("spec/models/small-shared.yaml")]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(
        told.stderr
            .contains("SmallShared, 6 attentions, 4 of them different"),
        "{told:?}"
    );
    let told = room.run(&[
        "check",
        &checkout("tests/specs/err/model_first_layer_shared.yaml"),
    ]);
    assert!(
        told.code == 3 && told.stderr.contains("MLA0680"),
        "{told:?}"
    );
}

#[test]
fn an_imported_config_is_a_spec_that_is_accepted() {
    let room = Room::new();
    let config = checkout("tests/golden/v3_yarn_b1_s33/config.json");
    let told = room.run(&["import", &config]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(
        told.stdout.contains("eps: 1.0e-6 # "),
        "inferred values are commented: {}",
        told.stdout
    );
    assert!(
        told.stderr.contains("warning[MLA07"),
        "lints are talk: {}",
        told.stderr
    );
    room.write("imported.yaml", &told.stdout);
    assert_eq!(room.run(&["check", "imported.yaml"]).code, 0);

    assert_eq!(room.run(&["import", &config, "-o", "out.yaml"]).code, 0);
    assert!(room.read("out.yaml").ends_with(told.stdout.as_str()));
    assert_eq!(
        room.run(&["import", &config, "-o", "out.yaml"]).code,
        4,
        "a file is not overwritten"
    );
    assert_eq!(
        room.run(&["import", &config, "-o", "out.yaml", "--force"])
            .code,
        0
    );
}

#[test]
fn a_whole_model_is_imported_as_one_spec() {
    let room = Room::new();
    let config = checkout("tests/configs/glm-5.2.json");
    let told = room.run(&["import", &config, "--model", "-o", "model.yaml"]);
    assert_eq!(told.code, 0, "{told:?}");
    let spec = room.read("model.yaml");
    for part in [
        "every layer (tensors below `model.layers.{layer}.self_attn`)",
        "num_hidden_layers: 78",
        "like: full",
    ] {
        assert!(spec.contains(part), "{part}:\n{spec}");
    }
    assert_eq!(
        told.stderr.matches("warning[MLA0730]").count(),
        1,
        "what every layer has is said once: {}",
        told.stderr
    );
    let hybrid = checkout("tests/configs/ling-3.json");
    let told = room.run(&["import", &hybrid, "--model"]);
    assert!(
        told.code == 3 && told.stderr.contains("linear attention"),
        "{told:?}"
    );
    let both = room.run(&["import", &config, "--model", "--layer", "1"]);
    assert_eq!(both.code, 2, "{both:?}");
}

#[test]
fn a_layer_is_chosen_where_a_config_stands_and_nowhere_else() {
    let room = Room::new();
    let config = checkout("tests/golden/v3_yarn_b1_s33/config.json");
    assert_eq!(room.run(&["check", &config, "--layer", "1"]).code, 0);
    let told = room.run(&["check", &config, "--layer", "99"]);
    assert!(
        told.code == 3 && told.stderr.contains("no layer 99"),
        "{told:?}"
    );
    let told = room.run(&["check", &checkout("spec/models/youtu.yaml"), "--layer", "1"]);
    assert!(
        told.code == 2
            && told
                .stderr
                .contains("`--layer` goes with a config or a model"),
        "{told:?}"
    );
}

#[test]
fn a_config_that_is_none_is_refused_with_what_was_wanted() {
    let room = Room::new();
    room.write("config.json", "{ \"model_type\": \"deepseek_v3\",, }");
    let told = room.run(&["check", "config.json"]);
    assert!(
        told.code == 3 && told.stderr.contains("the config is not JSON"),
        "{told:?}"
    );
    room.write("config.json", "{ \"model_type\": \"llama\" }");
    let told = room.run(&["check", "."]);
    assert!(
        told.code == 3 && told.stderr.contains("`llama`"),
        "a folder stands for its config: {told:?}"
    );
}

#[test]
fn codes_are_explained() {
    let room = Room::new();
    for code in ["MLA0106", "mla106", "106"] {
        let told = room.run(&["explain", code]);
        assert_eq!(told.code, 0);
        assert!(
            told.stdout.starts_with("MLA0106: ")
                && told.stdout.contains("wrong:")
                && told.stdout.contains("right:")
        );
    }
    let told = room.run(&["explain", "MLA0199"]);
    assert_eq!((told.code, told.stdout.as_str()), (2, ""));
    assert!(
        told.stderr.contains("did you mean MLA0201") && told.stderr.contains("MLA0101 to MLA01"),
        "{}",
        told.stderr
    );
}

#[test]
fn keys_are_explained() {
    let room = Room::new();
    let told = room.run(&["explain", "rope.layout"]);
    assert_eq!(told.code, 0);
    assert!(
        told.stdout.starts_with("rope.layout: interleaved | half\n")
            && told.stdout.contains("formula:"),
        "{}",
        told.stdout
    );
    let told = room.run(&["explain", "rope.sharpness"]);
    assert_eq!((told.code, told.stdout.as_str()), (2, ""));
    assert!(
        told.stderr.contains("no code and no key `rope.sharpness`"),
        "{}",
        told.stderr
    );
}

#[test]
fn the_first_spec_is_written_once() {
    let room = Room::new();
    assert_eq!(room.run(&["init"]).code, 0);
    assert_eq!(room.run(&["check", "attention.yaml"]).code, 0);
    room.write("attention.yaml", "mine");
    let told = room.run(&["init"]);
    assert_eq!(
        (told.code, room.read("attention.yaml").as_str()),
        (4, "mine")
    );
    assert_eq!(
        told.stderr,
        "error: can't write `attention.yaml`: it exists; `--force` overwrites it\n"
    );
    assert_eq!(room.run(&["init", "--force"]).code, 0);
    assert!(
        room.run(&["init", "-"])
            .stdout
            .starts_with("# One Multi-head Latent Attention layer")
    );
}

#[test]
fn a_wrong_command_line_is_usage() {
    let room = Room::new();
    for words in [
        &["build"][..],
        &["check"],
        &["run", "a.yaml", "--mode", "sideways"],
        &["--wrong"],
        &[],
    ] {
        assert_eq!(room.run(words).code, 2, "{words:?}");
    }
    let told = room.run(&["verfy"]);
    assert!(
        told.code == 2 && told.stderr.contains("did you mean `mla-gen verify`?"),
        "{told:?}"
    );
    assert_eq!(room.run(&["nothing-like-it.yaml"]).code, 4);
    let help = room.run(&["--help"]);
    assert!(
        help.code == 0 && help.stdout.contains("exit codes:"),
        "{help:?}"
    );
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let told = room.run(&["completions", shell]);
        assert!(told.code == 0 && told.stdout.contains("verify"), "{shell}");
    }
}

#[test]
fn diagnostics_are_objects_of_their_own_lines_where_that_is_asked_for() {
    let room = Room::new();
    assert_eq!(room.run(&["init", "a.yaml"]).code, 0);
    let text = room.read("a.yaml");
    room.write("b.yaml", &text.replace("v_head_dim: 128", "v_head_dim: 0"));
    let told = room.run(&["check", "--message-format", "json", "a.yaml", "b.yaml"]);
    assert_eq!(told.code, 3, "{told:?}");
    let lines: Vec<serde_json::Value> = told
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, found) = lines.split_last().unwrap();
    assert_eq!(last["$message_type"], "check_finished");
    assert_eq!((&last["specs"], &last["failed"]), (&2.into(), &1.into()));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["spans"][0]["file_name"], "b.yaml");
    assert!(
        found[0]["rendered"]
            .as_str()
            .unwrap()
            .contains("--> b.yaml:"),
        "{found:?}"
    );
    assert!(told.stderr.contains("accepted `a.yaml`"), "{told:?}");
}

#[test]
fn a_watched_spec_is_checked_again_when_it_changes() {
    let room = Room::new();
    assert_eq!(room.run(&["init", "a.yaml"]).code, 0);
    let text = room.read("a.yaml");
    let mut watching = room.start(&["check", "--watch", "a.yaml"]);
    let first = watching.until("watching");
    assert!(first.contains("accepted `a.yaml`"), "{first}");
    room.write("a.yaml", &text.replace("v_head_dim: 128", "v_head_dim: 0"));
    let second = watching.until("watching");
    assert!(second.contains("--> a.yaml:"), "{second}");
    room.write("a.yaml", &text);
    let third = watching.until("watching");
    assert!(third.contains("accepted `a.yaml`"), "{third}");
    let told = room.run(&["check", "--watch", "-"]);
    assert_eq!(told.code, 2, "{told:?}");
}
