//! Random inputs, as `run` uses them.

use serde_json::json;

use super::{drive, tensor};
use crate::harness::Registry;
use crate::harness::report::Phase;
use crate::proof::tests::layer::{naive, unscaled, usual};
use crate::{Cpu, bf16};

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add::<usual::Small<Cpu<f32>>, _>("usual");
    registry.add::<usual::Small<Cpu<bf16>>, _>("usual.bf16");
    registry.add::<naive::Small<Cpu<f64>>, _>("naive");
    registry.add::<unscaled::Small<Cpu<f32>>, _>("wrong");
    registry.add_forward::<usual::Small<Cpu<f32>>, _>("forward only");
    registry
}

fn job(layer: &str, modes: &[&str]) -> serde_json::Value {
    json!({
        "name": layer, "layer": layer, "weights": { "random": { "seed": 5 } }, "modes": modes,
        "input": { "random": { "batch": 2, "prompt": 9, "steps": 3, "seed": 1 } },
    })
}

#[test]
fn both_modes_are_measured_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let jobs =
        ["usual", "usual.bf16", "naive", "wrong"].map(|layer| job(layer, &["forward", "cached"]));
    let reports = drive(&registry(), folder.path(), &jobs);
    for report in &reports {
        assert_eq!(
            (
                report.error.clone(),
                report.hidden_size,
                report.batch,
                report.seq
            ),
            (None, 24, 2, 12)
        );
        let calls: Vec<(Phase, usize)> = report
            .runs
            .iter()
            .flat_map(|run| &run.calls)
            .map(|call| (call.phase, call.tokens))
            .collect();
        let (forward, decode) = ((Phase::Forward, 24), (Phase::Decode, 2));
        assert_eq!(
            calls,
            [forward, (Phase::Prefill, 18), decode, decode, decode]
        );
        let against = report.cached_against_forward.unwrap();
        assert_eq!(against.passed, report.name != "wrong", "{against:?}");
        assert!(against.rms > 0.1 && report.out.is_none());
    }
    let cache = |i: usize| reports[i].cache.clone().unwrap();
    assert_eq!(
        (
            cache(0).bytes_per_token,
            cache(0).page_size,
            cache(0).dtype.as_str()
        ),
        (4 * 14, Some(8), "f32")
    );
    assert_eq!(
        (cache(1).bytes_per_token, cache(1).dtype.as_str()),
        (2 * 14, "bf16")
    );
    assert_eq!(
        (cache(2).elements_per_token, cache(2).page_size),
        (3 * 15, Some(4))
    );
}

#[test]
fn the_spec_s_cache_format_can_be_used_and_outputs_fed_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        folder.path().join("a/out.safetensors"),
        folder.path().join("b/out.safetensors"),
    );
    let mut random = job("naive", &["forward", "cached"]);
    random["cache"] = json!("spec");
    random["out"] = json!(first);
    let mut again = job("naive", &["cached"]);
    again["input"] = json!({ "io": { "path": first } });
    again["chunks"] = json!([9, 1, 1, 1]);
    again["cache"] = json!("spec");
    again["out"] = json!(second);
    let reports = drive(&registry(), folder.path(), &[random, again]);
    assert_eq!(
        (reports[0].error.clone(), reports[1].error.clone()),
        (None, None)
    );
    assert_eq!(reports[0].cache.clone().unwrap().dtype, "f32");
    assert!(reports[0].cached_against_forward.unwrap().passed);
    assert_eq!(
        reports[0].tensors.keys().collect::<Vec<_>>(),
        ["hidden_states", "output"]
    );
    assert_eq!(reports[1].tensors["mid.q"], [2, 3, 12, 10]);
    assert_eq!(reports[1].tensors["mid.max_logit"], [3]);
    assert_eq!(tensor(&first, "output"), tensor(&second, "output"));
}

#[test]
fn a_layer_without_cached_phases_says_so_after_its_forward() {
    let folder = tempfile::tempdir().unwrap();
    let reports = drive(
        &registry(),
        folder.path(),
        &[job("forward only", &["forward", "cached"])],
    );
    assert_eq!(
        reports[0].error.as_deref(),
        Some("the layer has no cached phases")
    );
    assert_eq!(reports[0].runs.len(), 1);
}
