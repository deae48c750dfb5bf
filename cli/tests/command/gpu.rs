//! What belongs to GPUs, on a machine without one: kernels compiled ahead of time, and layers that are timed.

use super::room::{Room, checkout};

/// A room with a small spec `a.yaml` that names a GPU.
fn room() -> Room {
    let room = Room::new();
    assert_eq!(room.run(&["init", "a.yaml"]).code, 0);
    let spec = room.read("a.yaml");
    assert!(spec.contains("targets: [cpu]"), "{spec}");
    room.write(
        "gpu.yaml",
        &spec.replace("targets: [cpu]", "targets: [cpu, sm_90a]"),
    );
    room
}

#[test]
fn kernels_stand_beside_their_module_and_are_written_again() {
    let room = room();
    for verb in ["wrote", "unchanged"] {
        let told = room.run(&["build", "gpu.yaml", "-o", "out"]);
        assert!(told.code == 0 && told.stderr.contains(verb), "{told:?}");
    }
    let kernels = room.names("out/cuda");
    assert!(kernels.len() > 5 && kernels.iter().all(|name| name.ends_with(".cu")));
    let told = room.run(&["build", "a.yaml", "-o", "out"]);
    assert!(
        told.code == 0 && told.stderr.contains("removed"),
        "{told:?}"
    );
    assert_eq!(room.names("out"), ["mod.rs", "tests.rs"]);
}

#[test]
fn kernels_are_compiled_ahead_of_time() {
    let room = room();
    let told = room.run(&["build", "a.yaml", "--cubin"]);
    assert!(
        told.code == 2 && told.stderr.contains("name no GPU"),
        "{told:?}"
    );
    let told = room.run(&["build", "gpu.yaml", "--cubin", "-o", "out"]);
    if std::env::var_os("MLA_REQUIRE_NVRTC").is_none() && told.code == 5 {
        // The message says what is missing, and nothing was written
        assert!(
            told.stderr.contains("NVRTC") && !room.path("out").exists(),
            "{told:?}"
        );
        return;
    }
    assert_eq!(told.code, 0, "{told:?}");
    let kernels = room.names("out/cuda");
    let cubins: Vec<&String> = kernels
        .iter()
        .filter(|name| name.ends_with(".sm_90a.cubin"))
        .collect();
    let texts = kernels.iter().filter(|name| name.ends_with(".cu")).count();
    assert!(texts > 5 && cubins.len() >= texts, "{kernels:?}");
    let module = room.read("out/mod.rs");
    for cubin in cubins {
        assert!(
            module.contains(&format!("include_bytes!(\"cuda/{cubin}\")")),
            "{cubin}"
        );
        assert!(
            std::fs::read(room.path(&format!("out/cuda/{cubin}")))
                .unwrap()
                .starts_with(b"\x7fELF")
        );
    }
    let told = room.run(&["build", "gpu.yaml", "--cubin", "-o", "out", "--check"]);
    assert_eq!(told.code, 0, "{told:?}");
    // Without them, they go
    assert_eq!(room.run(&["build", "gpu.yaml", "-o", "out"]).code, 0);
    assert!(
        room.names("out/cuda")
            .iter()
            .all(|name| name.ends_with(".cu"))
    );
}

#[test]
fn a_layer_is_timed_and_what_can_not_be_timed_is_refused() {
    let room = room();
    for (words, wanted) in [
        (&["--prefill", "0"][..], "REQUESTSx"),
        (&["--decode", "4xx1"], "REQUESTSx"),
        (
            &["--forward", "4+5"],
            "only `--prefill` and `--decode` have a cache",
        ),
        (&["--form", "mqa", "--cubin"], "--cubin"),
    ] {
        let told = room.run(&[&["bench", "a.yaml"], words].concat());
        assert!(
            told.code == 2 && told.stderr.contains(wanted),
            "{words:?}: {told:?}"
        );
    }
    let config = checkout("tests/golden/v3_odd_dims_b2_s17/config.json");
    let told = room.run(&[
        "bench",
        &config,
        "--prefill",
        "2x6",
        "--decode",
        "3x1+9",
        "--json",
        "times.json",
    ]);
    assert_eq!(told.code, 0, "{told:?}");
    for line in [
        "\nprefill, 2 x 6 tokens over 0 cached: ",
        "\ndecode, 3 x 1 tokens over 9 cached: ",
        "FLOP/s\n",
    ] {
        assert!(told.stdout.contains(line), "{line:?}: {}", told.stdout);
    }
    let times: serde_json::Value = serde_json::from_str(&room.read("times.json")).unwrap();
    let timings = times[0]["timings"].as_array().unwrap();
    let phases: Vec<&str> = timings
        .iter()
        .map(|timing| timing["bench"]["phase"].as_str().unwrap())
        .collect();
    assert_eq!(phases, ["prefill", "decode"]);
    assert!(
        timings
            .iter()
            .all(|timing| timing["call_seconds"].as_f64().unwrap() > 0.0)
    );
}
