//! run: a layer compiled and fed.

use super::room::{Room, checkout};

/// One spec, so that one program is compiled; every way of feeding it.
#[test]
fn a_layer_runs_on_random_and_on_given_inputs() {
    let room = Room::new();
    let case = checkout("tests/golden/v3_odd_dims_b2_s17");
    let config = format!("{case}/config.json");
    let told = room.run(&[
        "run",
        &config,
        "--prompt",
        "9",
        "--steps",
        "3",
        "--batch",
        "2",
        "--out",
        "random.safetensors",
    ]);
    assert_eq!(told.code, 0, "{told:?}");
    for line in [
        "layer     DeepSeekV3Attention\n",
        "shapes    hidden [2, 12, ",
        "\nprefill   MHA form, 1 call, 18 tokens, ",
        "\ndecode    MQA form, 3 calls, 6 tokens, ",
        "\ncache ",
    ] {
        assert!(told.stdout.contains(line), "{line:?}: {}", told.stdout);
    }
    let last = told.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("proof     cached steps equal the full forward: ")
            && last.ends_with(": pass"),
        "{last}"
    );
    assert!(room.path("random.safetensors").exists());

    // The same again from files: the prefix stands in the config, with or without its dot
    let (weights, io) = (
        format!("{case}/weights.safetensors"),
        format!("{case}/io.safetensors"),
    );
    for prefix in [
        &[][..],
        &["--prefix", "model.layers.0.self_attn"],
        &["--prefix", "model.layers.0.self_attn."],
    ] {
        let words = [
            "run",
            &config,
            "--weights",
            &weights,
            "--io",
            &io,
            "--mode",
            "cached",
            "--chunks",
            "9,1,7",
            "--out",
            "out.safetensors",
        ];
        let told = room.run(&[&words[..], prefix].concat());
        assert_eq!(told.code, 0, "{told:?}");
        assert!(
            !told.stdout.contains("proof")
                && told
                    .stdout
                    .contains("\nprefill   MHA form, 2 calls, 32 tokens, "),
            "{}",
            told.stdout
        );
    }
    let (wanted, found) = (
        tensor(&io, "output"),
        tensor(room.path("out.safetensors").to_str().unwrap(), "output"),
    );
    assert_eq!(wanted.len(), found.len());
    assert!(
        wanted
            .iter()
            .zip(&found)
            .all(|(wanted, found)| (wanted - found).abs() < 1e-4)
    );

    // What the program refuses is the program's failure
    let told = room.run(&[
        "run",
        &config,
        "--weights",
        &weights,
        "--prefix",
        "model.layers.7.self_attn",
    ]);
    assert!(
        told.code == 5 && told.stderr.contains("q_a_proj.weight"),
        "{told:?}"
    );
    let told = room.run(&[
        "run", &config, "--io", &io, "--mode", "cached", "--chunks", "9,1",
    ]);
    assert!(told.code == 5 && told.stderr.contains("[9, 1]"), "{told:?}");

    // A file that it can't use is an I/O failure, wherever that is found out
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(
        room.path("truncated.safetensors"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    let told = room.run(&["run", &config, "--weights", "truncated.safetensors"]);
    assert!(
        told.code == 4 && told.stderr.contains("truncated.safetensors"),
        "{told:?}"
    );
    let told = room.run(&["run", &config, "--out", "truncated.safetensors/below"]);
    assert!(
        told.code == 4 && told.stderr.contains("truncated.safetensors/below"),
        "{told:?}"
    );
}

#[test]
fn what_can_be_seen_without_compiling_is_refused_at_once() {
    let room = Room::new();
    let spec = checkout("spec/models/odd-small.yaml");
    assert_eq!(
        room.run(&["run", &spec, "--weights", "missing.safetensors"])
            .code,
        4
    );
    assert_eq!(
        room.run(&["run", &spec, "--io", "missing.safetensors"])
            .code,
        4
    );
    room.write("text.safetensors", "text");
    for (io, problem) in [
        ("missing.safetensors", "`: No such file"),
        ("text.safetensors", "`: it is no safetensors file: "),
    ] {
        let told = room.run(&["run", &spec, "--io", io]);
        assert_eq!(told.code, 4);
        assert!(
            told.stderr.contains(problem) && told.stderr.matches(io).count() == 1,
            "{told:?}"
        );
    }
    assert_eq!(
        room.run(&["run", &spec, "--prompt", "0", "--steps", "0"])
            .code,
        2
    );
    assert_eq!(room.run(&["run", &spec, "--prefix", "p"]).code, 2);
    for (arguments, problem) in [
        (["--chunks", "5,5", "--prompt", "3"], "add up to 10 tokens"),
        (["--chunks", "5,5", "--mode", "forward"], "`--mode forward`"),
        (["--page", "4", "--mode", "forward"], "`--mode forward`"),
    ] {
        let told = room.run(&[&["run", &spec], &arguments[..]].concat());
        assert_eq!(told.code, 2, "{told:?}");
        assert!(told.stderr.contains(problem), "{told:?}");
    }
    room.write(
        "naive.yaml",
        &std::fs::read_to_string(&spec)
            .unwrap()
            .replace(
                "latent_f32, page_size: 3, rope_layout: interleaved",
                "naive_f32",
            )
            .replace("  context_chunk: 7\n", ""),
    );
    let told = room.run(&["run", "naive.yaml", "--form", "mqa"]);
    assert!(
        told.code == 2 && told.stderr.contains("naive cache"),
        "{told:?}"
    );
}

#[test]
fn a_failing_cargo_is_named() {
    let room = Room::new();
    let cache = room.path("cache");
    let environment = [
        ("MLA_CACHE_DIR", cache.to_str().unwrap()),
        ("CARGO", "/nowhere/cargo"),
    ];
    let told = room.run_with(
        &["run", &checkout("spec/models/odd-small.yaml")],
        &environment,
    );
    assert!(
        told.code == 5 && told.stderr.contains("`/nowhere/cargo` can't be started"),
        "{told:?}"
    );
    let environment = [
        ("MLA_CACHE_DIR", cache.to_str().unwrap()),
        ("RUSTFLAGS", "--no-such-flag"),
    ];
    let told = room.run_with(
        &["run", &checkout("spec/models/odd-small.yaml")],
        &environment,
    );
    assert_eq!(told.code, 5, "{told:?}");
    assert!(
        told.stderr.contains("no-such-flag") && told.stderr.contains("`cargo build --release"),
        "{told:?}"
    );
}

fn tensor(path: &str, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    view.data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}
