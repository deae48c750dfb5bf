//! Checkpoints of fp8 weights with block scales (features K-02, K-03).

use half::bf16;

use super::super::CodedRows;
use super::super::blocks::{STRIP, widen_strip};
use super::files::{f32s, tensors, write};
use crate::narrow::{E4m3, E8m0};
use crate::{Error, Mistake, Scalar, TensorShape, Weights};

/// Codes in an order that puts every finite one everywhere.
fn codes(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i * 37 + seed) % 255) as u8)
        .map(|code| if code & 0x7F == 0x7F { 0 } else { code })
        .collect()
}

fn scales(len: usize) -> Vec<f32> {
    (0..len).map(|i| 0.0123 * (i + 1) as f32).collect()
}

type Entry<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// Loads one matrix `w.weight` from a file of `entries`.
fn load<S: Scalar>(entries: &[Entry<'_>], shape: &'static [usize]) -> Result<Vec<S>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "w.safetensors", tensors(entries));
    let wanted = [TensorShape {
        name: "w.weight",
        shape,
    }];
    let weights = Weights::open(path)?;
    Ok(weights.exactly("", &wanted)?.read("w.weight")?.1)
}

/// `w8 · scale`, element by element.
fn product(codes: &[u8], scales: &[f32], columns: usize, block: [usize; 2]) -> Vec<f32> {
    let across = columns.div_ceil(block[1]);
    let scale = |i: usize| scales[i / columns / block[0] * across + i % columns / block[1]];
    let each = codes.iter().enumerate();
    each.map(|(i, &code)| E4m3(code).decode() * scale(i))
        .collect()
}

#[test]
fn blocks_of_128_with_cut_edges() {
    const SHAPE: &[usize] = &[300, 200];
    let (codes, scales) = (codes(300 * 200, 3), scales(6));
    let entries = [
        ("w.weight", "F8_E4M3", SHAPE, codes.clone()),
        ("w.weight_scale_inv", "F32", &[3, 2], f32s(&scales)),
    ];
    let wanted = product(&codes, &scales, 200, [128, 128]);
    assert_eq!(load::<f32>(&entries, SHAPE).unwrap(), wanted);
    let rounded: Vec<bf16> = wanted.iter().map(|&value| bf16::from_f32(value)).collect();
    assert_eq!(load::<bf16>(&entries, SHAPE).unwrap(), rounded);
}

/// GLM-5's kv up projection: heads of 192 key rows and 256 value rows, so that the second block of rows of each head's keys is
/// shared with its values. Scales belong to rows of the stored matrix, whatever the rows mean.
#[test]
fn blocks_that_straddle_keys_and_values() {
    const HEADS: usize = 3;
    const SHAPE: &[usize] = &[HEADS * (192 + 256), 160];
    let rows = SHAPE[0];
    let (codes, scales) = (codes(rows * 160, 11), scales(rows.div_ceil(128) * 2));
    let entries = [
        ("w.weight", "F8_E4M3", SHAPE, codes.clone()),
        ("w.weight_scale_inv", "F32", &[11, 2], f32s(&scales)),
    ];
    let found = load::<f32>(&entries, SHAPE).unwrap();
    assert_eq!(found, product(&codes, &scales, 160, [128, 128]));
    // Row 191 is the last key of head 0, row 192 its first value; both lie in the block of rows 128 .. 256
    for row in [191, 192] {
        assert_eq!(
            found[row * 160],
            E4m3(codes[row * 160]).decode() * scales[2]
        );
    }
}

#[test]
fn other_blocks_and_other_types_of_scales() {
    const SHAPE: &[usize] = &[96, 70];
    let codes = codes(96 * 70, 5);
    let powers: Vec<u8> = (0..6).map(|i| 118 + i).collect();
    let values: Vec<f32> = powers.iter().map(|&code| E8m0(code).decode()).collect();
    let wanted = product(&codes, &values, 70, [32, 64]);
    let halves = |value: &f32| bf16::from_f32(*value).to_le_bytes();
    for (dtype, bytes) in [
        ("F8_E8M0", powers.clone()),
        ("U8", powers),
        ("BF16", values.iter().flat_map(halves).collect()),
        ("F32", f32s(&values)),
    ] {
        let entries = [
            ("w.weight", "F8_E4M3", SHAPE, codes.clone()),
            ("w.weight_scale_inv", dtype, &[3, 2], bytes),
        ];
        assert_eq!(load::<f32>(&entries, SHAPE).unwrap(), wanted, "{dtype}");
    }
}

/// The mistakes of loading `w.weight [256, 128]`.
fn mistakes(entries: &[Entry<'_>]) -> Vec<Mistake> {
    match load::<f32>(entries, &[256, 128]) {
        Err(Error::WeightSet(set)) => set.mistakes.clone(),
        other => panic!("wanted a list of mistakes, found {other:?}"),
    }
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let weight = ("w.weight", "F8_E4M3", &[256, 128][..], vec![0; 256 * 128]);
    let tensor = || "w.weight_scale_inv".to_owned();
    let missing = Mistake::Missing {
        tensor: tensor(),
        wanted: vec![2, 1],
    };
    assert_eq!(mistakes(std::slice::from_ref(&weight)), [missing]);
    for found in [vec![3, 1], vec![1, 2, 1], vec![2], vec![512, 1], vec![0, 1]] {
        let len = found.iter().product();
        let scale = ("w.weight_scale_inv", "F32", &found[..], f32s(&scales(len)));
        let wanted = Mistake::Scales {
            tensor: tensor(),
            found: found.clone(),
            weight: vec![256, 128],
        };
        assert_eq!(mistakes(&[weight.clone(), scale]), [wanted]);
    }
    let scale = ("w.weight_scale_inv", "I32", &[2, 1][..], vec![0; 8]);
    assert!(matches!(
        &mistakes(&[weight, scale])[..],
        [Mistake::Unsupported { tensor, .. }] if tensor == "w.weight_scale_inv"
    ));
}

#[test]
fn scales_of_no_fp8_weight_are_left_over() {
    let weight = ("w.weight", "F32", &[256, 128][..], vec![0; 256 * 128 * 4]);
    let scale = ("w.weight_scale_inv", "F32", &[2, 1][..], f32s(&[1.0, 1.0]));
    assert!(matches!(
        &mistakes(&[weight, scale])[..],
        [Mistake::Quantised { tensor, .. }] if tensor == "w.weight_scale_inv"
    ));
}

/// A stacked down projection is dequantised by the blocks of the whole before it is cut.
#[test]
fn a_stacked_weight_is_dequantised_before_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (codes, scales) = (codes(300 * 4, 7), scales(3));
    let entries = [
        (
            "linear_qkv_down_proj.weight",
            "F8_E4M3",
            &[300, 4][..],
            codes.clone(),
        ),
        (
            "linear_qkv_down_proj.weight_scale_inv",
            "F32",
            &[3, 1],
            f32s(&scales),
        ),
    ];
    let path = write(folder.path(), "w.safetensors", tensors(&entries));
    let wanted = [
        TensorShape::new("q_a_proj.weight", &[100, 4]),
        TensorShape::new("kv_a_proj_with_mqa.weight", &[200, 4]),
    ];
    let weights = Weights::open(path).unwrap();
    let selected = weights.exactly("", &wanted).unwrap();
    let all = product(&codes, &scales, 4, [128, 128]);
    assert_eq!(
        selected.read::<f32>("q_a_proj.weight").unwrap().1,
        all[..400]
    );
    assert_eq!(
        selected.read::<f32>("kv_a_proj_with_mqa.weight").unwrap().1,
        all[400..]
    );
}

/// The numbers of a weight in blocks that is made of the matrices `names`, one below the other.
fn in_blocks(
    entries: &[Entry<'_>],
    names: &[(&'static str, &'static [usize])],
) -> Result<Vec<f32>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "w.safetensors", tensors(entries));
    let wanted: Vec<_> = names
        .iter()
        .map(|&(name, shape)| TensorShape { name, shape })
        .collect();
    let weights = Weights::open(path)?;
    let weights = weights.exactly("", &wanted)?;
    let columns = names[0].1[1];
    let coded = names.iter().map(|(name, _)| weights.coded(name));
    let rows = CodedRows::stacked(coded.collect::<Result<_, _>>()?, columns);
    let blocks = rows.pack()?;
    let mut numbers = vec![0.0; rows.rows() * columns];
    for (strip, numbers) in numbers.chunks_mut(STRIP * columns).enumerate() {
        widen_strip(&blocks, columns, strip * STRIP, numbers);
    }
    Ok(numbers)
}

#[test]
fn blocks_keep_what_an_fp8_checkpoint_has() {
    const SHAPE: &[usize] = &[300, 200];
    let (codes, scales) = (codes(300 * 200, 3), scales(6));
    let entries = [
        ("w.weight", "F8_E4M3", SHAPE, codes.clone()),
        ("w.weight_scale_inv", "F32", &[3, 2], f32s(&scales)),
    ];
    let found = in_blocks(&entries, &[("w.weight", SHAPE)]).unwrap();
    assert_eq!(found, product(&codes, &scales, 200, [128, 128]));
}

/// DeepSeek-V3.2's projections of the input: 1536, 576 and 128 rows, of which each scale's 64 rows are one tensor's.
#[test]
fn blocks_of_matrices_below_each_other_are_kept_where_rows_with_one_scale_stay_together() {
    const FIRST: &[usize] = &[192, 128];
    const SECOND: &[usize] = &[128, 128];
    let (one, other) = (codes(192 * 128, 3), codes(128 * 128, 8));
    let entries = [
        ("a.weight", "F8_E4M3", FIRST, one.clone()),
        ("a.weight_scale_inv", "F32", &[2, 1], f32s(&[0.5, 0.3])),
        ("b.weight", "F8_E4M3", SECOND, other.clone()),
        ("b.weight_scale_inv", "F32", &[1, 1], f32s(&[0.7])),
    ];
    let found = in_blocks(&entries, &[("a.weight", FIRST), ("b.weight", SECOND)]).unwrap();
    let wanted = [
        product(&one, &[0.5, 0.3], 128, [128, 128]),
        product(&other, &[0.7], 128, [128, 128]),
    ];
    assert_eq!(found, wanted.concat());
}

/// Rounding to e4m3 is off by a sixteenth at most, or by half a step of the smallest codes.
fn assert_rounded(found: &[f32], wanted: &[f32], largest: f32) {
    for (found, wanted) in found.iter().zip(wanted) {
        let most = (wanted.abs() / 16.0).max(largest / 448.0 / 1024.0 * 1.01);
        assert!((found - wanted).abs() <= most, "{found}, wanted {wanted}");
    }
}

#[test]
fn rows_whose_scales_differ_are_rounded_anew() {
    const SHAPE: &[usize] = &[40, 130];
    let (one, other) = (codes(40 * 130, 3), codes(40 * 130, 8));
    let entries = [
        ("a.weight", "F8_E4M3", SHAPE, one.clone()),
        ("a.weight_scale_inv", "F32", &[1, 2], f32s(&[0.5, 0.3])),
        ("b.weight", "F8_E4M3", SHAPE, other.clone()),
        ("b.weight_scale_inv", "F32", &[1, 2], f32s(&[0.5, 0.7])),
    ];
    let found = in_blocks(&entries, &[("a.weight", SHAPE), ("b.weight", SHAPE)]).unwrap();
    let wanted = [
        product(&one, &[0.5, 0.3], 130, [128, 128]),
        product(&other, &[0.5, 0.7], 130, [128, 128]),
    ]
    .concat();
    let largest = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    assert_rounded(&found, &wanted, largest);
    // The first columns have one scale, and 24 rows of the second matrix stand in the first 64
    let same = |row: usize| found[row * 130..][..128] == wanted[row * 130..][..128];
    assert!((0..80).all(same));
}

#[test]
fn numbers_are_rounded_to_blocks() {
    const SHAPE: &[usize] = &[70, 300];
    let numbers: Vec<f32> = (0..70 * 300)
        .map(|i| ((i * 7919 % 2003) as f32 - 1001.0) * 1e-4)
        .collect();
    let entries = [("w.weight", "F32", SHAPE, f32s(&numbers))];
    let found = in_blocks(&entries, &[("w.weight", SHAPE)]).unwrap();
    assert_rounded(&found, &numbers, 0.11);
    let zeros = [("w.weight", "F32", SHAPE, f32s(&vec![0.0; 70 * 300]))];
    let found = in_blocks(&zeros, &[("w.weight", SHAPE)]).unwrap();
    assert!(found.iter().all(|&x| x == 0.0));
}

#[test]
fn what_is_no_number_is_refused_by_name() {
    const SHAPE: &[usize] = &[70, 130];
    let with = |at: usize, value: f32| {
        let mut numbers = vec![1.0; 70 * 130];
        numbers[at] = value;
        let entries = [("w.weight", "F32", SHAPE, f32s(&numbers))];
        in_blocks(&entries, &[("w.weight", SHAPE)])
            .unwrap_err()
            .to_string()
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let said = with(69 * 130 + 129, value);
        assert!(said.contains("`w.weight`"), "{said}");
        assert!(said.contains("NaN or infinite"), "{said}");
    }
    let mut coded = codes(70 * 130, 5);
    coded[3 * 130 + 7] = 0x7F;
    let entries = [
        ("w.weight", "F8_E4M3", SHAPE, coded),
        ("w.weight_scale_inv", "F32", &[1, 2], f32s(&[0.5, 0.3])),
    ];
    let said = in_blocks(&entries, &[("w.weight", SHAPE)])
        .unwrap_err()
        .to_string();
    assert!(said.contains("row 3, column 7"), "{said}");
}
