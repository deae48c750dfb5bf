//! Jobs that can't be done become reports with an error, and the next one is done all the same.

use std::path::Path;

use serde_json::{Value, json};

use super::{drive, safetensors};
use crate::harness::Registry;
use crate::harness::run::do_jobs;
use crate::proof::tests::layer::usual;
use crate::{
    Backend, Cpu, Extras, Forward, Load, Mask, Probe, Result, Tensor, TensorShape, Weights,
};

/// A layer that panics.
struct Panics;

impl<B: Backend> Load<B> for Panics {
    const HIDDEN_SIZE: usize = 24;
    const TENSORS: &'static [TensorShape] = &[];

    fn load(_weights: &Weights, _prefix: &str, _device: &B::Device) -> Result<Self> {
        Ok(Self)
    }
}

impl Forward<Cpu<f32>> for Panics {
    fn forward_erased(
        &self,
        _hidden: &Tensor<Cpu<f32>>,
        _positions: &[u32],
        _mask: &Mask,
        _extras: &mut Extras<'_, Cpu<f32>>,
        _probe: &mut dyn Probe,
    ) -> Result<Tensor<Cpu<f32>>> {
        panic!("of its own accord")
    }
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add::<usual::Small<Cpu<f32>>, _>("usual");
    registry.add_forward::<Panics, Cpu<f32>>("panics");
    registry
}

/// Writes an input of `[batch, seq, width]` zeros with more tensors: name, dtype, shape, bytes.
fn io(folder: &Path, shape: [usize; 3], more: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Value {
    let mut tensors = vec![(
        "hidden_states",
        "F32",
        shape.to_vec(),
        vec![0; 4 * shape.iter().product::<usize>()],
    )];
    tensors.extend(more.iter().cloned());
    let path = safetensors(folder, &tensors);
    json!({ "io": { "path": path } })
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn job(layer: &str, input: Value) -> Value {
    json!({ "name": "job", "layer": layer, "weights": { "random": { "seed": 0 } }, "input": input, "modes": ["cached"] })
}

#[test]
fn each_mistake_has_its_own_message_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let chunked = |chunks: Value| {
        let mut job = job("usual", io(dir, [1, 3, 24], &[]));
        job["chunks"] = chunks;
        job
    };
    let weights = |source: Value| {
        let mut job = job("usual", io(dir, [1, 3, 24], &[]));
        job["weights"] = source;
        job
    };
    let mut panicking = job("panics", io(dir, [1, 3, 24], &[]));
    panicking["modes"] = json!(["forward"]);
    let cases: Vec<(Value, &str)> = vec![
        (
            job("usual", json!({ "io": { "path": "no/such.safetensors" } })),
            "no/such.safetensors",
        ),
        (
            job("unknown", io(dir, [1, 3, 24], &[])),
            "no layer `unknown`, found `panics`, `usual`",
        ),
        (
            job("usual", io(dir, [1, 3, 23], &[])),
            "`hidden_states` is 23 wide, the layer 24",
        ),
        (
            job(
                "usual",
                io(
                    dir,
                    [1, 2, 24],
                    &[("position_ids", "I64", vec![1, 2], i64s(&[0, -1]))],
                ),
            ),
            "`position_ids` has -1, wanted 0 to 4294967295",
        ),
        (
            job(
                "usual",
                io(
                    dir,
                    [1, 2, 24],
                    &[("position_ids", "I64", vec![1, 3], i64s(&[0, 1, 2]))],
                ),
            ),
            "`position_ids` has shape [1, 3], wanted [1, 2]",
        ),
        (
            job(
                "usual",
                io(
                    dir,
                    [1, 2, 24],
                    &[("attention_mask", "F32", vec![1, 2], vec![0; 8])],
                ),
            ),
            "`attention_mask` is F32, wanted I64, I32, U8 or BOOL",
        ),
        (
            job(
                "usual",
                io(
                    dir,
                    [1, 2, 24],
                    &[("cu_seqlens", "I64", vec![3], i64s(&[0, 2, 1]))],
                ),
            ),
            "`cu_seqlens` is [0, 2, 1], wanted rising numbers up to 2",
        ),
        (
            job(
                "usual",
                io(
                    dir,
                    [1, 2, 24],
                    &[("decode.chunks", "I64", vec![1], i64s(&[-2]))],
                ),
            ),
            "`decode.chunks` is [-2], wanted lengths",
        ),
        (chunked(json!([1, 1])), "chunks [1, 1] do not cut 3 columns"),
        (chunked(json!([3, 0])), "chunks [3, 0] do not cut 3 columns"),
        (chunked(json!([usize::MAX, 4])), "do not cut 3 columns"),
        (
            job(
                "usual",
                json!({ "random": { "batch": 2, "prompt": usize::MAX, "steps": 2, "seed": 0 } }),
            ),
            "overflows",
        ),
        (
            weights(json!({ "file": { "path": dir.join("none"), "prefix": "p" } })),
            "none",
        ),
        (
            weights(
                json!({ "generated": { "prefix": "p", "generator": { "seed": 1, "tensors": {
                "p.q_proj.weight": { "shape": [1], "base": 0.0, "amp": 1.0 } } } } }),
            ),
            "misshapen `p.q_proj.weight`: found [1], wanted [30, 24]",
        ),
        (panicking, "the layer panicked: of its own accord"),
    ];
    let mut jobs: Vec<Value> = cases.iter().map(|(job, _)| job.clone()).collect();
    jobs.push(job("usual", io(dir, [2, 1, 24], &[])));
    jobs.push(job("usual", io(dir, [0, 5, 24], &[])));
    let reports = drive(&registry(), dir, &jobs);
    assert_eq!(reports.len(), jobs.len());
    for ((_, wanted), report) in cases.iter().zip(&reports) {
        let error = report.error.as_deref().unwrap_or("nothing");
        assert!(error.contains(wanted), "found {error}\nwanted {wanted}");
        let about_a_file =
            wanted.contains("no/such") || wanted.starts_with('`') || *wanted == "none";
        assert_eq!(report.file_at_fault, about_a_file, "{error}");
    }
    assert_eq!(reports[cases.len()].error, None);
    assert_eq!(reports[cases.len() + 1].error, None);
}

#[test]
fn a_broken_job_file_is_an_error_with_its_path_and_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.json");
    for text in ["", "[]", r#"{"summary":"x","jobs":[{"nam":"a"}]}"#] {
        std::fs::write(&path, text).unwrap();
        let message = do_jobs(&registry(), &path).unwrap_err().to_string();
        assert!(
            message.contains("jobs.json") && message.contains("line"),
            "{message}"
        );
    }
    assert!(do_jobs(&registry(), Path::new("no/such/jobs.json")).is_err());
}
