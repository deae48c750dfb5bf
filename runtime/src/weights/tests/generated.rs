//! The generator against values that another implementation stored.

use std::path::{Path, PathBuf};

use crate::weights::generator::Recipe;
use crate::weights::shard::Shard;
use crate::{TensorShape, Weights};

/// Folders of the workspace's golden cases; none where this crate stands alone.
fn golden_cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("manifest.json").is_file())
        .collect()
}

#[test]
fn stored_weights_and_inputs_come_out_bit_for_bit() {
    let mut compared = 0;
    for case in golden_cases() {
        let manifest = std::fs::read_to_string(case.join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let generator = &manifest["generator"];
        let seed = generator["seed"].as_u64().unwrap();
        for file in ["weights.safetensors", "io.safetensors"] {
            let Ok(shard) = Shard::open(&case.join(file)) else {
                continue;
            };
            for (name, tensor) in generator["tensors"].as_object().unwrap() {
                let Some(stored) = shard.tensors.get(name) else {
                    continue;
                };
                let (base, amplitude) = (
                    tensor["base"].as_f64().unwrap(),
                    tensor["amp"].as_f64().unwrap(),
                );
                let wanted: Vec<f32> = stored.floats().unwrap();
                let made = Recipe {
                    seed,
                    base,
                    amplitude,
                }
                .values(name, wanted.len());
                assert!(made == wanted, "{}: `{name}` differs", case.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 0 || golden_cases().is_empty());
}

/// The same, for where the golden cases aren't at hand: their documented formula, worked out apart from this code.
#[test]
fn a_few_values_are_the_formula_s() {
    let recipe = Recipe {
        seed: 17,
        base: 0.0,
        amplitude: 0.324_759_526_419_164_5,
    };
    let values = recipe.values("model.layers.0.self_attn.q_a_proj.weight", 4);
    assert_eq!(
        values.into_iter().map(f64::from).collect::<Vec<_>>(),
        EXPECTED
    );
}

/// First values of `q_a_proj.weight` of the golden case `v3_leftpad_b2_s24`.
const EXPECTED: [f64; 4] = [-0.10498046875, 0.1728515625, 0.09521484375, -0.19921875];

#[test]
fn random_weights_fit_the_layer_and_depend_on_the_seed_only() {
    const TENSORS: [TensorShape; 3] = [
        TensorShape {
            name: "a.weight",
            shape: &[5, 48],
        },
        TensorShape {
            name: "norm.weight",
            shape: &[64],
        },
        TensorShape {
            name: "a.bias",
            shape: &[64],
        },
    ];
    let read = |prefix: &str, seed| {
        let weights = Weights::random(prefix, &TENSORS, seed).unwrap();
        let selected = weights.exactly("p", &TENSORS).unwrap();
        TENSORS.map(|tensor| selected.read::<f32>(tensor.name).unwrap().1)
    };
    let [matrix, norm, bias] = read("p.", 3);
    assert_eq!(read("p", 3), [matrix.clone(), norm.clone(), bias.clone()]);
    assert_ne!(read("p", 4)[0], matrix);
    assert!(
        matrix.iter().all(|value| value.abs() <= 0.376)
            && matrix.iter().any(|value| value.abs() > 0.3)
    );
    assert!(norm.iter().all(|value| (value - 1.0).abs() <= 0.301));
    assert!(bias.iter().all(|value| value.abs() <= 0.301));
}
