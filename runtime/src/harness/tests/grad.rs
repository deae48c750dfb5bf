//! Forward and backward, on layers whose gradients can be told by hand.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::trained_layer::{twice, usual};
use super::{drive, safetensors, tensor};
use crate::harness::Registry;
use crate::harness::report::Phase;
use crate::{Cpu, bf16};

const W: usize = usual::HIDDEN_SIZE;

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add_clipped::<usual::Straight<Cpu<f32>>, _>("usual");
    registry.add_clipped::<usual::Straight<Cpu<f64>>, _>("f64");
    registry.add_clipped::<usual::Straight<Cpu<bf16>>, _>("bf16");
    registry.add_train::<twice::Straight<Cpu<f32>>, _>("twice");
    registry.add_forward::<crate::proof::tests::layer::usual::Small<Cpu<f32>>, _>("forward");
    registry
}

fn job(layer: &str, out: Option<&Path>) -> Value {
    json!({
        "name": layer, "layer": layer, "weights": { "random": { "seed": 5 } }, "modes": ["grad"],
        "input": { "random": { "batch": 2, "prompt": 3, "steps": 0, "seed": 1 } }, "out": out,
    })
}

fn f32s(values: &[f64]) -> Vec<u8> {
    let bytes = values.iter().map(|&value| (value as f32).to_le_bytes());
    bytes.flatten().collect()
}

/// `xᵀ y`, `[W, W]`, over rows.
fn outer(x: &[f64], y: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; W * W];
    for (x, y) in x.chunks(W).zip(y.chunks(W)) {
        for (i, x) in x.iter().enumerate() {
            for (j, y) in y.iter().enumerate() {
                sum[i * W + j] += x * y;
            }
        }
    }
    sum
}

fn close(found: &[f64], wanted: &[f64], relative: f64) {
    assert_eq!(found.len(), wanted.len());
    let size = wanted.iter().fold(1e-9, |a: f64, b| a.max(b.abs()));
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(
            (found - wanted).abs() <= relative * size,
            "{found} {wanted}"
        );
    }
}

#[test]
fn gradients_are_written_measured_and_fed_again() {
    let folder = tempfile::tempdir().unwrap();
    for (layer, relative) in [("usual", 1e-5), ("f64", 1e-13), ("bf16", 1e-2)] {
        let out = folder.path().join(layer).join("out.safetensors");
        let report = drive(&registry(), folder.path(), &[job(layer, Some(&out))]).remove(0);
        assert_eq!(report.error, None);
        let calls: Vec<(Phase, usize)> = report.runs[0]
            .calls
            .iter()
            .map(|call| (call.phase, call.tokens))
            .collect();
        assert_eq!(calls, [(Phase::ForwardTrain, 6), (Phase::Backward, 6)]);
        let names: Vec<&String> = report.tensors.keys().collect();
        let wanted = [
            "grad.hidden_states",
            "grad.o_proj.weight",
            "grad_output",
            "hidden_states",
            "mid.max_logit",
            "output",
        ];
        assert_eq!(names, wanted);
        let (shape, d_output) = tensor(&out, "grad_output");
        assert_eq!(shape, [2, 3, W]);
        let (_, hidden) = tensor(&out, "hidden_states");
        let (_, d_weight) = tensor(&out, "grad.o_proj.weight");
        close(&d_weight, &outer(&d_output, &hidden), relative);
        let split = report.split.unwrap();
        assert_eq!((split.tensors, split.differs), (2, None));
        let norms: Vec<(&str, f64)> = report
            .gradients
            .iter()
            .map(|gradient| (gradient.name.as_str(), gradient.norm.unwrap()))
            .collect();
        assert_eq!((norms[0].0, norms[1].0), ("hidden_states", "o_proj.weight"));
        let square: f64 = d_weight.iter().map(|d| d * d).sum();
        close(&[norms[1].1], &[square.sqrt()], 1e-6);

        // What was written can be fed again, its own `grad_output` with it
        let second = folder.path().join(layer).join("again.safetensors");
        let mut again = job(layer, Some(&second));
        again["input"] = json!({ "io": { "path": out } });
        assert_eq!(drive(&registry(), folder.path(), &[again])[0].error, None);
        for name in wanted {
            assert_eq!(tensor(&out, name), tensor(&second, name), "{layer}: {name}");
        }
    }
}

/// An input of `[1, 3, W]` whose first row is padding, and a gradient of its output, 9 on that row.
fn padded(folder: &Path) -> (PathBuf, PathBuf) {
    let values: Vec<f64> = (0..3 * W).map(|i| i as f64 / 8.0 - 1.0).collect();
    let shape = vec![1, 3, W];
    let io = safetensors(
        folder,
        &[
            ("hidden_states", "F32", shape.clone(), f32s(&values)),
            ("attention_mask", "U8", vec![1, 3], vec![0, 1, 1]),
        ],
    );
    let d_output: Vec<f64> = (0..3 * W).map(|i| if i < W { 9.0 } else { 0.25 }).collect();
    let grads = safetensors(folder, &[("grad_output", "F32", shape, f32s(&d_output))]);
    (io, grads)
}

#[test]
fn padded_rows_have_no_part_in_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (io, grads) = padded(folder.path());
    let out = folder.path().join("out.safetensors");
    let mut padded = job("usual", Some(&out));
    padded["input"] = json!({ "io": { "path": io } });
    padded["grad"] = json!({ "output": grads });
    assert_eq!(drive(&registry(), folder.path(), &[padded])[0].error, None);
    let (_, d_output) = tensor(&out, "grad_output");
    assert!(d_output[..W].iter().all(|&d| d == 0.0) && d_output[W..].iter().all(|&d| d == 0.25));
    let (_, hidden) = tensor(&out, "hidden_states");
    let (_, d_weight) = tensor(&out, "grad.o_proj.weight");
    close(&d_weight, &outer(&d_output[W..], &hidden[W..]), 1e-6);
}

#[test]
fn tensors_have_the_prefix_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let made = json!({ "shape": [W, W], "base": 0.0, "amp": 1.0 });
    for prefix in ["a.b", "a.b."] {
        let out = folder.path().join("out.safetensors");
        let mut job = job("usual", Some(&out));
        let generator = json!({ "seed": 1, "tensors": { "a.b.o_proj.weight": made } });
        job["weights"] = json!({ "generated": { "prefix": prefix, "generator": generator } });
        let report = drive(&registry(), folder.path(), &[job]).remove(0);
        assert_eq!(report.error, None);
        assert!(report.tensors.contains_key("grad.a.b.o_proj.weight"));
    }
}

#[test]
fn clipped_weights_and_what_they_give_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let mut clipped = job("f64", Some(&out));
    clipped["grad"] = json!({ "clip": true });
    assert_eq!(drive(&registry(), folder.path(), &[clipped])[0].error, None);
    let of = |name: &str| tensor(&out, name).1;
    let largest = of("qkclip.s_max");
    assert_eq!(largest, of("mid.max_logit"));
    assert!(largest.iter().all(|&logit| logit > 0.5), "both are clipped");
    let factors: Vec<f64> = largest.iter().map(|logit| 0.5 / logit).collect();
    assert_eq!(of("qkclip.gamma"), factors);
    close(&of("qkclip.s_max_after"), &[0.5, 0.5], 1e-12);
    let scaled: Vec<f64> = of("output")
        .chunks(3)
        .zip(factors.iter().cycle())
        .flat_map(|(half, factor)| half.iter().map(move |y| y * factor))
        .collect();
    close(&of("qkclip.output_after"), &scaled, 1e-12);
    assert_eq!(tensor(&out, "qkclip.after.o_proj.weight").0, [W, W]);
}

#[test]
fn a_split_backward_that_differs_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let report = drive(&registry(), folder.path(), &[job("twice", None)]).remove(0);
    assert_eq!(report.error, None);
    let differs = report.split.unwrap().differs.unwrap();
    let words = "value 0 of the gradient of `o_proj.weight` is ";
    assert!(differs.starts_with(words), "{differs}");
}

#[test]
fn gradients_that_are_not_finite_have_no_norm() {
    let folder = tempfile::tempdir().unwrap();
    let (io, _) = padded(folder.path());
    let infinite = vec![f64::INFINITY; 3 * W];
    let tensors = [("grad_output", "F32", vec![1, 3, W], f32s(&infinite))];
    let mut job = job("usual", None);
    job["input"] = json!({ "io": { "path": io } });
    job["grad"] = json!({ "output": safetensors(folder.path(), &tensors) });
    let report = drive(&registry(), folder.path(), &[job]).remove(0);
    assert_eq!(report.error, None);
    assert!(
        report
            .gradients
            .iter()
            .all(|gradient| gradient.norm.is_none())
    );
}

#[test]
fn what_can_t_be_done_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (io, grads) = padded(dir);
    let short = [("grad_output", "F32", vec![1, 2, W], vec![0; 8 * W])];
    let whole = [("grad_output", "I64", vec![1, 3, W], vec![0; 24 * W])];
    let with = |layer: &str, grad: Value| {
        let mut job = job(layer, None);
        job["input"] = json!({ "io": { "path": io } });
        job["grad"] = grad;
        job
    };
    let mut forward = job("usual", None);
    forward["modes"] = json!(["forward"]);
    let mut untrained = job("forward", None);
    untrained["input"] = json!({ "random": { "batch": 1, "prompt": 2, "steps": 0, "seed": 0 } });
    let cases = [
        (with("usual", json!({ "output": dir.join("none") })), "none"),
        (
            with("usual", json!({ "output": io })),
            "there is no tensor `grad_output` [1, 3, 6] in it",
        ),
        (
            with("usual", json!({ "output": safetensors(dir, &short) })),
            "`grad_output` has shape [1, 2, 6], wanted [1, 3, 6]",
        ),
        (
            with("usual", json!({ "output": safetensors(dir, &whole) })),
            "`grad_output` is I64, wanted a float",
        ),
        (
            with("twice", json!({ "output": grads, "clip": true })),
            "the layer clips no weights: its spec needs a `qk_clip`",
        ),
        (forward, "its only mode is `grad`"),
        (untrained, "its spec needs the phase `train`"),
    ];
    let jobs: Vec<Value> = cases.iter().map(|(job, _)| job.clone()).collect();
    let reports = drive(&registry(), dir, &jobs);
    for ((_, wanted), report) in cases.iter().zip(&reports) {
        let error = report.error.as_deref().unwrap_or("nothing");
        assert!(error.contains(wanted), "found {error}\nwanted {wanted}");
    }
    assert!(reports[1].file_at_fault && !reports[4].file_at_fault);
}
