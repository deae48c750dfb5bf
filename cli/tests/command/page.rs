//! `mla-gen show --html`.

use super::room::{Room, checkout};

/// What `mla-gen bench SPEC --json FILE` writes of one call of DeepSeek-V3's decode.
const BENCH: &str = r#"[{
  "error": null, "hidden_size": 7168, "batch": 0, "seq": 0, "requests": 0, "runs": [], "cached_against_forward": null, "cache": null,
  "timings": [{
    "bench": { "phase": "decode", "requests": 64, "new": 1, "cached": 8192 },
    "call_seconds": 0.0007, "device_seconds": 0.0006,
    "commands": [{ "name": "decode_wide", "count": 1, "seconds": 0.0004, "work": { "bytes": 640000000, "flops": 146000000000 } }]
  }],
  "device": { "name": "NVIDIA H200", "arch": "sm_90a" },
  "ceilings": { "read": 4.49e12, "products": 6.75e14, "text": "ceilings" },
  "out": null, "tensors": {}
}]"#;

fn v3() -> String {
    checkout("spec/models/deepseek-v3.yaml")
}

#[test]
fn a_layer_becomes_a_page() {
    let room = Room::new();
    let told = room.run(&["show", &v3(), "--html", "v3.html"]);
    assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{told:?}");
    assert!(told.stderr.contains("Wrote v3.html"), "{told:?}");
    let page = room.read("v3.html");
    assert!(page.contains("<title>DeepSeekV3Attention – mla-gen</title>"));
    for section in ["forward", "prefill", "decode", "mixed"] {
        assert!(
            page.contains(&format!("<section id=\"{section}\"")),
            "{section}"
        );
    }
    let again = room.run(&["show", &v3(), "--html", "v3.html", "--phase", "decode"]);
    assert_eq!(again.code, 0, "an earlier page is written over: {again:?}");
    assert!(!room.read("v3.html").contains("<section id=\"forward\""));
    let printed = room.run(&["show", &v3(), "--html", "-", "--phase", "decode"]);
    assert_eq!(printed.stdout, room.read("v3.html"));
    assert_eq!(room.names(""), ["v3.html"], "nothing temporary is left");
}

#[test]
fn two_layers_share_a_page() {
    let room = Room::new();
    let other = checkout("spec/models/deepseek-v3.2.yaml");
    let told = room.run(&["show", &v3(), "--against", &other, "--html", "two.html"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(room.read("two.html").contains("only in B"));
    let alone = room.run(&["show", &v3(), "--against", &other]);
    assert_eq!(alone.code, 2, "{alone:?}");
}

#[test]
fn what_was_timed_is_shown() {
    let room = Room::new();
    room.write("bench.json", BENCH);
    let told = room.run(&["show", &v3(), "--html", "v3.html", "--bench", "bench.json"]);
    assert_eq!(told.code, 0, "{told:?}");
    let page = room.read("v3.html");
    assert!(page.contains("measured: 64 × 1 tokens over 8192 cached, on NVIDIA H200"));
    assert!(page.contains("decode_wide × 1"));

    room.write("other.json", &BENCH.replace("7168", "4096"));
    room.write("zero.json", &BENCH.replace("0.0006", "0.0"));
    room.write("text.json", "[");
    for (file, code, said) in [
        ("other.json", 2, "times a layer of hidden size 4096"),
        ("zero.json", 4, "took 0 s: time it again"),
        ("text.json", 4, "mla-gen bench SPEC --json FILE"),
        ("none.json", 4, "can't read `none.json`"),
    ] {
        let told = room.run(&["show", &v3(), "--html", "no.html", "--bench", file]);
        assert_eq!(told.code, code, "{file}: {told:?}");
        assert!(told.stderr.contains(said), "{file}: {told:?}");
    }
    let twice = [
        "show",
        &v3(),
        "--html",
        "no.html",
        "--bench",
        "bench.json",
        "--bench",
        "bench.json",
    ];
    let told = room.run(&twice);
    assert_eq!(told.code, 2, "{told:?}");
    assert!(!room.path("no.html").exists(), "nothing is half-written");
}

#[test]
fn what_cannot_be_shown_is_refused_with_a_way_out() {
    let room = Room::new();
    let model = checkout("spec/models/whole/glm-5.2.yaml");
    room.write("mine.html", "<!doctype html>\n<p>mine</p>");
    for (words, code, said) in [
        (
            vec!["show", &model, "--html", "a.html"],
            2,
            "choose an attention with `--layer`",
        ),
        (
            vec!["show", &v3(), "--against", &model, "--html", "a.html"],
            2,
            "choose an attention with `--layer`",
        ),
        (
            vec!["show", &v3(), "--against", "-", "--html", "a.html"],
            2,
            "only SPEC can come from stdin",
        ),
        (
            vec!["show", &v3(), "--html", "a.html", "--phase", "train"],
            2,
            "has no phase Train",
        ),
        (
            vec!["show", &v3(), "--html", "a.html", "--budget", "1"],
            2,
            "--budget",
        ),
        (
            vec!["show", &v3(), "--html", "."],
            4,
            "it is a folder; name a file",
        ),
        (
            vec!["show", &v3(), "--html", "no/a.html"],
            4,
            "there is no folder `no`; make it first",
        ),
        (
            vec!["show", &v3(), "--html", "mine.html"],
            4,
            "mla-gen did not write what stands there",
        ),
    ] {
        let told = room.run(&words);
        assert_eq!(told.code, code, "{words:?}: {told:?}");
        assert!(told.stderr.contains(said), "{words:?}: {told:?}");
    }
    assert_eq!(room.names(""), ["mine.html"]);
    assert!(room.read("mine.html").contains("mine"));

    let one = [
        "show",
        &model,
        "--layer",
        "3",
        "--against",
        &model,
        "--html",
        "one.html",
    ];
    let told = room.run(&one);
    assert_eq!(told.code, 0, "{told:?}");
}
