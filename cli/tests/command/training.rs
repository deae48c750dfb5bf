//! Training: gradients of golden cases, and of a layer that is run.

use std::path::Path;

use super::golden::copy;
use super::room::{Room, checkout};

/// A tensor of a file: its shape, and its values where they are F32.
fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks_exact(4);
    let values = values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}

/// Writes an F32 file of tensors that hold one value each.
fn write(path: &Path, tensors: &[(&str, &[usize], f32)]) {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape, value)| value.to_le_bytes().repeat(shape.iter().product()))
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Everything about `verify --grad` that needs a compiled program stands in one test: there is one program for all cases given.
#[test]
fn gradients_are_verified_and_broken_cases_stop_nobody() {
    let room = Room::new();
    let leftpad = "v3_leftpad_b2_s24";
    copy(&room, leftpad, "wrong_tolerance");
    let manifest = room.read("wrong_tolerance/manifest.json");
    let (before, grads) = manifest.split_once("\"grads\": {").unwrap();
    let grads = grads
        .replace("\"rtol\": 1e-05", "\"rtol\": 1e-15")
        .replace("e-05", "e-15");
    let manifest = format!("{before}\"grads\": {{{grads}");
    room.write("wrong_tolerance/manifest.json", &manifest);
    copy(&room, leftpad, "unlisted");
    let manifest = room.read("unlisted/manifest.json").replace(
        "\"grad.model.layers.0.self_attn.o_proj.weight\"",
        "\"grad.model.layers.0.self_attn.out.weight\"",
    );
    room.write("unlisted/manifest.json", &manifest);
    copy(&room, leftpad, "short");
    let short = room.path("short/grads.safetensors");
    write(&short, &[("grad_output", &[2, 23, 64], 1.0)]);
    copy(&room, leftpad, "without_file");
    std::fs::remove_file(room.path("without_file/grads.safetensors")).unwrap();
    copy(&room, leftpad, "without_section");
    let manifest = room.read("without_section/manifest.json");
    let manifest = manifest.replace("\"grads\": {", "\"other\": {");
    room.write("without_section/manifest.json", &manifest);
    let golden = |name: &str| checkout(&format!("tests/golden/{name}"));
    let (leftpad, clip, loss, none) = (
        golden(leftpad),
        golden("v3_qkclip_b2_s24"),
        golden("v32_dsa_b1_s40"),
        golden("v3_far_positions_b1_s16"),
    );
    let cases = [
        "without_file",
        &leftpad,
        "without_section",
        "wrong_tolerance",
        &none,
        "short",
        "unlisted",
        &clip,
        &loss,
    ];
    let words = ["verify", "--grad", "--recompute", "none,core_attn,all"];
    let told = room.run(&[&words[..], &["--out-dir", "out"], &cases].concat());
    assert_eq!(told.code, 1, "{told:?}");
    for line in [
        "`without_file/grads.safetensors`: no such file, and `grads` in manifest.json compares with it; copy it there, or remove `grads`\n",
        "`without_section/manifest.json`: it has no `grads`, which says how closely `grads.safetensors` is to be met\n",
        "note: 1 case passed over, with no `grads.safetensors`, `qkclip.safetensors` or `indexer_loss.safetensors`: `v3_far_positions_b1_s16`\n",
    ] {
        assert!(told.stderr.contains(line), "{line}: {}", told.stderr);
    }
    let end = "error: 5 of 8 cases failed\n";
    assert!(told.stderr.ends_with(end), "{}", told.stderr);

    let table = |case: &str| {
        let start = told.stdout.find(&format!("{case}: DeepSeekV3")).unwrap();
        told.stdout[start..].split("\n\n").next().unwrap()
    };
    let has = |case: &str, lines: &[&str]| {
        let table = table(case);
        // Columns are as wide as they must be
        let narrow: Vec<String> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for line in lines {
            let found = narrow.iter().any(|row| row.starts_with(line));
            assert!(found, "{case}: {line}\n{table}");
        }
        table.matches("FAIL").count()
    };
    let good = [
        "gradients mha none grad.hidden_states ",
        "gradients mqa none grad.model.layers.0.self_attn.kv_b_proj.weight ",
        "gradients mha none backward in two parts, 8 tensors 0.00e0 0.00e0 pass",
        "gradients mha core_attn the same bits, 12 tensors 0.00e0 0.00e0 pass",
        "gradients mqa all the same bits, 12 tensors 0.00e0 0.00e0 pass",
    ];
    assert_eq!(has("v3_leftpad_b2_s24", &good), 0);
    assert!(!table("v3_leftpad_b2_s24").contains("q_up_proj "));
    let clipped = [
        "qk_clip mha none qkclip.after.model.layers.0.self_attn.q_b_proj.weight ",
        "qk_clip mqa none qkclip.gamma ",
        "qk_clip mqa none qkclip.output_after ",
    ];
    assert_eq!(has("v3_qkclip_b2_s24", &clipped), 0);
    let learned = [
        "dense loss mha none indexer_loss.dense ",
        "dense loss mqa none frozen, 7 tensors 0.00e0 0.00e0 pass",
        "sparse loss mqa none indexer_loss.sparse.grad.model.layers.0.self_attn.indexer.wk.weight ",
        "sparse loss mha all the same bits, ",
        "gradients mha none without a gradient, 5 tensors 0.00e0 0.00e0 pass",
    ];
    assert_eq!(has("v32_dsa_b1_s40", &learned), 0);

    // Which element is off stands behind it; bits are still the same
    let wrong = table("wrong_tolerance");
    let failed: Vec<&str> = wrong.lines().filter(|line| line.contains("FAIL")).collect();
    let named = |line: &&str| line.contains(" instead of ") && line.contains(" at [");
    assert!(failed.len() > 4 && failed.iter().all(named), "{wrong}");
    assert!(wrong.contains("core_attn") && !wrong.contains("core_attn  grad"));
    let unlisted = [
        "gradients mha none grad.model.layers.0.self_attn.out.weight FAIL: the case has no such tensor",
        "gradients mha none grad.model.layers.0.self_attn.o_proj.weight FAIL: `grads` in the manifest does not say how closely",
    ];
    assert_eq!(has("unlisted", &unlisted), 4);
    assert!(table("short").contains("FAIL: `short/grads.safetensors`: tensor `grad_output` has shape [2, 23, 64], wanted [2, 24, 64]"));

    // The gradients themselves are kept, also where they differ
    for case in ["v3_leftpad_b2_s24", "wrong_tolerance"] {
        let out = room.path("out").join(case).join("out.safetensors");
        assert_eq!(tensor(&out, "grad.hidden_states").0, [2, 24, 64]);
    }
}

#[test]
fn what_can_t_be_verified_is_refused_before_anything_is_compiled() {
    let room = Room::new();
    let none = checkout("tests/golden/v3_far_positions_b1_s16");
    let told = room.run(&["verify", "--grad", &none]);
    assert_eq!((told.code, told.stdout.as_str()), (4, ""), "{told:?}");
    let end = "error: there is nothing to verify: no case has `grads.safetensors`, `qkclip.safetensors` or `indexer_loss.safetensors`\n";
    assert!(told.stderr.ends_with(end), "{}", told.stderr);
    for words in [
        &["verify", "--grad", "--mode", "forward", &none][..],
        &["verify", "--grad", "--recompute", "everything", &none],
        &["verify", "--recompute", "all", &none],
        &["run", "--grad", "--steps", "3", &none],
        &["run", "--grad", "--prompt", "0", &none],
    ] {
        assert_eq!(room.run(words).code, 2, "{words:?}");
    }
    for (spec, problem) in [
        ("bart-large-cross.yaml", "attends to another sequence"),
        ("glm-5.2-shared.yaml", "the keys that another layer picked"),
    ] {
        let spec = checkout(&format!("spec/models/{spec}"));
        let told = room.run(&["run", "--grad", &spec]);
        assert!(told.code == 2 && told.stderr.contains(problem), "{told:?}");
    }
}

#[test]
fn a_layer_is_trained_whatever_its_phases_are() {
    let room = Room::new();
    let spec = checkout("spec/models/odd-small.yaml");
    let words = ["run", "--grad", &spec, "--prompt", "7", "--batch", "2"];
    let told = room.run(&[&words[..], &["--out", "first.safetensors"]].concat());
    assert_eq!(told.code, 0, "{told:?}");
    for line in [
        "layer     OddSmallAttention\n",
        "\nforward   MHA form, 1 call, 14 tokens, ",
        "\nbackward  MHA form, 1 call, 14 tokens, ",
        " bytes per token, ",
        "\ngradient  of hidden_states              norm ",
        "\ngradient  of kv_a_layernorm.bias        norm ",
        "\nproof     12 gradients, all finite: pass\n",
        "\nproof     backward_input and backward_dw equal backward, bit for bit, 10 tensors: pass\n",
    ] {
        assert!(told.stdout.contains(line), "{line:?}: {}", told.stdout);
    }

    // What was written is an input
    let again = ["run", "--grad", &spec, "--io", "first.safetensors"];
    let told = room.run(&[&again[..], &["--out", "second.safetensors"]].concat());
    assert_eq!(told.code, 0, "{told:?}");
    let (first, second) = (
        room.path("first.safetensors"),
        room.path("second.safetensors"),
    );
    assert_eq!(tensor(&first, "grad.q_a_proj.bias").0, [27]);
    for name in [
        "hidden_states",
        "grad_output",
        "output",
        "grad.hidden_states",
        "grad.kv_b_proj.weight",
    ] {
        assert_eq!(tensor(&first, name), tensor(&second, name), "{name}");
    }

    // Numbers that are too large are told
    let large = room.path("large.safetensors");
    write(&large, &[("hidden_states", &[1, 3, 75], f32::MAX)]);
    let told = room.run(&["run", "--grad", &spec, "--io", "large.safetensors"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stdout.contains("all finite: FAIL\n"), "{told:?}");
    assert!(told.stderr.contains("not finite"), "{told:?}");
}

/// The first attention of the model hands its latents on, the second attends to them.
#[test]
fn what_layers_hand_to_each_other_has_gradients() {
    let room = Room::new();
    let spec = checkout("spec/models/small-shared.yaml");
    let run = |layer: &str, io: &str, out: &str| {
        let words = ["run", "--grad", &spec, "--layer", layer, "--io", io];
        room.run(&[&words[..], &["--out", out]].concat())
    };
    let hidden: (&str, &[usize], f32) = ("hidden_states", &[1, 5, 96], 0.5);
    write(&room.path("own.safetensors"), &[hidden]);
    let told = run("0", "own.safetensors", "first.safetensors");
    assert_eq!(told.code, 0, "{told:?}");
    let given: [(&str, &[usize], f32); 2] = [
        ("shared_kv.kv_latent", &[1, 5, 24], 0.25),
        ("shared_kv.k_pe", &[1, 5, 8], 0.125),
    ];
    write(
        &room.path("taken.safetensors"),
        &[hidden, given[0], given[1]],
    );
    let told = run("1", "taken.safetensors", "second.safetensors");
    assert_eq!(told.code, 0, "{told:?}");
    for (name, shape, _) in given {
        assert!(told.stdout.contains(&format!("gradient  of {name} ")));
        let second = room.path("second.safetensors");
        assert_eq!(tensor(&second, &format!("grad.{name}")).0, shape);
    }
    let told = run("1", "own.safetensors", "third.safetensors");
    assert_eq!(told.code, 5, "{told:?}");
}
