//! What `exactly` takes, converts and refuses.

use half::{bf16, f16};

use super::files::{f32s, tensors, write};
use crate::{Error, Mistake, TensorShape, Weights};

const A: TensorShape = TensorShape {
    name: "a.weight",
    shape: &[2, 3],
};
const B: TensorShape = TensorShape {
    name: "b.weight",
    shape: &[2],
};

fn memory(entries: &[(&str, &[usize])]) -> Weights {
    Weights::from_tensors(entries.iter().map(|(name, shape)| {
        let values = (0..shape.iter().product())
            .map(|i: usize| i as f32)
            .collect();
        (*name, (shape.to_vec(), values))
    }))
    .unwrap()
}

fn mistakes(weights: &Weights, prefix: &str, wanted: &[TensorShape]) -> (Vec<Mistake>, String) {
    match weights.exactly(prefix, wanted).map(|_| ()) {
        Err(Error::WeightSet(set)) => (set.mistakes.clone(), set.to_string()),
        other => panic!("wanted a list of mistakes, found {other:?}"),
    }
}

#[test]
fn a_prefix_is_taken_with_and_without_its_dot_and_ends_at_a_dot() {
    let weights = memory(&[
        ("l.1.a.weight", &[2, 3]),
        ("l.1.b.weight", &[2]),
        ("l.10.a.weight", &[2, 3]),
        ("l.1x", &[1]),
    ]);
    for prefix in ["l.1", "l.1."] {
        let selected = weights.exactly(prefix, &[A, B]).unwrap();
        assert_eq!(selected.prefix(), "l.1.");
        assert_eq!(
            selected.read::<f32>("a.weight").unwrap(),
            (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
        );
        assert!(selected.has("b.weight") && !selected.has("c.weight"));
        let message = selected.read::<f32>("c.weight").unwrap_err().to_string();
        assert!(message.contains("`l.1.c.weight`"), "{message}");
    }
}

#[test]
fn an_empty_prefix_is_the_whole_checkpoint() {
    let weights = memory(&[("a.weight", &[2, 3]), ("b.weight", &[2])]);
    assert!(weights.exactly("", &[A, B]).is_ok());
    let (found, _) = mistakes(&weights, "", &[B]);
    assert_eq!(
        found,
        [Mistake::Extra {
            tensor: "a.weight".to_owned(),
            found: vec![2, 3]
        }]
    );
}

#[test]
fn one_error_lists_everything_that_differs() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tensors(&[
        ("p.a.weight", "F32", &[3, 2], f32s(&[0.0; 6])),
        ("p.q.weight", "F8_E4M3", &[2, 2], vec![0; 4]),
        ("p.q.weight_scale_inv", "F32", &[1], f32s(&[1.0])),
        ("p.i.weight", "I64", &[1], vec![0; 8]),
        ("p.z.weight", "I8", &[1], vec![0]),
        ("p.extra", "F32", &[1], f32s(&[1.0])),
        ("p.rotary_emb.inv_freq", "F32", &[1], f32s(&[1.0])),
    ]);
    let weights = Weights::open(write(folder.path(), "w.safetensors", bytes)).unwrap();
    let wanted = [
        A,
        B,
        TensorShape {
            name: "q.weight",
            shape: &[2, 2],
        },
        TensorShape {
            name: "i.weight",
            shape: &[1],
        },
    ];
    let (found, message) = mistakes(&weights, "p", &wanted);
    assert_eq!(found.len(), 6, "{message}");
    for line in [
        "misshapen `p.a.weight`: found [3, 2], wanted [2, 3]",
        "missing `p.b.weight`, wanted [2]",
        "scales `p.q.weight_scale_inv`, [1], are not one per block of a weight [2, 2]",
        "unsupported tensor `p.i.weight` (I64)",
        "left over `p.extra`, [1]",
        "quantised tensor `p.z.weight` (I8): only matrices of F8_E4M3 with one scale per block are read",
        "w.safetensors",
        "help: convert the checkpoint to bf16",
    ] {
        assert!(message.contains(line), "{message}\nwanted: {line}");
    }
}

#[test]
fn a_wrong_prefix_is_answered_with_the_right_ones() {
    let names: Vec<String> = (0..5)
        .flat_map(|l| {
            [
                format!("m.{l}.attn.a.weight"),
                format!("m.{l}.attn.b.weight"),
            ]
        })
        .collect();
    let entries: Vec<(&str, &[usize])> =
        names.iter().map(|name| (name.as_str(), &[1][..])).collect();
    let (found, message) = mistakes(&memory(&entries), "m.0.self_attn", &[A, B]);
    assert_eq!(found.len(), 2);
    let help = "such tensors lie below `m.0.attn`, `m.1.attn`, `m.2.attn` and 2 more prefixes";
    assert!(message.contains(help), "{message}");
    let (_, message) = mistakes(&memory(&[("x", &[1])]), "m", &[A, B]);
    assert!(
        message.contains("no prefix of this checkpoint holds such a layer"),
        "{message}"
    );
}

#[test]
fn every_stored_type_converts_with_one_rounding() {
    // 1 + 2^-9 + 2^-30: rounds up in bf16 only if the last bit is not lost on the way
    let value = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
    let folder = tempfile::tempdir().unwrap();
    let bytes = tensors(&[
        ("d", "F64", &[1], value.to_le_bytes().to_vec()),
        ("s", "F32", &[2], f32s(&[0.1, f32::NAN])),
        ("h", "F16", &[1], f16::from_f32(0.1).to_le_bytes().to_vec()),
        (
            "b",
            "BF16",
            &[1],
            bf16::from_f32(0.1).to_le_bytes().to_vec(),
        ),
    ]);
    let weights = Weights::open(write(folder.path(), "w.safetensors", bytes)).unwrap();
    let shape = |name, shape| TensorShape { name, shape };
    let selected = weights
        .exactly(
            "",
            &[
                shape("d", &[1]),
                shape("s", &[2]),
                shape("h", &[1]),
                shape("b", &[1]),
            ],
        )
        .unwrap();
    assert_eq!(selected.read::<f64>("d").unwrap().1, [value]);
    assert_eq!(
        selected.read::<bf16>("d").unwrap().1,
        [bf16::from_f64(value)]
    );
    let (_, single) = selected.read::<f32>("s").unwrap();
    assert!(single[0] == 0.1 && single[1].is_nan());
    assert_eq!(
        selected.read::<bf16>("s").unwrap().1[0],
        bf16::from_f32(0.1)
    );
    assert_eq!(
        selected.read::<f32>("h").unwrap().1,
        [f16::from_f32(0.1).to_f32()]
    );
    assert_eq!(
        selected.read::<f64>("b").unwrap().1,
        [bf16::from_f32(0.1).to_f64()]
    );
}

#[test]
fn tensors_in_memory_must_fit_their_shapes() {
    let wrong = Weights::from_tensors([("x", (vec![2, 2], vec![0.0; 3]))])
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("tensor `x`: shape [2, 2] does not hold 3 values"),
        "{wrong}"
    );
    let overflowing = Weights::from_tensors([("x", (vec![usize::MAX, 2], vec![0.0; 3]))]);
    assert!(overflowing.is_err());
    let twice = Weights::from_tensors([("x", (vec![1], vec![0.0])), ("x", (vec![1], vec![0.0]))])
        .unwrap_err();
    assert!(twice.to_string().contains("given twice"));
    const HUGE: TensorShape = TensorShape {
        name: "w",
        shape: &[usize::MAX, 2],
    };
    assert!(
        Weights::random("p", &[HUGE], 0)
            .unwrap_err()
            .to_string()
            .contains("overflows")
    );
}
