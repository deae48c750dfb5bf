//! Norms, with weights and without.

use mla_runtime::{
    Cpu, CpuElement, GatedNormParameters, GatedRmsNorm, LayerNorm, NormParameters, RmsNorm, Rows,
    TensorShape, Weights, bf16, l2_norm,
};
use proptest::prelude::*;

use super::differences::derivatives;
use super::{DEVICE, assert_close, dot, heads, rows, rows_of, values, values_of, wide};

fn rms<const W: usize>(gamma: &[f64], eps: f64) -> RmsNorm<Cpu<f64>, W> {
    RmsNorm::new(&DEVICE, gamma.to_vec(), eps).unwrap()
}

fn layer<const W: usize>(gamma: &[f64], beta: &[f64], eps: f64) -> LayerNorm<Cpu<f64>, W> {
    LayerNorm::new(&DEVICE, gamma.to_vec(), beta.to_vec(), eps).unwrap()
}

fn rms_against_differences<const W: usize>(count: usize, seed: f64, eps: f64) {
    let (x, gamma) = (values::<f64>(count * W, seed), values::<f64>(W, seed + 1.0));
    let d = values::<f64>(count * W, seed + 2.0);
    let loss = |x: &[f64], gamma: &[f64]| {
        let y = rms::<W>(gamma, eps).forward(&rows_of(x)).unwrap();
        dot(&y.to_vec().unwrap(), &d)
    };
    let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
    let dx = rms::<W>(&gamma, eps)
        .backward(&rows_of(&x), &rows_of(&d), &mut sums)
        .unwrap();
    assert_close(
        &dx.to_vec().unwrap(),
        &derivatives(&x, |x| loss(x, &gamma)),
        1e-7,
    );
    assert_close(
        &values_of(&sums, 0),
        &derivatives(&gamma, |g| loss(&x, g)),
        1e-7,
    );
}

fn layer_against_differences<const W: usize>(count: usize, seed: f64, eps: f64) {
    let (x, gamma) = (values::<f64>(count * W, seed), values::<f64>(W, seed + 1.0));
    let (beta, d) = (
        values::<f64>(W, seed + 3.0),
        values::<f64>(count * W, seed + 2.0),
    );
    let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| {
        let y = layer::<W>(gamma, beta, eps).forward(&rows_of(x)).unwrap();
        dot(&y.to_vec().unwrap(), &d)
    };
    let mut sums = NormParameters::zeros_shifted(&DEVICE, "n").unwrap();
    let dx = layer::<W>(&gamma, &beta, eps)
        .backward(&rows_of(&x), &rows_of(&d), &mut sums)
        .unwrap();
    let (dx, by_x) = (
        dx.to_vec().unwrap(),
        derivatives(&x, |x| loss(x, &gamma, &beta)),
    );
    assert_close(&dx, &by_x, 1e-7);
    assert_close(
        &values_of(&sums, 0),
        &derivatives(&gamma, |g| loss(&x, g, &beta)),
        1e-7,
    );
    assert_close(
        &values_of(&sums, 1),
        &derivatives(&beta, |b| loss(&x, &gamma, b)),
        1e-7,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn norms_against_differences(count in 0_usize..4, seed in 0.0..6.0_f64, eps in 0.01..0.5_f64) {
        rms_against_differences::<1>(count, seed, eps);
        rms_against_differences::<5>(count, seed, eps);
        rms_against_differences::<18>(count, seed, eps);
        layer_against_differences::<1>(count, seed, eps);
        layer_against_differences::<5>(count, seed, eps);
        layer_against_differences::<18>(count, seed, eps);
    }
}

#[test]
fn a_row_of_zeros_has_the_gradient_of_a_constant_factor() {
    let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
    let x = Rows::zeros(&DEVICE, 1).unwrap();
    let dx = rms::<3>(&[1.0, 2.0, -1.0], 0.25)
        .backward(&x, &rows_of(&[0.5, 1.0, 3.0]), &mut sums)
        .unwrap();
    assert_eq!(dx.to_vec().unwrap(), [1.0, 4.0, -6.0]);
    assert_eq!(values_of(&sums, 0), [0.0; 3]);
}

/// Heads normed one by one are rows of a head each, and gradients are added to what is there.
fn by_head<T: CpuElement, const D: usize, const W: usize>(tolerance: f64) {
    let (gamma, beta) = (values::<T>(D, 0.4), values::<T>(D, 0.8));
    let rms: RmsNorm<Cpu<T>, D> = RmsNorm::new(&DEVICE, gamma.clone(), 0.01).unwrap();
    let layer: LayerNorm<Cpu<T>, D> =
        LayerNorm::new(&DEVICE, gamma.clone(), beta.clone(), 0.01).unwrap();
    let count = 50;
    let xs = values::<T>(count * W, 0.2);
    let ds = values::<T>(count * W, 0.6);
    let whole = |values: &[T]| rows_of::<T, W>(values).into_heads::<3, D>();
    let lines = |values: &[T]| rows_of::<T, D>(values);
    let (x, d) = (whole(&xs), whole(&ds));

    let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
    let mut apart = NormParameters::zeros(&DEVICE, "n").unwrap();
    let by_heads = rms.heads_backward(&x, &d, &mut sums).unwrap();
    let by_rows = rms.backward(&lines(&xs), &lines(&ds), &mut apart).unwrap();
    assert_eq!(by_heads.to_vec().unwrap(), by_rows.to_vec().unwrap());
    assert_eq!(values_of(&sums, 0), values_of(&apart, 0));
    rms.heads_backward(&x, &d, &mut sums).unwrap();
    let doubled: Vec<f64> = values_of(&apart, 0).iter().map(|x| 2.0 * x).collect();
    assert_eq!(values_of(&sums, 0), doubled);

    let mut sums = NormParameters::zeros_shifted(&DEVICE, "n").unwrap();
    let mut apart = NormParameters::zeros_shifted(&DEVICE, "n").unwrap();
    let by_heads = layer.heads_backward(&x, &d, &mut sums).unwrap();
    let by_rows = layer
        .backward(&lines(&xs), &lines(&ds), &mut apart)
        .unwrap();
    assert_eq!(by_heads.to_vec().unwrap(), by_rows.to_vec().unwrap());
    assert_eq!(values_of(&sums, 1), values_of(&apart, 1));

    // The same numbers in f64
    let wide_norm: RmsNorm<Cpu<f64>, D> = RmsNorm::new(&DEVICE, wide(&gamma), 0.01).unwrap();
    let mut exact = NormParameters::zeros(&DEVICE, "n").unwrap();
    let dx = wide_norm
        .backward(&rows_of(&wide(&xs)), &rows_of(&wide(&ds)), &mut exact)
        .unwrap();
    let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
    let found = rms.heads_backward(&x, &d, &mut sums).unwrap();
    assert_close(&found.to_vec().unwrap(), &dx.to_vec().unwrap(), tolerance);
    assert_close(&values_of(&sums, 0), &values_of(&exact, 0), 1e-5);
}

#[test]
fn heads_are_rows_of_their_own() {
    by_head::<f64, 6, 18>(1e-12);
    by_head::<f32, 6, 18>(1e-5);
    by_head::<bf16, 6, 18>(2e-2);
    by_head::<f32, 33, 99>(1e-5);
}

#[test]
fn windows_have_the_gradients_of_their_copies() {
    let x = rows::<f64, 12>(7, 0.1);
    let d = rows::<f64, 11>(7, 0.5);
    let gamma: Vec<f64> = values(5, 0.3);
    let norm = rms::<5>(&gamma, 0.1);
    let (window, d_window) = (x.columns::<4, 5>(), d.columns::<6, 5>());
    let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
    let mut copies = NormParameters::zeros(&DEVICE, "n").unwrap();
    let found = norm.backward(window, d_window, &mut sums).unwrap();
    let (window, d_window) = (window.to_rows().unwrap(), d_window.to_rows().unwrap());
    let wanted = norm.backward(&window, &d_window, &mut copies).unwrap();
    assert_eq!(found.to_vec().unwrap(), wanted.to_vec().unwrap());
    assert_eq!(values_of(&sums, 0), values_of(&copies, 0));
    let heads = x.into_heads::<2, 6>();
    let d = rows::<f64, 12>(7, 0.9).into_heads::<2, 6>();
    let (part, d_part) = (heads.part::<1, 5>(), d.part::<0, 5>());
    let found = norm.heads_backward(part, d_part, &mut sums).unwrap();
    let (part, d_part) = (part.to_heads().unwrap(), d_part.to_heads().unwrap());
    let wanted = norm.heads_backward(&part, &d_part, &mut copies).unwrap();
    assert_eq!(found.to_vec().unwrap(), wanted.to_vec().unwrap());
    assert_eq!(values_of(&sums, 0), values_of(&copies, 0));
}

#[test]
fn gradients_that_do_not_fit_are_refused() {
    let norm = rms::<3>(&[1.0; 3], 0.1);
    let shifted = layer::<3>(&[1.0; 3], &[0.0; 3], 0.1);
    let (x, d) = (rows::<f64, 3>(2, 0.0), rows::<f64, 3>(3, 0.0));
    let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
    assert!(norm.backward(&x, &d, &mut sums).is_err());
    assert!(shifted.backward(&x, &x, &mut sums).is_err(), "no β");
    let (x, d) = (heads::<f64, 1, 3, 3>(2, 0.0), heads::<f64, 1, 3, 3>(3, 0.0));
    assert!(norm.heads_backward(&x, &d, &mut sums).is_err());
    assert!(l2_norm::heads_backward(&x, &d, 0.1).is_err());
    assert!(l2_norm::heads_backward(&x, &x, -0.1).is_err());
}

/// So many lines that several partial sums are joined.
#[test]
fn sums_over_many_lines_depend_on_no_number_of_threads() {
    const W: usize = 37;
    let gamma: Vec<f32> = values(W, 0.3);
    let norm: RmsNorm<Cpu, W> = RmsNorm::new(&DEVICE, gamma.clone(), 1e-6).unwrap();
    let (x, d) = (rows::<f32, W>(5000, 0.1), rows::<f32, W>(5000, 0.5));
    let once = || {
        let mut sums = NormParameters::zeros(&DEVICE, "n").unwrap();
        let dx = norm.backward(&x, &d, &mut sums).unwrap();
        (dx.to_vec().unwrap(), values_of(&sums, 0))
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let found = pool(3).install(once);
    assert_eq!(pool(1).install(once), found);

    let (xs, ds) = (wide(&x.to_vec().unwrap()), wide(&d.to_vec().unwrap()));
    let mut exact = NormParameters::zeros(&DEVICE, "n").unwrap();
    rms::<W>(&wide(&gamma), 1e-6)
        .backward(&rows_of(&xs), &rows_of(&ds), &mut exact)
        .unwrap();
    assert_close(&found.1, &values_of(&exact, 0), 1e-4);
}

#[test]
fn the_norm_without_a_weight_against_differences() {
    for (count, eps) in [(0, 0.1), (1, 0.3), (3, 0.01)] {
        let x = values::<f64>(count * 10, 0.2);
        let d = values::<f64>(count * 10, 1.2);
        let whole = |x: &[f64]| rows_of::<f64, 10>(x).into_heads::<2, 5>();
        let loss = |x: &[f64]| {
            dot(
                &l2_norm::heads(&whole(x), eps).unwrap().to_vec().unwrap(),
                &d,
            )
        };
        let dx = l2_norm::heads_backward(&whole(&x), &whole(&d), eps).unwrap();
        assert_close(&dx.to_vec().unwrap(), &derivatives(&x, loss), 1e-7);
    }
}

/// The gated norm in plain loops: γ `[5]`, W₁ `[3, 5]`, W₂ `[5, 3]`.
fn gated(x: &[f64], gamma: &[f64], down: &[f64], up: &[f64]) -> Vec<f64> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    x.chunks_exact(5)
        .flat_map(|x| {
            let inverse = 1.0 / (dot(x, x) / 5.0 + 0.1).sqrt();
            let n: Vec<f64> = x.iter().zip(gamma).map(|(x, g)| x * inverse * g).collect();
            let inner: Vec<f64> = down.chunks_exact(5).map(|w| dot(w, &n)).collect();
            let lit: Vec<f64> = inner.iter().map(|x| x * sigmoid(*x)).collect();
            let gates = up.chunks_exact(3).map(|w| sigmoid(dot(w, &lit)));
            n.iter()
                .zip(gates)
                .map(|(n, gate)| n * gate)
                .collect::<Vec<f64>>()
        })
        .collect()
}

fn gated_norm<T: CpuElement>(count: usize, tolerance: f64) {
    let shapes = [
        TensorShape::new("n.norm.weight", &[5]),
        TensorShape::new("n.mlp.fc1.weight", &[3, 5]),
        TensorShape::new("n.mlp.fc2.weight", &[5, 3]),
    ];
    let weights = Weights::random("l", &shapes, 3).unwrap();
    let weights = weights.exactly("l", &shapes).unwrap();
    let read = |name: &str| wide(&weights.read::<T>(name).unwrap().1);
    let [gamma, down, up] = shapes.map(|shape| read(shape.name));
    let norm: GatedRmsNorm<Cpu<T>, 5, 3> = GatedRmsNorm::load(&weights, "n", 0.1, &DEVICE).unwrap();
    let x = rows::<T, 5>(count, 0.4);
    let d = rows::<T, 6>(count, 0.8);
    let d = d.columns::<1, 5>();
    let (xs, ds) = (wide(&x.to_vec().unwrap()), wide(&d.to_vec().unwrap()));
    let loss =
        |x: &[f64], gamma: &[f64], down: &[f64], up: &[f64]| dot(&gated(x, gamma, down, up), &ds);

    let mut sums = GatedNormParameters::zeros(&DEVICE, "n").unwrap();
    let dx = norm.backward(&x, d, &mut sums).unwrap();
    let wanted = derivatives(&xs, |x| loss(x, &gamma, &down, &up));
    assert_close(&dx.to_vec().unwrap(), &wanted, tolerance);
    norm.backward(&x, d, &mut sums).unwrap();
    let twice = |wanted: Vec<f64>| -> Vec<f64> { wanted.iter().map(|x| 2.0 * x).collect() };
    let wanted = derivatives(&gamma, |gamma| loss(&xs, gamma, &down, &up));
    assert_close(&values_of(&sums, 0), &twice(wanted), tolerance);
    let wanted = derivatives(&down, |down| loss(&xs, &gamma, down, &up));
    assert_close(&values_of(&sums, 1), &twice(wanted), tolerance);
    let wanted = derivatives(&up, |up| loss(&xs, &gamma, &down, up));
    assert_close(&values_of(&sums, 2), &twice(wanted), tolerance);
    assert!(
        norm.backward(&x, &rows::<T, 5>(count + 1, 0.0), &mut sums)
            .is_err()
    );
}

#[test]
fn the_gated_norm_against_differences() {
    for count in [0, 1, 4, 20] {
        gated_norm::<f64>(count, 1e-7);
        gated_norm::<f32>(count, 1e-5);
        gated_norm::<bf16>(count, 4e-2);
    }
}
