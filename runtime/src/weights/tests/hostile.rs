//! Broken files are refused with the file's and, where there is one, the tensor's name. Nothing panics.

use proptest::prelude::*;

use super::files::{f32s, file, tensors, write};
use crate::{TensorShape, Weights};

/// The header of one tensor `x`.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

/// Name of the corruption, the file, what the message must say.
fn corruptions() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = tensors(&[("x", "F32", &[2], f32s(&[1.0, 2.0]))]);
    let huge = usize::MAX;
    let twice = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let same = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let overlap = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let shared = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&1_000_000u64.to_le_bytes());
    let mut longest = good.clone();
    longest[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    vec![
        ("empty", vec![], "it is empty"),
        (
            "shorter than its length",
            vec![1, 2, 3],
            "wanted at least 8",
        ),
        (
            "header length beyond the file",
            lying,
            "claims 1000000 bytes",
        ),
        (
            "header length of 2^64 - 1",
            longest,
            "claims 18446744073709551615 bytes",
        ),
        ("header cut", good[..20].to_vec(), "bytes, but 12 follow"),
        (
            "data cut",
            good[..good.len() - 1].to_vec(),
            "tensor `x`: data_offsets [0, 8] lie outside",
        ),
        (
            "data added",
            [&good[..], &[0]].concat(),
            "1 bytes at its end belong to no tensor",
        ),
        ("no JSON", file("{", &[]), "header: "),
        ("a list", file("[]", &[]), "expected an object of tensors"),
        (
            "no UTF-8",
            [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat(),
            "header: ",
        ),
        (
            "deep nesting",
            file(&format!(r#"{{"x":{}"#, "[".repeat(100_000)), &[]),
            "tensor `x`",
        ),
        (
            "negative dimension",
            file(&one("F32", "[-1]", "[0,4]"), &[0; 4]),
            "tensor `x`: invalid value",
        ),
        (
            "fractional dimension",
            file(&one("F32", "[1.5]", "[0,4]"), &[0; 4]),
            "tensor `x`: invalid type",
        ),
        (
            "no dtype",
            file(r#"{"x":{"shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]),
            "missing field `dtype`",
        ),
        (
            "unknown key",
            file(
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"z":1}}"#,
                &[0; 4],
            ),
            "unknown field `z`",
        ),
        (
            "shape too large",
            file(&one("F32", "[3]", "[0,8]"), &[0; 8]),
            "shape [3] of F32 takes 12 bytes",
        ),
        (
            "shape too small",
            file(&one("F32", "[1]", "[0,8]"), &[0; 8]),
            "shape [1] of F32 takes 4 bytes",
        ),
        (
            "wrong dtype for its bytes",
            file(&one("BF16", "[2]", "[0,8]"), &[0; 8]),
            "shape [2] of BF16 takes 4 bytes",
        ),
        (
            "shape overflows",
            file(&one("F32", &format!("[{huge},{huge}]"), "[0,4]"), &[0; 4]),
            "overflows",
        ),
        (
            "bytes overflow",
            file(&one("F64", &format!("[{}]", huge / 8), "[0,8]"), &[0; 8]),
            "overflows",
        ),
        (
            "offsets of 2^64 - 1",
            file(
                &one("U8", &format!("[{huge}]"), &format!("[0,{huge}]")),
                &[0; 4],
            ),
            "lie outside",
        ),
        (
            "offsets beyond u64",
            file(&one("F32", "[1]", "[0,99999999999999999999999]"), &[0; 4]),
            "tensor `x`",
        ),
        (
            "offsets reversed",
            file(&one("F32", "[1]", "[4,0]"), &[0; 4]),
            "data_offsets [4, 0] lie outside",
        ),
        (
            "a hole",
            file(&one("F32", "[1]", "[4,8]"), &[0; 8]),
            "tensor `x`: 4 bytes before it belong to no tensor",
        ),
        (
            "half a byte",
            file(&one("F4", "[1]", "[0,1]"), &[0; 1]),
            "shape [1] of F4",
        ),
        (
            "overlapping",
            file(overlap, &[0; 12]),
            "tensor `y`: its bytes overlap those of `x`",
        ),
        (
            "sharing bytes",
            file(shared, &[0; 4]),
            "tensor `y`: its bytes overlap those of `x`",
        ),
        (
            "a name twice",
            file(twice, &[0; 8]),
            "tensor `x`: the header names it twice",
        ),
        (
            "a name twice, same bytes",
            file(same, &[0; 4]),
            "tensor `x`: the header names it twice",
        ),
    ]
}

#[test]
fn every_corruption_is_refused_with_its_file_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    for (what, bytes, wanted) in corruptions() {
        let path = write(folder.path(), "broken.safetensors", bytes);
        let message = Weights::open(&path)
            .map(|_| ())
            .expect_err(what)
            .to_string();
        assert!(message.contains("broken.safetensors"), "{what}: {message}");
        assert!(
            message.contains(wanted),
            "{what}: {message}\nwanted: {wanted}"
        );
    }
}

#[test]
fn a_missing_file_is_an_error_with_its_path() {
    let message = Weights::open("no/such/file.safetensors")
        .expect_err("it isn't there")
        .to_string();
    assert!(message.contains("no/such/file.safetensors"), "{message}");
}

#[test]
fn a_dtype_of_the_future_elsewhere_in_the_file_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tensors(&[
        ("a.w", "F32", &[1], f32s(&[1.0])),
        ("b.w", "F3_X", &[7], vec![0; 3]),
    ]);
    let weights = Weights::open(write(folder.path(), "a.safetensors", bytes)).unwrap();
    let tensor = TensorShape {
        name: "w",
        shape: &[1],
    };
    assert!(weights.exactly("a", &[tensor]).is_ok());
    let message = weights.exactly("b", &[tensor]).unwrap_err().to_string();
    assert!(
        message.contains("unsupported tensor `b.w` (F3_X)"),
        "{message}"
    );
}

proptest! {
    /// Any damage to a good file gives an error or a checkpoint whose every tensor can be read.
    #[test]
    fn damaged_files_never_panic(cut in 0usize..200, flips in proptest::collection::vec((0usize..200, any::<u8>()), 0..6)) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = tensors(&[
            ("x", "F32", &[2, 2], f32s(&[1.0, 2.0, 3.0, 4.0])),
            ("y", "BF16", &[3], vec![0; 6]),
        ]);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len() - 1) * usize::from(cut % 3 == 0));
        let path = write(folder.path(), "damaged.safetensors", bytes);
        if let Ok(weights) = Weights::open(&path) {
            let wanted = [TensorShape { name: "x", shape: &[2, 2] }, TensorShape { name: "y", shape: &[3] }];
            if let Ok(selected) = weights.exactly("", &wanted) {
                prop_assert_eq!(selected.read::<f32>("x").unwrap().1.len(), 4);
            }
        }
    }
}
