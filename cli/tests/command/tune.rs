//! Measuring kernels, on a machine without a GPU: what is refused, and what becomes of an answer.

use super::room::{Room, checkout};

/// What a program of 16 heads and two new tokens would answer.
const TABLE: &str = "# Kernels of absorbed decode, by rows of a block, and microseconds of one attention. Measured by `mla-gen tune`; not to be edited.
gpu\tNVIDIA H200
kernels\t0123456789abcdef
keys\theads\tnew\tlatent\trope\tmodel\tchosen\tmany_requests\tmany_length\tmany_16\tmany_32\tmany_64\tmany_128\tone_requests\tone_length\tone_16\tone_32\tone_64\tone_128
bf16\t16\t2\t512\t64\t32\t16\t128\t8192\t300.00\t320.00\t-\t-\t1\t8192\t10.00\t11.00\t-\t-
";

#[test]
fn what_has_no_kernels_to_choose_from_is_refused() {
    let room = Room::new();
    let v3 = checkout("spec/models/deepseek-v3.yaml");
    let v32 = checkout("spec/models/deepseek-v3.2.yaml");
    let odd = checkout("tests/golden/v3_odd_dims_b2_s17/config.json");
    for (words, wanted) in [
        (
            &[v3.as_str(), "--dtype", "bf16", "--ranks", "3"][..],
            "`--ranks 3` does not divide the 128 heads",
        ),
        (&[&v3], "pass `--dtype bf16`"),
        (&[&v32, "--dtype", "bf16"], "an indexer picks"),
        (&[&odd, "--dtype", "bf16"], "multiple of 128 up to 1024"),
        (&[&v3, "--new", "0"], "0 is not in 1..=64"),
        (&["--new", "1"], "<SPEC>..."),
    ] {
        let told = room.run(&[&["tune"], words, &["--out", "t.tsv"]].concat());
        assert!(
            told.code == 2 && told.stderr.contains(wanted),
            "{words:?}: {told:?}"
        );
    }
    let told = room.run(&["tune", "missing.yaml"]);
    assert_eq!(told.code, 4, "{told:?}");
    assert_eq!(room.names("."), [""; 0]);
}

#[test]
fn where_the_model_alone_decides_nothing_is_measured() {
    let room = Room::new();
    let v3 = checkout("spec/models/deepseek-v3.yaml");
    let told = room.run(&["tune", &v3, "--dtype", "bf16", "--out", "t.tsv"]);
    assert!(
        told.code == 0
            && told
                .stderr
                .contains("128 heads, 2 new, 512 + 64 wide: not measured"),
        "{told:?}"
    );
    assert_eq!(room.names("."), [""; 0]);
}

#[test]
fn a_file_that_can_not_become_a_table_is_refused_before_anything_is_measured() {
    let room = Room::new();
    let v3 = checkout("spec/models/deepseek-v3.yaml");
    room.write("notes.txt", "mine\n");
    for (file, wanted) in [
        ("notes.txt", "is no table of `mla-gen tune`"),
        ("missing/t.tsv", "there is no such folder"),
    ] {
        let words = [
            "tune", &v3, "--dtype", "bf16", "--ranks", "8", "--out", file,
        ];
        let told = room.run_with(&words, &[("MLA_GEN_PROGRAM", "never started")]);
        assert!(told.code == 4 && told.stderr.contains(wanted), "{told:?}");
    }
    assert_eq!(room.read("notes.txt"), "mine\n");
}

/// A program that copies its question to `asked.json`, and answers what `answer.json` holds.
#[cfg(unix)]
fn program(room: &Room) -> String {
    use std::os::unix::fs::PermissionsExt;
    let script = "#!/bin/sh\nhere=$(dirname \"$0\")\ncp \"$1\" \"$here/asked.json\"\n\
                  cp \"$here/answer.json\" \"$(sed 's/^{\"answer\":\"\\([^\"]*\\)\".*/\\1/' \"$1\")\"\n";
    room.write("program", script);
    let path = room.path("program");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[cfg(unix)]
#[test]
fn an_answer_becomes_a_file_whole_or_not_at_all() {
    let room = Room::new();
    let v3 = checkout("spec/models/deepseek-v3.yaml");
    let program = program(&room);
    let tune = |more: &[&str]| {
        let words = [
            "tune",
            v3.as_str(),
            "--dtype",
            "bf16",
            "--ranks",
            "8",
            "--new",
            "2",
        ];
        room.run_with(&[&words, more].concat(), &[("MLA_GEN_PROGRAM", &program)])
    };
    let answer = |answer: serde_json::Value| room.write("answer.json", &answer.to_string());

    answer(serde_json::json!({ "error": "no driver: install one", "table": null }));
    let told = tune(&["--out", "t.tsv"]);
    assert!(
        told.code == 5 && told.stderr.contains("no driver: install one"),
        "{told:?}"
    );
    answer(serde_json::json!({ "error": null, "table": "gpu\tNVIDIA H200\n" }));
    let told = tune(&["--out", "t.tsv"]);
    assert!(
        told.code == 4 && told.stderr.contains("is no table: no line `kernels`"),
        "{told:?}"
    );
    assert_eq!(room.names("."), ["answer.json", "asked.json", "program"]);

    answer(serde_json::json!({ "error": null, "table": TABLE }));
    let told = tune(&[]);
    assert_eq!((told.code, told.stdout.as_str()), (0, TABLE), "{told:?}");
    assert!(
        told.stderr
            .contains("16 heads, 2 new, 512 + 64 wide: blocks of 16 rows, not the model's of 32"),
        "{told:?}"
    );
    // The second time over the first
    for _ in 0..2 {
        let told = tune(&["--out", "t.tsv"]);
        assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{told:?}");
        assert_eq!(room.read("t.tsv"), TABLE);
    }
    let asked: serde_json::Value = serde_json::from_str(&room.read("asked.json")).unwrap();
    let shapes = serde_json::json!([
        { "heads": 16, "new": 2, "latent": 512, "rope": 64, "model": 32, "blocks": [16, 32, 64] }
    ]);
    assert_eq!(asked["shapes"], shapes);
    assert_eq!(asked["kernels"].as_array().unwrap().len(), 5);
}

#[test]
fn the_program_measures_or_says_why_it_can_not() {
    let room = Room::new();
    let v3 = checkout("spec/models/deepseek-v3.yaml");
    let words = [
        "tune", &v3, "--dtype", "bf16", "--ranks", "8", "--new", "2", "--out", "t.tsv",
    ];
    let told = room.run(&words);
    if told.code == 0 {
        assert!(
            room.read("t.tsv").contains("\nbf16\t16\t2\t512\t64\t32\t"),
            "{told:?}"
        );
        return;
    }
    // No driver, or another GPU
    assert_eq!(told.code, 5, "{told:?}");
    assert!(
        told.stderr.contains("driver") || told.stderr.contains("Hopper"),
        "{told:?}"
    );
    assert_eq!(room.names("."), [""; 0]);
}
