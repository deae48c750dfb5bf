//! Folders and shard indices.

use std::path::Path;

use super::files::{f32s, tensors, write};
use crate::{TensorShape, Weights};

const WANTED: [TensorShape; 2] = [
    TensorShape {
        name: "a",
        shape: &[1],
    },
    TensorShape {
        name: "b",
        shape: &[1],
    },
];

/// Two shards: `l.0.a` in the first, `l.0.b` and `l.1.a` in the second.
fn shards(folder: &Path) {
    write(
        folder,
        "one.safetensors",
        tensors(&[("l.0.a", "F32", &[1], f32s(&[1.0]))]),
    );
    let second = tensors(&[
        ("l.0.b", "F32", &[1], f32s(&[2.0])),
        ("l.1.a", "F32", &[1], f32s(&[3.0])),
    ]);
    write(folder, "two.safetensors", second);
}

/// Writes the index, opens the folder and selects layer 0.
fn select(folder: &Path, weight_map: &str) -> Result<f32, String> {
    let index = format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{{weight_map}}}}}"#);
    write(folder, "model.safetensors.index.json", index);
    let weights = Weights::open(folder).map_err(|error| error.to_string())?;
    let selected = weights
        .exactly("l.0", &WANTED)
        .map_err(|error| error.to_string())?;
    let (a, b) = (selected.read::<f32>("a"), selected.read::<f32>("b"));
    Ok(a.map_err(|error| error.to_string())?.1[0] + b.map_err(|error| error.to_string())?.1[0])
}

const GOOD: &str =
    r#""l.0.a":"one.safetensors","l.0.b":"two.safetensors","l.1.a":"two.safetensors""#;

#[test]
fn a_layer_is_gathered_from_its_shards() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path());
    assert_eq!(select(folder.path(), GOOD), Ok(3.0));
    let index = folder.path().join("model.safetensors.index.json");
    assert!(
        Weights::open(index)
            .unwrap()
            .exactly("l.0.", &WANTED)
            .is_ok()
    );
}

#[test]
fn shards_of_other_layers_may_be_absent() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path());
    let map = format!(r#"{GOOD},"l.2.a":"three.safetensors""#);
    assert_eq!(select(folder.path(), &map), Ok(3.0));
}

#[test]
fn an_index_that_its_shards_contradict_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path());
    for (map, wanted) in [
        (
            r#""l.0.a":"one.safetensors","l.0.b":"gone.safetensors""#,
            "tensor `l.0.b` should be in `gone.safetensors`, which is missing",
        ),
        (
            r#""l.0.a":"two.safetensors","l.0.b":"two.safetensors""#,
            "tensor `l.0.a` should be in `two.safetensors`, which does not hold it",
        ),
        (
            r#""l.0.c":"two.safetensors""#,
            "tensor `l.0.c` should be in `two.safetensors`, which does not hold it",
        ),
        (
            r#""l.0.a":"one.safetensors","l.0.b":"two.safetensors","l.0.x":"one.safetensors""#,
            "tensor `l.0.x` should be in `one.safetensors`",
        ),
        (
            r#""l.0.a":"../one.safetensors""#,
            "shard `../one.safetensors` is no file name inside the index's own folder",
        ),
        (
            r#""l.0.a":"/etc/passwd""#,
            "shard `/etc/passwd` is no file name",
        ),
        (r#""l.0.a":"..""#, "shard `..` is no file name"),
        (r#""l.0.a":"""#, "shard `` is no file name"),
        (r#""l.0.a":"a\\b""#, "is no file name"),
        (r#""l.0.a":7"#, "no shard index"),
    ] {
        let message = select(folder.path(), map).expect_err(map);
        assert!(message.contains(wanted), "{map}: {message}");
        assert!(
            message.contains("model.safetensors.index.json"),
            "{message}"
        );
    }
}

#[test]
fn a_tensor_that_only_the_shard_knows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tensors(&[
        ("l.0.a", "F32", &[1], f32s(&[1.0])),
        ("l.0.b", "F32", &[1], f32s(&[1.0])),
    ]);
    write(folder.path(), "one.safetensors", bytes);
    let message = select(folder.path(), r#""l.0.a":"one.safetensors""#).unwrap_err();
    assert!(
        message.contains("tensor `l.0.b` is in `one.safetensors`, but the index does not list it"),
        "{message}"
    );
}

#[test]
fn a_folder_holds_one_file_or_an_index_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let message = Weights::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("neither `model.safetensors` nor"),
        "{message}"
    );
    let bytes = tensors(&[
        ("l.0.a", "F32", &[1], f32s(&[1.0])),
        ("l.0.b", "F32", &[1], f32s(&[1.0])),
    ]);
    write(folder.path(), "model.safetensors", bytes);
    assert!(
        Weights::open(folder.path())
            .unwrap()
            .exactly("l.0", &WANTED)
            .is_ok()
    );
    write(folder.path(), "broken.json", "[]");
    assert!(Weights::open(folder.path().join("broken.json")).is_err());
}
