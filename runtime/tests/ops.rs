//! Linears, norms, rotary embeddings and absorption against plain `f64` loops.

use mla_runtime::{
    Attended, Cpu, CpuDevice, CpuElement, Half, Heads, Interleaved, LayerNorm, LayerNormLinear,
    Linear, Mask, Norm, Padding, RmsNorm, RopeKey, RopeLayout, Rotary, Rows, Scalar, Tensor,
    Visibility, absorb, attention, bf16,
};

const DEVICE: CpuDevice = CpuDevice::new();

/// Values that every element type holds exactly, so that only arithmetic differs.
fn values<T: Scalar>(len: usize, seed: f64) -> Vec<T> {
    (0..len)
        .map(|i| T::from_f64(bf16::from_f64((i as f64 * 0.731 + seed).sin()).to_f64()))
        .collect()
}

fn wide<T: Scalar>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn rows<T: CpuElement, const W: usize>(count: usize, seed: f64) -> Rows<Cpu<T>, W> {
    Rows::from_vec(&DEVICE, values(count * W, seed)).expect("whole rows")
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

fn matmul(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    x.chunks_exact(k)
        .flat_map(|x| {
            w.chunks_exact(k)
                .map(move |w| x.iter().zip(w).map(|(x, w)| x * w).sum())
        })
        .collect()
}

fn linear<T: CpuElement, const IN: usize, const OUT: usize>(tolerance: f64) {
    let (w, b) = (values::<T>(OUT * IN, 0.3), values::<T>(OUT, 0.9));
    let plain: Linear<Cpu<T>, IN, OUT> = Linear::new(&DEVICE, w.clone(), None).expect("linear");
    let biased: Linear<Cpu<T>, IN, OUT> =
        Linear::new(&DEVICE, w.clone(), Some(b.clone())).expect("linear");
    for count in [0, 1, 2, 3, 5, 8, 16, 17, 40] {
        let x = rows::<T, IN>(count, 0.1);
        let mut wanted = matmul(&wide(&x.to_vec().expect("values")), &wide(&w), IN);
        assert_close(
            &plain.forward(&x).expect("output").to_vec().expect("values"),
            &wanted,
            tolerance,
        );
        for (i, wanted) in wanted.iter_mut().enumerate() {
            *wanted += b[i % OUT].to_f64();
        }
        assert_close(
            &biased
                .forward(&x)
                .expect("output")
                .to_vec()
                .expect("values"),
            &wanted,
            tolerance,
        );
    }
}

#[test]
fn linears_of_every_type_and_row_count() {
    linear::<f64, 33, 7>(1e-13);
    linear::<f32, 33, 7>(1e-5);
    linear::<bf16, 33, 7>(1e-2);
    linear::<f32, 300, 259>(1e-5);
    linear::<bf16, 70, 259>(1e-2);
    linear::<f32, 1, 1>(1e-6);
}

#[test]
fn linears_read_columns_of_wider_rows() {
    let x = rows::<f32, 20>(18, 0.1);
    let layer: Linear<Cpu, 6, 5> = Linear::new(&DEVICE, values(30, 0.3), None).expect("linear");
    let all = wide(&x.to_vec().expect("values"));
    let part: Vec<f64> = all
        .chunks_exact(20)
        .flat_map(|row| row[3..9].to_vec())
        .collect();
    let found = layer
        .forward(x.columns::<3, 6>())
        .expect("output")
        .to_vec()
        .expect("values");
    assert_close(
        &found,
        &matmul(&part, &wide(&values::<f32>(30, 0.3)), 6),
        1e-5,
    );
}

#[test]
fn wrong_lengths_are_errors() {
    assert!(Linear::<Cpu, 3, 2>::new(&DEVICE, vec![0.0; 5], None).is_err());
    assert!(Linear::<Cpu, 3, 2>::new(&DEVICE, vec![0.0; 6], Some(vec![0.0; 3])).is_err());
    assert!(Rows::<Cpu, 3>::from_vec(&DEVICE, vec![0.0; 4]).is_err());
    assert!(RmsNorm::<Cpu, 3>::new(&DEVICE, vec![0.0; 4], 1e-6).is_err());
    assert!(RmsNorm::<Cpu, 3>::new(&DEVICE, vec![0.0; 3], f64::NAN).is_err());
    assert!(RmsNorm::<Cpu, 3>::new(&DEVICE, vec![0.0; 3], -1.0).is_err());
    assert!(Rotary::<Cpu, Half, Half, 4>::new(&DEVICE, &[1.0], 1.0).is_err());
    assert!(Rotary::<Cpu, Half, Half, 4>::new(&DEVICE, &[1.0, f64::INFINITY], 1.0).is_err());
}

fn norms<T: CpuElement, const W: usize>(tolerance: f64) {
    let (gamma, beta, eps) = (values::<T>(W, 0.4), values::<T>(W, 0.8), 1e-5);
    let x = rows::<T, W>(3, 0.2);
    let all = wide(&x.to_vec().expect("values"));
    let (g, b) = (wide(&gamma), wide(&beta));
    let mut rms = Vec::new();
    let mut layer = Vec::new();
    for row in all.chunks_exact(W) {
        let n = W as f64;
        let inverse = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / n + eps).sqrt();
        rms.extend(row.iter().zip(&g).map(|(x, g)| x * inverse * g));
        let mean = row.iter().sum::<f64>() / n;
        let inverse = 1.0 / (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
        layer.extend(
            row.iter()
                .zip(g.iter().zip(&b))
                .map(|(x, (g, b))| (x - mean) * inverse * g + b),
        );
    }
    let rms_norm: RmsNorm<Cpu<T>, W> = RmsNorm::new(&DEVICE, gamma.clone(), eps).expect("norm");
    let layer_norm: LayerNorm<Cpu<T>, W> = LayerNorm::new(&DEVICE, gamma, beta, eps).expect("norm");
    assert_close(
        &rms_norm
            .forward(&x)
            .expect("output")
            .to_vec()
            .expect("values"),
        &rms,
        tolerance,
    );
    assert_close(
        &layer_norm
            .forward(&x)
            .expect("output")
            .to_vec()
            .expect("values"),
        &layer,
        tolerance,
    );
    let normed = Norm::forward(&rms_norm, &x).expect("output");
    let linear: Linear<Cpu<T>, W, 5> =
        Linear::new(&DEVICE, values(5 * W, 0.5), None).expect("linear");
    let apart = linear
        .forward(&normed)
        .expect("output")
        .to_vec()
        .expect("values");
    let fused = LayerNormLinear::new(rms_norm, linear);
    assert_eq!(
        fused.forward(&x).expect("output").to_vec().expect("values"),
        apart
    );
}

#[test]
fn norms_of_even_and_odd_widths() {
    norms::<f64, 37>(1e-13);
    norms::<f32, 37>(1e-6);
    norms::<f32, 1536>(1e-6);
    norms::<bf16, 16>(1e-2);
    norms::<f32, 1>(1e-6);
}

/// The value of pair `i`'s first and second member in a layout.
fn pair(x: &[f64], i: usize, half: bool) -> (f64, f64) {
    if half {
        (x[i], x[i + x.len() / 2])
    } else {
        (x[2 * i], x[2 * i + 1])
    }
}

fn rotary<T: CpuElement, In: RopeLayout, Out: RopeLayout>(tolerance: f64) {
    const INV: [f64; 3] = [1.0, 0.031, 0.000_97];
    let rotary: Rotary<Cpu<T>, In, Out, 6> = Rotary::new(&DEVICE, &INV, 1.25).expect("rotary");
    let positions = [0, 1, 4095, 999_999];
    let angles = rotary.angles(&positions).expect("angles");
    let x = rows::<T, 18>(4, 0.6);
    let before = wide(&x.to_vec().expect("values"));
    let key = rotary
        .key(x.columns::<2, 6>(), &angles)
        .expect("key")
        .to_vec()
        .expect("values");
    let after = rotary
        .heads(x.into_heads::<2, 9>(), &angles)
        .expect("heads")
        .to_vec()
        .expect("values");
    let check = |from: &[f64], to: &[T], position: u32| {
        for (i, frequency) in INV.iter().enumerate() {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            let (a, b) = pair(from, i, In::HALF);
            let (x, y) = pair(&wide(to), i, Out::HALF);
            assert!(
                (x - 1.25 * (a * cos - b * sin)).abs() < tolerance,
                "position {position}, pair {i}"
            );
            assert!(
                (y - 1.25 * (a * sin + b * cos)).abs() < tolerance,
                "position {position}, pair {i}"
            );
        }
    };
    for (row, &position) in positions.iter().enumerate() {
        check(
            &before[row * 18 + 2..row * 18 + 8],
            &key[row * 6..(row + 1) * 6],
            position,
        );
        for head in 0..2 {
            let start = row * 18 + head * 9;
            assert_eq!(
                wide(&after[start..start + 3]),
                before[start..start + 3],
                "the front of a head is not rotated"
            );
            check(
                &before[start + 3..start + 9],
                &after[start + 3..start + 9],
                position,
            );
        }
    }
}

#[test]
fn rotations_in_all_layouts_stay_exact_at_far_positions() {
    rotary::<f64, Interleaved, Interleaved>(1e-12);
    rotary::<f32, Interleaved, Half>(1e-6);
    rotary::<f32, Half, Interleaved>(1e-6);
    rotary::<bf16, Half, Half>(2e-2);
}

#[test]
fn a_position_per_row_is_needed() {
    let rotary: Rotary<Cpu, Half, Half, 2> = Rotary::new(&DEVICE, &[1.0], 1.0).expect("rotary");
    let angles = rotary.angles(&[1, 2, 3]).expect("angles");
    assert!(rotary.key(rows::<f32, 2>(2, 0.0).view(), &angles).is_err());
    assert!(
        rotary
            .heads(rows::<f32, 4>(4, 0.0).into_heads::<2, 2>(), &angles)
            .is_err()
    );
}

/// Some attention's output over latents.
fn attended<T: CpuElement, const H: usize, const C: usize>(count: usize) -> Attended<Cpu<T>, H, C> {
    let q: Heads<Cpu<T>, H, C> = Heads::try_from(
        Tensor::from_vec(&DEVICE, values(count * H * C, 0.4), H * C).expect("whole rows"),
    )
    .expect("heads");
    let segments = Mask::dense(1, count)
        .segments(count, Visibility::FULL, Padding::Refused)
        .expect("segments");
    attention::absorbed(
        &q,
        q.part::<0, 0>(),
        &rows::<T, C>(count, 0.9),
        &RopeKey::absent(&DEVICE, count).expect("key"),
        &segments,
        0.5,
    )
    .expect("attended")
}

fn absorption<T: CpuElement>(count: usize, tolerance: f64) {
    const H: usize = 3;
    const N: usize = 5;
    const V: usize = 6;
    const C: usize = 19;
    let weight = values::<T>(H * (N + V) * C, 0.2);
    let w = wide(&weight);
    let up: Linear<Cpu<T>, C, { H * (N + V) }> =
        Linear::new(&DEVICE, weight, None).expect("linear");
    let q = rows::<T, { H * (N + 2) }>(count, 0.7).into_heads::<H, { N + 2 }>();
    let z = attended::<T, H, C>(count);
    // Attention's output is rounded before it is multiplied
    let zs: Vec<f64> = z
        .to_vec()
        .expect("values")
        .iter()
        .map(|z| T::from_f64(z.to_f64()).to_f64())
        .collect();
    let qs = wide(&q.to_vec().expect("values"));
    let (mut latent, mut out) = (Vec::new(), Vec::new());
    for row in 0..count {
        for h in 0..H {
            let block = &w[h * (N + V) * C..(h + 1) * (N + V) * C];
            let q = &qs[(row * H + h) * (N + 2)..][..N];
            let z = &zs[(row * H + h) * C..][..C];
            latent.extend((0..C).map(|c| (0..N).map(|n| block[n * C + c] * q[n]).sum::<f64>()));
            out.extend((0..V).map(|v| (0..C).map(|c| block[(N + v) * C + c] * z[c]).sum::<f64>()));
        }
    }
    let found = absorb::queries(&up, q.part::<0, N>()).expect("queries");
    assert_close(&found.to_vec().expect("values"), &latent, tolerance);
    let found: Heads<Cpu<T>, H, V> =
        absorb::values(&up, &z.into_out().expect("rounded")).expect("values");
    assert_close(&found.to_vec().expect("values"), &out, tolerance);
}

#[test]
fn absorption_for_few_and_many_rows() {
    for count in [0, 1, 2, 17, 40] {
        absorption::<f64>(count, 1e-13);
        absorption::<f32>(count, 1e-5);
        absorption::<bf16>(count, 1e-2);
    }
}

#[test]
fn a_biased_up_projection_has_no_absorbed_form() {
    let up: Linear<Cpu, 4, 6> =
        Linear::new(&DEVICE, vec![0.0; 24], Some(vec![0.0; 6])).expect("linear");
    let q = rows::<f32, 4>(1, 0.0).into_heads::<2, 2>();
    assert!(absorb::queries(&up, q.view()).is_err());
}
