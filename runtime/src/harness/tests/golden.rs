//! Tensors that another implementation computed come out under its names and axes, within its tolerances.
//!
//! The cases live in the workspace; where this crate stands alone there are none.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::golden_layer::GoldenLayer;
use super::{drive, tensor};
use crate::harness::Registry;
use crate::weights::Shard;
use crate::{Cpu, bf16};

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add::<GoldenLayer<Cpu<f32>>, _>("f32");
    registry.add::<GoldenLayer<Cpu<f64>>, _>("f64");
    registry.add::<GoldenLayer<Cpu<bf16>>, _>("bf16");
    registry
}

fn case(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name);
    path.is_dir().then_some(path)
}

/// A job that checks `case` and the manifest that says how closely.
fn job(case: &Path, layer: &str, mode: &str, out: &Path) -> (Value, Value) {
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(case.join("manifest.json")).unwrap()).unwrap();
    let job = json!({
        "name": case.file_name().unwrap().to_string_lossy(),
        "layer": layer,
        "weights": { "file": { "path": case.join("weights.safetensors"), "prefix": manifest["weight_prefix"] } },
        "input": { "io": { "path": case.join("io.safetensors") } },
        "modes": [mode],
        "rope": { "found": "interleaved", "wanted": manifest["rope"]["layout_of_mid_q_and_k_pe"] },
        "out": out,
    });
    (job, manifest)
}

/// Compares every tensor that the manifest lists, and the cache where there is one, with the case's.
fn compare(case: &Path, out: &Path, manifest: &Value, what: &str) {
    let io = Shard::open(&case.join("io.safetensors")).unwrap();
    let padded: Vec<bool> = io.tensors.get("attention_mask").map_or(Vec::new(), |mask| {
        mask.integers()
            .unwrap()
            .iter()
            .map(|&real| real == 0)
            .collect()
    });
    let mut compare = manifest["compare"].as_object().unwrap().clone();
    for (cached, mid) in [
        ("cache.kv_latent", "mid.kv_latent"),
        ("cache.k_pe", "mid.k_pe"),
    ] {
        if what.contains("cached") && io.tensors.contains_key(cached) {
            compare.insert(cached.to_owned(), compare[mid].clone());
        }
    }
    for (name, close) in &compare {
        let (shape, found) = tensor(out, name);
        let wanted: Vec<f64> = io.tensors[name].floats().unwrap();
        assert_eq!(shape, io.tensors[name].shape, "{what}: {name}");
        let (rtol, atol) = (
            close["rtol"].as_f64().unwrap(),
            close["atol"].as_f64().unwrap(),
        );
        let seq = manifest["seq"].as_u64().unwrap() as usize;
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            // The padded rows of a tensor whose axes are [b, s, ..] or [b, H, s, ..]
            let inner: usize = match name.as_str() {
                "mid.q" | "mid.lse" => shape[3..].iter().product(),
                "mid.max_logit" => 0,
                _ => shape[2..].iter().product(),
            };
            let row = (inner > 0).then(|| {
                let heads = if matches!(name.as_str(), "mid.q" | "mid.lse") {
                    shape[1]
                } else {
                    1
                };
                i / inner / seq / heads * seq + i / inner % seq
            });
            if row
                .and_then(|row| padded.get(row))
                .is_some_and(|&padded| padded)
            {
                assert_eq!(*found, 0.0, "{what}: {name}[{i}] is padding");
            } else {
                let error = (found - wanted).abs();
                assert!(
                    error <= atol + rtol * wanted.abs(),
                    "{what}: {name}[{i}]: {found} instead of {wanted}"
                );
            }
        }
    }
}

#[test]
fn golden_cases_come_out_in_every_mode_and_dtype() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "v3_yarn_b1_s33",
        "v3_leftpad_b2_s24",
        "v3_packed_b1_s40",
        "v3_far_positions_b1_s16",
    ] {
        let Some(case) = case(name) else { return };
        for (layer, mode) in [
            ("f32", "forward"),
            ("f32", "cached"),
            ("f64", "forward"),
            ("f64", "cached"),
        ] {
            let what = format!("{name}, {layer}, {mode}");
            let out = folder.path().join(&what).join("out.safetensors");
            let (job, manifest) = job(&case, layer, mode, &out);
            let reports = drive(&registry(), folder.path(), &[job]);
            assert_eq!(reports[0].error, None, "{what}");
            compare(&case, &out, &manifest, &what);
        }
    }
}

#[test]
fn chunks_count_padded_columns_and_may_give_a_request_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(case) = case("v3_leftpad_b2_s24") else {
        return;
    };
    for chunks in [vec![3, 4, 1, 16], vec![1; 24], vec![24]] {
        let out = folder.path().join("out.safetensors");
        let (mut job, manifest) = job(&case, "f32", "cached", &out);
        job["chunks"] = json!(chunks);
        let reports = drive(&registry(), folder.path(), &[job]);
        assert_eq!(reports[0].error, None, "{chunks:?}");
        let tokens: usize = reports[0].runs[0]
            .calls
            .iter()
            .map(|call| call.tokens)
            .sum();
        assert_eq!((tokens, reports[0].requests), (41, 2));
        compare(&case, &out, &manifest, &format!("cached in {chunks:?}"));
    }
}

#[test]
fn a_request_of_a_packed_row_may_end_before_a_chunk_begins() {
    let folder = tempfile::tempdir().unwrap();
    let Some(case) = case("v3_packed_b1_s40") else {
        return;
    };
    let out = folder.path().join("out.safetensors");
    let (mut job, manifest) = job(&case, "f32", "cached", &out);
    job["chunks"] = json!([5, 7, 1, 1, 20, 6]);
    let reports = drive(&registry(), folder.path(), &[job]);
    assert_eq!((reports[0].error.clone(), reports[0].requests), (None, 4));
    compare(&case, &out, &manifest, "cached, packed");
}

#[test]
fn bf16_stays_within_its_own_spread() {
    let folder = tempfile::tempdir().unwrap();
    let Some(case) = case("v3_yarn_b1_s33") else {
        return;
    };
    for mode in ["forward", "cached"] {
        let out = folder.path().join("out.safetensors");
        let (job, manifest) = job(&case, "bf16", mode, &out);
        assert_eq!(drive(&registry(), folder.path(), &[job])[0].error, None);
        let (_, found) = tensor(&out, "output");
        let (_, wanted) = tensor(&case.join("io.safetensors"), "output");
        let squares =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let error = squares(&mut found.iter().zip(&wanted).map(|(a, b)| a - b))
            / squares(&mut wanted.iter().copied());
        let allowed = manifest["compare"]["output"]["bf16_rel_rms"]
            .as_f64()
            .unwrap();
        assert!(
            error.sqrt() <= allowed,
            "{mode}: {} where {allowed} is allowed",
            error.sqrt()
        );
    }
}

#[test]
fn generated_weights_are_the_stored_ones() {
    let folder = tempfile::tempdir().unwrap();
    let Some(case) = case("v3_yarn_b1_s33") else {
        return;
    };
    let out = folder.path().join("out.safetensors");
    let (mut job, manifest) = job(&case, "f32", "forward", &out);
    job["weights"] = json!({
        "generated": { "prefix": manifest["weight_prefix"], "generator": manifest["generator"] }
    });
    assert_eq!(drive(&registry(), folder.path(), &[job])[0].error, None);
    compare(&case, &out, &manifest, "generated weights");
}
