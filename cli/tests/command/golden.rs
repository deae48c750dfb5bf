//! Golden cases, and broken copies of them.

use std::path::Path;

use super::room::{Room, checkout};

/// Copies a case into a room.
pub(crate) fn copy(room: &Room, case: &str, to: &str) {
    std::fs::create_dir_all(room.path(to)).unwrap();
    for entry in std::fs::read_dir(Path::new(&checkout("tests/golden")).join(case)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), room.path(to).join(entry.file_name())).unwrap();
    }
}

/// Everything about `verify` that needs a compiled program stands in one test: there is one program for all cases given.
#[test]
fn cases_are_verified_and_broken_ones_stop_nobody() {
    let room = Room::new();
    copy(&room, "v3_leftpad_b2_s24", "wrong_tolerance");
    let manifest = room
        .read("wrong_tolerance/manifest.json")
        .replace("\"atol\": 1.4e-05", "\"atol\": 1.4e-15");
    room.write(
        "wrong_tolerance/manifest.json",
        &manifest.replace("\"rtol\": 1e-05", "\"rtol\": 1e-15"),
    );
    copy(&room, "v3_leftpad_b2_s24", "without_io");
    std::fs::remove_file(room.path("without_io/io.safetensors")).unwrap();
    copy(&room, "v3_leftpad_b2_s24", "refused");
    room.write("refused/config.json", "{ \"model_type\": \"llama\" }");
    copy(&room, "v3_leftpad_b2_s24", "truncated");
    let weights = std::fs::read(room.path("truncated/weights.safetensors")).unwrap();
    std::fs::write(
        room.path("truncated/weights.safetensors"),
        &weights[..weights.len() / 2],
    )
    .unwrap();

    let (leftpad, packed) = (
        checkout("tests/golden/v3_leftpad_b2_s24"),
        checkout("tests/golden/v3_packed_b1_s40"),
    );
    let cases = [
        "refused",
        &leftpad,
        "without_io",
        "wrong_tolerance",
        "truncated",
        &packed,
    ];
    let told = room.run(&[&["verify", "--out-dir", "out"], &cases[..]].concat());
    assert_eq!(told.code, 1, "{told:?}");
    assert!(
        told.stderr.ends_with("error: 4 of 6 cases failed\n"),
        "{}",
        told.stderr
    );

    // A table for each case that could be read, without a failure in the good ones
    let table = |case: &str| {
        let start = told
            .stdout
            .find(&format!("{case}: DeepSeekV3Attention, f32\n"))
            .unwrap();
        told.stdout[start..].split("\n\n").next().unwrap()
    };
    for case in ["v3_leftpad_b2_s24", "v3_packed_b1_s40"] {
        let table = table(case);
        assert!(
            !table.contains("FAIL") && table.matches("pass").count() > 40,
            "{table}"
        );
        for words in [
            "forward  mha",
            "forward  mqa",
            "cached   mha   naive",
            "latent, contiguous",
            "latent, pages of 7",
        ] {
            assert!(table.contains(words), "{words}: {table}");
        }
    }
    assert!(table("v3_leftpad_b2_s24").contains("cache.kv_latent"));
    assert!(table("wrong_tolerance").contains("FAIL"));
    assert!(table("truncated").contains("FAIL: "));

    // The last run's tensors, also where the comparison failed; nothing where the layer could not be loaded
    for case in ["v3_leftpad_b2_s24", "v3_packed_b1_s40", "wrong_tolerance"] {
        let bytes = std::fs::read(room.path("out").join(case).join("out.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for name in [
            "output",
            "mid.q",
            "mid.kv_latent",
            "mid.k_pe",
            "mid.attn_out",
            "mid.lse",
            "mid.max_logit",
            "cache.k_pe",
        ] {
            assert!(file.tensor(name).is_ok(), "{case} lacks {name}");
        }
    }
    assert!(!room.path("out/truncated").exists());
}

#[test]
fn a_program_that_does_not_compile_fails_each_case() {
    let room = Room::new();
    let cache = room.path("cache");
    let environment = [
        ("MLA_CACHE_DIR", cache.to_str().unwrap()),
        ("CARGO", "/nowhere/cargo"),
    ];
    let cases = [
        checkout("tests/golden/v3_yarn_b1_s33"),
        checkout("tests/golden/v3_odd_dims_b2_s17"),
    ];
    let told = room.run_with(&["verify", &cases[0], &cases[1]], &environment);
    assert_eq!((told.code, told.stdout.as_str()), (5, ""), "{told:?}");
    assert!(
        told.stderr.ends_with("error: 2 of 2 cases failed\n"),
        "{}",
        told.stderr
    );
}

#[test]
fn exit_codes_without_a_program() {
    let room = Room::new();
    copy(&room, "v3_yarn_b1_s33", "refused");
    room.write("refused/config.json", "{ \"model_type\": \"llama\" }");
    assert_eq!(room.run(&["verify", "refused"]).code, 3);
    assert_eq!(room.run(&["verify", "missing"]).code, 4);
    assert_eq!(room.run(&["verify", "missing", "refused"]).code, 1);
    let told = room.run(&["verify", "--out-dir", "o", "refused", "other/../refused"]);
    assert!(told.code == 2 || told.code == 3, "{told:?}");
    room.write("other/refused/x", "");
    let told = room.run(&["verify", "--out-dir", "o", "refused", "other/refused"]);
    assert!(
        told.code == 2 && told.stderr.contains("two cases are called `refused`"),
        "{told:?}"
    );
}
