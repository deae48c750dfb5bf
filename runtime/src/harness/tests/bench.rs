//! Calls that are timed. What is checked is what they are, not how long they take.

use serde_json::{Value, json};

use super::drive;
use super::trained_layer;
use crate::Cpu;
use crate::harness::Registry;
use crate::harness::report::{Phase, Report};
use crate::proof::tests::layer::{naive, usual};

fn job(layer: &str, bench: &[(&str, [usize; 3])]) -> Value {
    let bench: Vec<Value> = bench
        .iter()
        .map(|(phase, [requests, new, cached])| {
            json!({ "phase": phase, "requests": requests, "new": new, "cached": cached })
        })
        .collect();
    json!({
        "name": layer, "layer": layer, "weights": { "random": { "seed": 5 } }, "modes": [], "bench": bench,
        "input": { "random": { "batch": 0, "prompt": 0, "steps": 0, "seed": 1 } },
    })
}

fn phases(report: &Report) -> Vec<Phase> {
    report
        .timings
        .iter()
        .map(|timing| timing.bench.phase)
        .collect()
}

const CACHED: [(&str, [usize; 3]); 3] = [
    ("forward", [2, 5, 0]),
    ("prefill", [2, 4, 3]),
    ("decode", [3, 1, 11]),
];

#[test]
fn a_processor_is_timed_by_the_call() {
    let mut registry = Registry::default();
    registry.add::<usual::Small<Cpu<f32>>, _>("usual");
    registry.add::<naive::Small<Cpu<f64>>, _>("naive");
    registry.add_train::<trained_layer::usual::Straight<Cpu<f32>>, _>("trained");
    let folder = tempfile::tempdir().unwrap();
    let training = [("forward_train", [1, 6, 0]), ("backward", [1, 6, 0])];
    let jobs = [
        job("usual", &CACHED),
        job("naive", &CACHED),
        job("trained", &training),
    ];
    let reports = drive(&registry, folder.path(), &jobs);
    for report in &reports {
        assert_eq!(report.error, None);
        assert!(report.device.is_none() && report.ceilings.is_none() && report.runs.is_empty());
        for timing in &report.timings {
            assert!(timing.call_seconds > 0.0, "{timing:?}");
            assert!(timing.device_seconds.is_none() && timing.commands.is_empty());
        }
    }
    assert_eq!(
        phases(&reports[0]),
        [Phase::Forward, Phase::Prefill, Phase::Decode]
    );
    assert_eq!(phases(&reports[2]), [Phase::ForwardTrain, Phase::Backward]);
}

#[test]
fn what_a_layer_is_not_built_for_is_an_error_of_the_job() {
    let mut registry = Registry::default();
    registry.add::<usual::Small<Cpu<f32>>, _>("usual");
    registry.add_forward::<usual::Small<Cpu<f32>>, _>("forward");
    registry.add_train::<trained_layer::usual::Straight<Cpu<f32>>, _>("trained");
    let folder = tempfile::tempdir().unwrap();
    let jobs = [
        job("usual", &[("backward", [1, 4, 0])]),
        job("forward", &[("decode", [1, 1, 4])]),
        job("trained", &[("prefill", [1, 4, 0])]),
        job("usual", &[("decode", [2, 1, usize::MAX / 2])]),
    ];
    let reports = drive(&registry, folder.path(), &jobs);
    for (report, wanted) in reports
        .iter()
        .zip(["training", "a cache", "inference", "overflows"])
    {
        let error = report.error.as_deref().unwrap_or("no error");
        assert!(error.contains(wanted), "{error}");
    }
}

#[cfg(feature = "cuda")]
mod on_cuda {
    use super::*;
    use crate::{Cuda, CudaDevice, bf16};

    #[test]
    fn a_device_is_timed_by_the_kernel() {
        let device = CudaDevice::shared();
        device.provide(mla_codegen::cuda::kernel_text);
        let mut registry = Registry::default();
        registry.add::<usual::Small<Cuda<bf16>>, _>("usual");
        registry.add_train::<trained_layer::usual::Straight<Cuda<f32>>, _>("trained");
        let folder = tempfile::tempdir().unwrap();
        let jobs = [
            job("usual", &CACHED),
            job("trained", &[("backward", [1, 6, 0])]),
        ];
        let reports = drive(&registry, folder.path(), &jobs);
        for report in &reports {
            assert_eq!(report.error, None);
            let described = report.device.as_ref().map(|device| &device.name);
            assert_eq!(described, Some(&device.name()));
            for timing in &report.timings {
                let alone = timing.bench.phase != Phase::Backward;
                assert_eq!(timing.device_seconds.is_some(), alone);
                let of_kind = if alone { "attend_" } else { "product" };
                let mut commands = timing.commands.iter();
                let timed = commands.find(|timed| timed.name.starts_with(of_kind));
                let timed = timed.expect(of_kind);
                assert!(timed.seconds > 0.0 && timed.work.bytes > 0 && timed.work.flops > 0);
            }
        }
        // 3 requests of 12 keys each, 2 products of 2 FLOPs for each value of a head's query and of its result
        let decode = &reports[0].timings[2];
        let names: Vec<&str> = decode.commands.iter().map(|timed| &*timed.name).collect();
        let attended = decode
            .commands
            .iter()
            .find(|timed| timed.name.starts_with("attend_"))
            .expect("a kernel of attention");
        assert_eq!(attended.count, 1, "{names:?}");
        assert_eq!(attended.work.flops % (2 * 3 * 12), 0, "{attended:?}");
    }
}
