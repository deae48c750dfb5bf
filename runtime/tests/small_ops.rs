//! Scales, gates, partial rotations and the like against plain `f64` loops.

use mla_runtime::{
    AccumLinear, Cpu, CpuDevice, CpuElement, GatedRmsNorm, GroupPart, Half, Heads, Interleaved,
    LayerNorm, Linear, LogPositionScale, RmsNorm, Rotary, Rows, Scalar, Selected, TensorShape,
    Weights, bf16, concat, gate, groups, hadamard, l2_norm, position_scale,
};

const DEVICE: CpuDevice = CpuDevice::new();

/// Values that every element type holds exactly.
fn values<T: Scalar>(len: usize, seed: f64) -> Vec<T> {
    (0..len)
        .map(|i| T::from_f64(bf16::from_f64((i as f64 * 0.731 + seed).sin()).to_f64()))
        .collect()
}

fn wide<T: Scalar>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn rows<T: CpuElement, const W: usize>(count: usize, seed: f64) -> Rows<Cpu<T>, W> {
    Rows::from_vec(&DEVICE, values(count * W, seed)).unwrap()
}

fn assert_close<T: Scalar>(found: &[T], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (x.to_f64() - y).abs() <= tolerance * (1.0 + y.abs()),
            "at {i}: {x:?} is not {y}"
        );
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn matmul(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks_exact(k)
        .flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w)))
        .collect()
}

/// Weights in memory, and the selection of all of them.
fn with_weights(tensors: &[(&'static str, &'static [usize])], check: impl FnOnce(&Selected<'_>)) {
    let shapes: Vec<TensorShape> = tensors
        .iter()
        .map(|&(name, shape)| TensorShape::new(name, shape))
        .collect();
    let weights = Weights::random("l", &shapes, 7).unwrap();
    check(&weights.exactly("l", &shapes).unwrap());
}

fn scales<T: CpuElement>(tolerance: f64) {
    let x = rows::<T, 12>(5, 0.3);
    let before = wide(&x.to_vec().unwrap());
    let wanted: Vec<f64> = before.iter().map(|x| x * -2.3).collect();
    let per_head = x.view().to_per_head().unwrap().scaled(-2.3).unwrap();
    let by_rows = x.scaled(-2.3).unwrap();
    assert_close(&by_rows.to_vec().unwrap(), &wanted, tolerance);
    assert_close(&per_head.to_vec().unwrap(), &wanted, tolerance);
    let heads = rows::<T, 12>(5, 0.3).into_heads::<4, 3>();
    let heads = heads.scaled(-2.3).unwrap();
    assert_close(&heads.to_vec().unwrap(), &wanted, tolerance);
}

#[test]
fn every_value_is_scaled() {
    scales::<f64>(1e-15);
    scales::<f32>(1e-6);
    scales::<bf16>(1e-2);
    assert!(rows::<f32, 2>(1, 0.0).scaled(f64::NAN).is_err());
}

#[test]
fn any_part_of_a_head_or_a_row_is_rotated() {
    const INV: [f64; 2] = [0.7, 0.013];
    let rotary: Rotary<Cpu<f64>, Half, Interleaved, 4> = Rotary::new(&DEVICE, &INV, 1.0).unwrap();
    let positions = [3, 700];
    let angles = rotary.angles(&positions).unwrap();
    let x: Vec<f64> = values(2 * 14, 0.2);
    let wanted = |heads: usize, start: usize| {
        let mut wanted = x.clone();
        for (i, head) in wanted.chunks_exact_mut(14 / heads).enumerate() {
            let part: [f64; 4] = head[start..start + 4].try_into().unwrap();
            for pair in 0..2 {
                let (sin, cos) = (f64::from(positions[i / heads]) * INV[pair]).sin_cos();
                let (a, b) = (part[pair], part[pair + 2]);
                head[start + 2 * pair] = a * cos - b * sin;
                head[start + 2 * pair + 1] = a * sin + b * cos;
            }
        }
        wanted
    };
    let row = || rows::<f64, 14>(2, 0.2);
    let heads = || row().into_heads::<2, 7>();
    let first = rotary.heads_first(heads(), &angles).unwrap();
    assert_close(&first.to_vec().unwrap(), &wanted(2, 0), 1e-12);
    let last = rotary.heads(heads(), &angles).unwrap();
    assert_close(&last.to_vec().unwrap(), &wanted(2, 3), 1e-12);
    let first = rotary.rows_first(row(), &angles).unwrap();
    assert_close(&first.to_vec().unwrap(), &wanted(1, 0), 1e-12);
    let last = rotary.rows_last(row(), &angles).unwrap();
    assert_close(&last.to_vec().unwrap(), &wanted(1, 10), 1e-12);
    assert!(rotary.rows_first(rows::<f64, 14>(3, 0.2), &angles).is_err());
}

/// What the rotation of (1, 0) in each pair says of the angles.
fn angles_of(rotary: &Rotary<Cpu<f64>, Half, Half, 4>, positions: &[u32]) -> Vec<[f64; 4]> {
    let unit = [1.0, 1.0, 0.0, 0.0].repeat(positions.len());
    let unit: Rows<Cpu<f64>, 4> = Rows::from_vec(&DEVICE, unit).unwrap();
    let turned = rotary
        .rows_last(unit, &rotary.angles(positions).unwrap())
        .unwrap();
    let values = turned.to_vec().unwrap();
    values
        .chunks_exact(4)
        .map(|row| row.try_into().unwrap())
        .collect()
}

#[test]
fn longrope_takes_the_long_frequencies_for_all_of_a_long_call() {
    let (short, long) = ([0.5, 0.02], [0.3, 0.001]);
    let new = |frequencies: &[f64]| Rotary::new(&DEVICE, frequencies, 1.1).unwrap();
    let by_length = Rotary::longrope(&DEVICE, &short, &long, 16, 1.1).unwrap();
    let up_to = [0, 7, 15];
    assert_eq!(
        angles_of(&by_length, &up_to),
        angles_of(&new(&short), &up_to)
    );
    let beyond = [0, 16, 3];
    assert_eq!(
        angles_of(&by_length, &beyond),
        angles_of(&new(&long), &beyond)
    );
    assert!(angles_of(&by_length, &[]).is_empty());
    assert!(Rotary::<Cpu, Half, Half, 4>::longrope(&DEVICE, &[1.0], &long, 16, 1.0).is_err());
    assert!(Rotary::<Cpu, Half, Half, 4>::longrope(&DEVICE, &short, &[], 16, 1.0).is_err());
}

#[test]
fn dynamic_rope_grows_its_base_with_the_call() {
    let rotary = Rotary::dynamic(&DEVICE, 1e4, 2.5, 32).unwrap();
    for (positions, length) in [([0, 31], 32.0), ([0, 9], 32.0), ([99, 2], 100.0)] {
        let base: f64 = 1e4 * (2.5 * length / 32.0 - 1.5_f64).powf(4.0 / 2.0);
        for (angles, position) in angles_of(&rotary, &positions).iter().zip(positions) {
            for (pair, exponent) in [0.0, -0.5].into_iter().enumerate() {
                let angle = f64::from(position) * base.powf(exponent);
                assert!((angles[pair] - angle.cos()).abs() < 1e-12);
                assert!((angles[pair + 2] - angle.sin()).abs() < 1e-12);
            }
        }
    }
    let bad =
        |theta, factor, max| Rotary::<Cpu, Half, Half, 4>::dynamic(&DEVICE, theta, factor, max);
    assert!(bad(0.0, 2.0, 8).is_err());
    assert!(bad(1e4, 0.5, 8).is_err());
    assert!(bad(1e4, 2.0, 0).is_err());
}

fn accum_linears<T: CpuElement>(tolerance: f64) {
    let weight: Vec<T::Accum> = (0..9 * 70)
        .map(|i| T::Accum::from_f64((f64::from(i) * 0.17).sin()))
        .collect();
    let bias: Vec<T::Accum> = (0..9)
        .map(|i| T::Accum::from_f64(f64::from(i) * 0.3))
        .collect();
    let layer: AccumLinear<Cpu<T>, 70, 9> =
        AccumLinear::new(&DEVICE, weight.clone(), Some(bias.clone())).unwrap();
    for count in [0, 1, 3, 16, 17, 33] {
        let x = rows::<T, 70>(count, 0.8);
        let mut wanted = matmul(&wide(&x.to_vec().unwrap()), &wide(&weight), 70);
        for (i, wanted) in wanted.iter_mut().enumerate() {
            *wanted += bias[i % 9].to_f64();
        }
        assert_close(
            &layer.forward(&x).unwrap().to_vec().unwrap(),
            &wanted,
            tolerance,
        );
    }
}

#[test]
fn products_in_the_accumulation_type_are_not_rounded_to_the_element_type() {
    accum_linears::<f64>(1e-13);
    accum_linears::<f32>(1e-5);
    accum_linears::<bf16>(1e-5);
    assert!(AccumLinear::<Cpu, 2, 2>::new(&DEVICE, vec![0.0; 3], None).is_err());
    assert!(AccumLinear::<Cpu, 2, 2>::new(&DEVICE, vec![0.0; 4], Some(vec![0.0])).is_err());
}

#[test]
fn linears_in_the_accumulation_type_load_by_name() {
    with_weights(&[("w.weight", &[3, 5]), ("w.bias", &[3])], |weights| {
        let (weight, bias) = (
            weights.read::<f32>("w.weight").unwrap().1,
            weights.read::<f32>("w.bias").unwrap().1,
        );
        let x = rows::<bf16, 5>(2, 0.1);
        let product = matmul(&wide(&x.to_vec().unwrap()), &wide(&weight), 5);
        let plain: AccumLinear<Cpu<bf16>, 5, 3> = AccumLinear::load(weights, "w", &DEVICE).unwrap();
        assert_close(
            &plain.forward(&x).unwrap().to_vec().unwrap(),
            &product,
            1e-5,
        );
        let biased: AccumLinear<Cpu<bf16>, 5, 3> =
            AccumLinear::load_biased(weights, "w", &DEVICE).unwrap();
        let wanted: Vec<f64> = product
            .iter()
            .enumerate()
            .map(|(i, x)| x + f64::from(bias[i % 3]))
            .collect();
        assert_close(
            &biased.forward(&x).unwrap().to_vec().unwrap(),
            &wanted,
            1e-5,
        );
        assert!(AccumLinear::<Cpu, 4, 3>::load(weights, "w", &DEVICE).is_err());
    });
}

fn gates<T: CpuElement>(tolerance: f64) {
    let x = || rows::<T, 12>(3, 0.4).into_heads::<4, 3>();
    let before = wide(&x().to_vec().unwrap());
    let heads = rows::<T, 4>(3, 0.9).scaled(8.0).unwrap();
    let g = wide(&heads.to_vec().unwrap());
    let wanted: Vec<f64> = before
        .iter()
        .enumerate()
        .map(|(i, x)| x * sigmoid(g[i / 3]))
        .collect();
    let by_rows = gate::per_head(x(), &heads).unwrap();
    assert_close(&by_rows.to_vec().unwrap(), &wanted, tolerance);
    let by_head = gate::per_head(x(), &heads.view().to_per_head().unwrap()).unwrap();
    assert_close(&by_head.to_vec().unwrap(), &wanted, tolerance);

    // Columns of wider rows gate as well
    let all = rows::<T, 14>(3, 0.5);
    let g = wide(&all.columns::<1, 12>().to_vec().unwrap());
    let wanted: Vec<f64> = before
        .iter()
        .zip(&g)
        .map(|(x, &g)| x * sigmoid(g))
        .collect();
    let of_heads = gate::per_element(x(), all.columns::<1, 12>()).unwrap();
    assert_close(&of_heads.to_vec().unwrap(), &wanted, tolerance);
    let of_rows = gate::per_element(x().into_rows::<12>(), all.columns::<1, 12>()).unwrap();
    assert_close(&of_rows.to_vec().unwrap(), &wanted, tolerance);
    assert!(gate::per_head(x(), &rows::<T, 4>(2, 0.9)).is_err());
    assert!(gate::per_element(x(), &rows::<T, 12>(4, 0.9)).is_err());
}

#[test]
fn gates_per_head_and_per_element() {
    gates::<f64>(1e-14);
    gates::<f32>(1e-6);
    gates::<bf16>(1e-2);
}

#[test]
fn rows_stand_side_by_side() {
    let (left, right) = (rows::<f32, 5>(2, 0.1), rows::<f32, 4>(2, 0.6));
    let both: Rows<Cpu, 6> = concat::rows(left.columns::<1, 3>(), right.columns::<0, 3>()).unwrap();
    let (l, r) = (left.to_vec().unwrap(), right.to_vec().unwrap());
    assert_eq!(
        both.to_vec().unwrap(),
        [&l[1..4], &r[..3], &l[6..9], &r[4..7]].concat()
    );
    assert!(concat::rows::<Cpu, 5, 4, 9>(&left, &rows::<f32, 4>(3, 0.6)).is_err());
}

fn transforms<T: CpuElement, const D: usize, const W: usize>(tolerance: f64) {
    let x = rows::<T, W>(3, 0.2);
    let before = wide(&x.to_vec().unwrap());
    let wanted: Vec<f64> = (0..before.len())
        .map(|at| {
            let (head, i) = (at / D, at % D);
            let sign = |j: usize| {
                if (i & j).count_ones().is_multiple_of(2) {
                    1.0
                } else {
                    -1.0
                }
            };
            let sum: f64 = (0..D).map(|j| sign(j) * before[head * D + j]).sum();
            sum / (D as f64).sqrt()
        })
        .collect();
    let heads = hadamard::heads(x.into_heads::<2, D>()).unwrap();
    assert_close(&heads.to_vec().unwrap(), &wanted, tolerance);
    let by_rows = Rows::<Cpu<T>, D>::from_vec(&DEVICE, values(6 * D, 0.2)).unwrap();
    let by_rows = hadamard::rows(by_rows).unwrap();
    assert_close(&by_rows.to_vec().unwrap(), &wanted, tolerance);
}

#[test]
fn hadamard_transforms_of_every_power_of_two() {
    transforms::<f64, 1, 2>(1e-15);
    transforms::<f64, 2, 4>(1e-14);
    transforms::<f64, 128, 256>(1e-13);
    transforms::<f32, 64, 128>(1e-5);
    transforms::<bf16, 32, 64>(1e-2);
}

#[test]
fn learned_scales_follow_the_logarithm_of_the_position() {
    with_weights(&[("s.scale", &[3]), ("s.bias", &[3])], |weights| {
        let (a, b) = (
            weights.read::<f64>("s.scale").unwrap().1,
            weights.read::<f64>("s.bias").unwrap().1,
        );
        let scale: LogPositionScale<Cpu<f64>, 3> =
            LogPositionScale::load(weights, "s", &DEVICE).unwrap();
        let q = rows::<f64, 6>(2, 0.3);
        let before = q.to_vec().unwrap();
        let positions = [0, 4095];
        let found = scale.heads(q.into_heads::<3, 2>(), &positions).unwrap();
        let wanted: Vec<f64> = before
            .iter()
            .enumerate()
            .map(|(i, q)| {
                let head = i % 6 / 2;
                q * (a[head] * (f64::from(positions[i / 6]) + 1.0).ln() + b[head])
            })
            .collect();
        assert_close(&found.to_vec().unwrap(), &wanted, 1e-13);
        assert!(scale.heads(found, &[1]).is_err());
        assert!(LogPositionScale::<Cpu, 4>::load(weights, "s", &DEVICE).is_err());
    });
}

#[test]
fn llama4_scales_grow_by_steps() {
    let q = || rows::<f64, 4>(3, 0.3).into_heads::<2, 2>();
    let before = q().to_vec().unwrap();
    let found = position_scale::llama4(q(), &[0, 9, 27], 0.1, 10, 1).unwrap();
    let wanted: Vec<f64> = before
        .iter()
        .enumerate()
        .map(|(i, q)| q * (1.0 + 0.1 * [0.0_f64, 2.0_f64.ln(), 3.0_f64.ln()][i / 4]))
        .collect();
    assert_close(&found.to_vec().unwrap(), &wanted, 1e-14);
    assert!(position_scale::llama4(q(), &[0, 1], 0.1, 10, 0).is_err());
    assert!(position_scale::llama4(q(), &[0, 1, 2], 0.1, 0, 0).is_err());
    assert!(position_scale::llama4(q(), &[0, 1, 2], f64::NAN, 10, 0).is_err());
}

#[test]
fn norms_over_heads_are_norms_over_rows_of_one_head() {
    let x = || rows::<f32, 40>(3, 0.1);
    let flat = Rows::<Cpu, 8>::from_vec(&DEVICE, x().to_vec().unwrap()).unwrap();
    let rms: RmsNorm<Cpu, 8> = RmsNorm::new(&DEVICE, values(8, 0.7), 1e-5).unwrap();
    let heads = rms.heads(&x().into_heads::<5, 8>()).unwrap();
    assert_eq!(
        heads.to_vec().unwrap(),
        rms.forward(&flat).unwrap().to_vec().unwrap()
    );
    let layer: LayerNorm<Cpu, 8> =
        LayerNorm::new(&DEVICE, values(8, 0.7), values(8, 0.2), 1e-5).unwrap();
    let heads = layer.heads(&x().into_heads::<5, 8>()).unwrap();
    assert_eq!(
        heads.to_vec().unwrap(),
        layer.forward(&flat).unwrap().to_vec().unwrap()
    );
    // Part of each head
    let part = rms.heads(x().into_heads::<4, 10>().part::<2, 8>()).unwrap();
    let first: Vec<f32> = x().to_vec().unwrap()[2..10].to_vec();
    let first = rms
        .forward(&Rows::from_vec(&DEVICE, first).unwrap())
        .unwrap();
    assert_eq!(part.to_vec().unwrap()[..8], first.to_vec().unwrap());
}

#[test]
fn the_norm_without_a_weight_divides_by_the_root_mean_square() {
    let x = rows::<f64, 6>(2, 0.1).into_heads::<2, 3>();
    let before = x.to_vec().unwrap();
    let wanted: Vec<f64> = before
        .chunks_exact(3)
        .flat_map(|head| {
            let mean = head.iter().map(|x| x * x).sum::<f64>() / 3.0;
            head.iter().map(move |x| x / (mean + 1e-3).sqrt())
        })
        .collect();
    let found = l2_norm::heads(&x, 1e-3).unwrap();
    assert_close(&found.to_vec().unwrap(), &wanted, 1e-14);
    assert!(l2_norm::heads(&x, -1.0).is_err());
}

#[test]
fn a_gated_norm_gates_its_own_output() {
    let tensors: [(&str, &[usize]); 3] = [
        ("n.norm.weight", &[6]),
        ("n.mlp.fc1.weight", &[2, 6]),
        ("n.mlp.fc2.weight", &[6, 2]),
    ];
    with_weights(&tensors, |weights| {
        let read = |name: &str| weights.read::<f64>(name).unwrap().1;
        let norm: GatedRmsNorm<Cpu<f64>, 6, 2> =
            GatedRmsNorm::load(weights, "n", 1e-5, &DEVICE).unwrap();
        let x = rows::<f64, 6>(3, 0.5);
        let mut wanted = Vec::new();
        for row in x.to_vec().unwrap().chunks_exact(6) {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / 6.0;
            let gamma = read("n.norm.weight");
            let normed: Vec<f64> = row
                .iter()
                .zip(&gamma)
                .map(|(x, g)| g * x / (mean + 1e-5).sqrt())
                .collect();
            let inner: Vec<f64> = matmul(&normed, &read("n.mlp.fc1.weight"), 6)
                .into_iter()
                .map(|x| x * sigmoid(x))
                .collect();
            let gates = matmul(&inner, &read("n.mlp.fc2.weight"), 2);
            wanted.extend(normed.iter().zip(gates).map(|(n, g)| n * sigmoid(g)));
        }
        assert_close(&norm.forward(&x).unwrap().to_vec().unwrap(), &wanted, 1e-13);
    });
}

const G: usize = 2;
const H: usize = 4;
const D: usize = 3;

#[test]
fn groups_are_taken_apart() {
    const QKV: usize = (2 * H + 2 * G) * D;
    let row: Vec<f32> = (0..2 * QKV as u16).map(f32::from).collect();
    let qkv: Rows<Cpu, QKV> = Rows::from_vec(&DEVICE, row).unwrap();
    // Per group: 2 queries, 2 gates, 1 key, 1 value, 3 wide
    let part = |first: usize, len: usize| -> Vec<f32> {
        (0..2 * G)
            .flat_map(|group| (0..len).map(move |i| (group * 18 + first + i) as f32))
            .collect()
    };
    let q: Heads<Cpu, H, D> = groups::query::<_, QKV, H, G, D>(&qkv).unwrap();
    assert_eq!(q.to_vec().unwrap(), part(0, 6));
    let gates: Rows<Cpu, { H * D }> = groups::gate::<_, QKV, H, G, D, { H * D }>(&qkv).unwrap();
    assert_eq!(gates.to_vec().unwrap(), part(6, 6));
    let k: Heads<Cpu, G, D> = groups::key(&qkv).unwrap();
    assert_eq!(k.to_vec().unwrap(), part(12, 3));
    let v: Heads<Cpu, G, D> = groups::value(&qkv).unwrap();
    assert_eq!(v.to_vec().unwrap(), part(15, 3));
}

#[test]
fn separate_projections_are_stacked_into_groups() {
    const HIDDEN: usize = 5;
    const QKV: usize = (2 * H + 2 * G) * D;
    let tensors: [(&str, &[usize]); 6] = [
        ("q_proj.weight", &[2 * H * D, HIDDEN]),
        ("k_proj.weight", &[G * D, HIDDEN]),
        ("v_proj.weight", &[G * D, HIDDEN]),
        ("q_proj.bias", &[2 * H * D]),
        ("k_proj.bias", &[G * D]),
        ("v_proj.bias", &[G * D]),
    ];
    with_weights(&tensors, |weights| {
        let parts = [
            GroupPart::first_half("q_proj", H / G, D),
            GroupPart::second_half("q_proj", H / G, D),
            GroupPart::heads("k_proj", 1, D),
            GroupPart::heads("v_proj", 1, D),
        ];
        let x = rows::<f64, HIDDEN>(2, 0.2);
        let apart = |name: &str| {
            let read = |kind: &str| weights.read::<f64>(&format!("{name}.{kind}")).unwrap().1;
            let mut y = matmul(&x.to_vec().unwrap(), &read("weight"), HIDDEN);
            let bias = read("bias");
            for (i, y) in y.iter_mut().enumerate() {
                *y += bias[i % bias.len()];
            }
            y
        };
        let linear: Linear<Cpu<f64>, HIDDEN, QKV> =
            Linear::load_grouped_biased(weights, G, &parts, &DEVICE).unwrap();
        let qkv = linear.forward(&x).unwrap();
        // A head of `q_proj` is its query, then its gate
        let half = |which: usize| -> Vec<f64> {
            apart("q_proj")
                .chunks_exact(2 * D)
                .flat_map(|head| head[which * D..(which + 1) * D].to_vec())
                .collect()
        };
        let q: Heads<_, H, D> = groups::query::<_, QKV, H, G, D>(&qkv).unwrap();
        assert_close(&q.to_vec().unwrap(), &half(0), 1e-13);
        let gates = groups::gate::<_, QKV, H, G, D, { H * D }>(&qkv).unwrap();
        assert_close(&gates.to_vec().unwrap(), &half(1), 1e-13);
        let k: Heads<_, G, D> = groups::key(&qkv).unwrap();
        assert_close(&k.to_vec().unwrap(), &apart("k_proj"), 1e-13);
        let v: Heads<_, G, D> = groups::value(&qkv).unwrap();
        assert_close(&v.to_vec().unwrap(), &apart("v_proj"), 1e-13);

        let kv: Linear<Cpu<f64>, HIDDEN, { 2 * G * D }> =
            Linear::load_grouped(weights, G, &parts[2..], &DEVICE).unwrap();
        let kv = kv.forward(&x).unwrap();
        assert_eq!(kv.rows(), 2);
        let weight = weights.read::<f64>("v_proj.weight").unwrap().1;
        let v: Heads<_, G, D> = groups::value(&kv).unwrap();
        let wanted = matmul(&x.to_vec().unwrap(), &weight, HIDDEN);
        assert_close(&v.to_vec().unwrap(), &wanted, 1e-13);

        let wrong = [GroupPart::heads("k_proj", 2, D)];
        assert!(Linear::<Cpu, HIDDEN, 12>::load_grouped(weights, G, &wrong, &DEVICE).is_err());
        assert!(Linear::<Cpu, 4, QKV>::load_grouped(weights, G, &parts, &DEVICE).is_err());
        assert!(Linear::<Cpu, HIDDEN, 7>::load_grouped(weights, G, &parts, &DEVICE).is_err());
    });
}
