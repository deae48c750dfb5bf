//! Linears, and the head-wise products of the absorbed form.

use mla_runtime::{AccumLinear, Cpu, CpuElement, Heads, Linear, LinearParameters, absorb, bf16};
use proptest::prelude::*;

use super::differences::derivatives;
use super::{
    DEVICE, assert_adjoint, assert_close, dot, heads, rows, rows_of, values, values_of, wide,
};

fn parameters<T: CpuElement, const IN: usize, const OUT: usize>(
    biased: bool,
) -> LinearParameters<Cpu<T>, IN, OUT> {
    let pieces = [("w", OUT)];
    if biased {
        LinearParameters::zeros_biased(&DEVICE, &pieces).unwrap()
    } else {
        LinearParameters::zeros(&DEVICE, &pieces).unwrap()
    }
}

/// `dyᵀ x`, row-major.
fn outer(dy: &[f64], x: &[f64], out: usize, width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; out * width];
    for (dy, x) in dy.chunks_exact(out).zip(x.chunks_exact(width)) {
        for (o, dy) in dy.iter().enumerate() {
            for (i, x) in x.iter().enumerate() {
                sums[o * width + i] += dy * x;
            }
        }
    }
    sums
}

/// `dy W`.
fn backward_rows(dy: &[f64], w: &[f64], out: usize, width: usize) -> Vec<f64> {
    dy.chunks_exact(out)
        .flat_map(|dy| (0..width).map(|i| (0..out).map(|o| dy[o] * w[o * width + i]).sum()))
        .collect()
}

/// Sums of columns.
fn columns(x: &[f64], width: usize) -> Vec<f64> {
    (0..width)
        .map(|i| x.iter().skip(i).step_by(width).sum())
        .collect()
}

/// Input and gradient are columns of wider rows.
fn linear<T: CpuElement, const IN: usize, const OUT: usize, const X: usize, const Y: usize>(
    count: usize,
    tolerance: f64,
) {
    const { assert!(X == IN + 3 && Y == OUT + 2) };
    let weight = values::<T>(OUT * IN, 0.3);
    let bias = values::<T>(OUT, 0.9);
    let layer: Linear<Cpu<T>, IN, OUT> = Linear::new(&DEVICE, weight.clone(), Some(bias)).unwrap();
    let (x, dy) = (rows::<T, X>(count, 0.2), rows::<T, Y>(count, 0.6));
    let (x, dy) = (x.columns::<3, IN>(), dy.columns::<1, OUT>());
    let (xs, dys) = (wide(&x.to_vec().unwrap()), wide(&dy.to_vec().unwrap()));

    let dx = layer.backward_input(dy).unwrap().to_vec().unwrap();
    assert_close(
        &dx,
        &backward_rows(&dys, &wide(&weight), OUT, IN),
        tolerance,
    );

    // What sums hold is added to: twice is the double, never rounded to the element type
    let mut sums = parameters::<T, IN, OUT>(true);
    let mut plain = parameters::<T, IN, OUT>(false);
    let exact = if T::NAME == "f64" { 1e-12 } else { 1e-5 };
    for times in [1.0, 2.0] {
        sums.accumulate(x, dy).unwrap();
        plain.accumulate(x, dy).unwrap();
        let by = |sums: Vec<f64>| -> Vec<f64> { sums.iter().map(|x| times * x).collect() };
        assert_close(&values_of(&sums, 0), &by(outer(&dys, &xs, OUT, IN)), exact);
        assert_close(&values_of(&sums, 1), &by(columns(&dys, OUT)), exact);
        assert_eq!(values_of(&plain, 0), values_of(&sums, 0));
    }
}

#[test]
fn linears_of_every_type_and_row_count() {
    for count in [0, 1, 2, 5, 16, 17, 40, 600, 1100] {
        linear::<f64, 9, 7, 12, 9>(count, 1e-12);
        linear::<f32, 9, 7, 12, 9>(count, 1e-5);
        linear::<bf16, 9, 7, 12, 9>(count, 2e-2);
    }
    linear::<f32, 150, 130, 153, 132>(70, 1e-5);
    linear::<bf16, 150, 130, 153, 132>(70, 2e-2);
    linear::<f64, 1, 1, 4, 3>(3, 1e-13);
    assert!(
        parameters::<f32, 3, 2>(false)
            .accumulate(&rows::<f32, 3>(2, 0.0), &rows::<f32, 2>(3, 0.0))
            .is_err()
    );
}

fn accum_linear<T: CpuElement>(count: usize, tolerance: f64) {
    let weight: Vec<T::Accum> = values(5 * 11, 0.3);
    let bias: Vec<T::Accum> = values(5, 0.3);
    let layer: AccumLinear<Cpu<T>, 11, 5> =
        AccumLinear::new(&DEVICE, weight.clone(), Some(bias)).unwrap();
    let x = rows::<T, 13>(count, 0.1);
    let x = x.columns::<2, 11>();
    // A gradient that no narrow element holds
    let dy = layer.forward(x).unwrap().scaled(0.37).unwrap();
    let (xs, dys) = (wide(&x.to_vec().unwrap()), wide(&dy.to_vec().unwrap()));
    let dx = layer.backward_input(&dy).unwrap().to_vec().unwrap();
    assert_close(&dx, &backward_rows(&dys, &wide(&weight), 5, 11), tolerance);
    let mut sums = parameters::<T, 11, 5>(true);
    sums.accumulate_per_head(x, &dy).unwrap();
    assert_close(&values_of(&sums, 0), &outer(&dys, &xs, 5, 11), 1e-5);
    assert_close(&values_of(&sums, 1), &columns(&dys, 5), 1e-5);
}

#[test]
fn linears_in_the_accumulation_type() {
    for count in [0, 1, 16, 33, 700] {
        accum_linear::<f64>(count, 1e-12);
        accum_linear::<f32>(count, 1e-5);
        accum_linear::<bf16>(count, 1e-2);
    }
    let short = rows::<f32, 5>(2, 0.0).view().to_per_head().unwrap();
    assert!(
        parameters::<f32, 11, 5>(true)
            .accumulate_per_head(&rows::<f32, 11>(3, 0.0), &short)
            .is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A loss of the output, differentiated by everything that it depends on.
    #[test]
    fn linears_against_differences(count in 0_usize..5, seed in 0.0..6.0_f64) {
        let (x, w, b) = (values::<f64>(count * 4, seed), values::<f64>(12, seed + 1.0), values(3, seed + 2.0));
        let weights = values::<f64>(count * 3, seed + 3.0);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            let layer: Linear<Cpu<f64>, 4, 3> = Linear::new(&DEVICE, w.to_vec(), Some(b.to_vec())).unwrap();
            dot(&layer.forward(&rows_of(x)).unwrap().to_vec().unwrap(), &weights)
        };
        let layer: Linear<Cpu<f64>, 4, 3> = Linear::new(&DEVICE, w.clone(), Some(b.clone())).unwrap();
        let dy = rows_of(&weights);
        let dx = layer.backward_input(&dy).unwrap();
        assert_close(&dx.to_vec().unwrap(), &derivatives(&x, |x| loss(x, &w, &b)), 1e-8);
        let mut sums = parameters::<f64, 4, 3>(true);
        sums.accumulate(&rows_of(&x), &dy).unwrap();
        assert_close(&values_of(&sums, 0), &derivatives(&w, |w| loss(&x, w, &b)), 1e-8);
        assert_close(&values_of(&sums, 1), &derivatives(&b, |b| loss(&x, &w, b)), 1e-8);
    }
}

const H: usize = 3;
const N: usize = 5;
const V: usize = 6;
const C: usize = 19;
const UP: usize = H * (N + V);

fn absorbed<T: CpuElement>(count: usize, tolerance: f64) {
    let weight = values::<T>(UP * C, 0.2);
    let up: Linear<Cpu<T>, C, UP> = Linear::new(&DEVICE, weight.clone(), None).unwrap();
    // The queries' other part stands beside them
    let q = heads::<T, H, { N + 2 }, { H * (N + 2) }>(count, 0.7);
    let q = q.part::<0, N>();
    let dq = heads::<T, H, C, { H * C }>(count, 0.4);
    let z = heads::<T, H, C, { H * C }>(count, 0.1);
    let d_out = heads::<T, H, V, { H * V }>(count, 0.9);

    let absorbed = absorb::queries(&up, q).unwrap();
    let back: Heads<Cpu<T>, H, N> = absorb::queries_backward(&up, &dq).unwrap();
    let list = |heads: &Heads<Cpu<T>, H, C>| heads.to_vec().unwrap();
    assert_adjoint(
        &list(&absorbed),
        &list(&dq),
        &q.to_vec().unwrap(),
        &back.to_vec().unwrap(),
        tolerance,
    );
    let out: Heads<Cpu<T>, H, V> = absorb::values(&up, &z).unwrap();
    let back = absorb::values_backward(&up, &d_out).unwrap();
    let d_outs = d_out.to_vec().unwrap();
    assert_adjoint(
        &out.to_vec().unwrap(),
        &d_outs,
        &list(&z),
        &list(&back),
        tolerance,
    );

    // The weight's gradient, head by head
    let mut sums = parameters::<T, C, UP>(false);
    let (qs, dqs, zs) = (
        wide(&q.to_vec().unwrap()),
        wide(&list(&dq)),
        wide(&list(&z)),
    );
    let d_outs = wide(&d_outs);
    let mut wanted = vec![0.0; UP * C];
    for i in 0..count * H {
        let head = &mut wanted[i % H * (N + V) * C..][..(N + V) * C];
        let left = [&qs[i * N..(i + 1) * N], &d_outs[i * V..(i + 1) * V]].concat();
        for (row, left) in left.iter().enumerate() {
            let right = if row < N { &dqs } else { &zs };
            for (c, right) in right[i * C..(i + 1) * C].iter().enumerate() {
                head[row * C + c] += left * right;
            }
        }
    }
    let exact = if T::NAME == "f64" { 1e-12 } else { 1e-5 };
    for times in [1.0, 2.0] {
        sums.accumulate_queries(q, &dq).unwrap();
        sums.accumulate_values(&z, &d_out).unwrap();
        let wanted: Vec<f64> = wanted.iter().map(|x| times * x).collect();
        assert_close(&values_of(&sums, 0), &wanted, exact);
    }
}

#[test]
fn absorbed_products_of_every_type_and_row_count() {
    for count in [0, 1, 2, 17, 40, 600] {
        absorbed::<f64>(count, 1e-12);
        absorbed::<f32>(count, 1e-6);
        absorbed::<bf16>(count, 4e-3);
    }
}

/// Products so large that all threads share a head are those of a few rows at a time.
fn large_heads<T: CpuElement>(tolerance: f64) {
    const N: usize = 80;
    const C: usize = 96;
    const UP: usize = 2 * 2 * N;
    const ROWS: usize = 600;
    let up: Linear<Cpu<T>, C, UP> = Linear::new(&DEVICE, values::<T>(UP * C, 0.2), None).unwrap();
    let x = values::<T>(ROWS * 2 * (N + 3), 0.7);
    let d = values::<T>(ROWS * 2 * C, 0.4);
    let products = |x: &[T], d: &[T]| {
        let q = rows_of::<T, { 2 * (N + 3) }>(x).into_heads::<2, { N + 3 }>();
        let latent = absorb::queries(&up, q.part::<2, N>()).unwrap();
        let d = rows_of::<T, { 2 * C }>(d).into_heads::<2, C>();
        let back: Heads<Cpu<T>, 2, N> = absorb::queries_backward(&up, &d).unwrap();
        [latent.to_vec().unwrap(), back.to_vec().unwrap()]
    };
    let pieces = x.chunks(x.len() / 60).zip(d.chunks(d.len() / 60));
    let mut wanted = [Vec::new(), Vec::new()];
    for (x, d) in pieces {
        for (wanted, piece) in wanted.iter_mut().zip(products(x, d)) {
            wanted.extend(wide(&piece));
        }
    }
    for (found, wanted) in products(&x, &d).iter().zip(&wanted) {
        assert_close(found, wanted, tolerance);
    }
}

#[test]
fn large_heads_are_many_small_ones() {
    large_heads::<f64>(1e-12);
    large_heads::<f32>(1e-4);
    large_heads::<bf16>(2e-2);
}

#[test]
fn absorbed_gradients_refuse_biases_and_other_row_counts() {
    let up: Linear<Cpu, C, UP> =
        Linear::new(&DEVICE, vec![0.0; UP * C], Some(vec![0.0; UP])).unwrap();
    let latent = heads::<f32, H, C, { H * C }>(2, 0.0);
    let out = heads::<f32, H, V, { H * V }>(2, 0.0);
    assert!(absorb::queries_backward::<_, C, UP, H, N>(&up, &latent).is_err());
    assert!(absorb::values::<_, C, UP, H, V>(&up, &latent).is_err());
    assert!(absorb::values_backward(&up, &out).is_err());
    assert!(
        parameters::<f32, C, UP>(true)
            .accumulate_values(&latent, &out)
            .is_err()
    );
    let mut sums = parameters::<f32, C, UP>(false);
    let short = heads::<f32, H, V, { H * V }>(1, 0.0);
    assert!(sums.accumulate_values(&latent, &short).is_err());
    assert!(sums.accumulate_queries(short.view(), &latent).is_err());
}

/// The same bits however often, and for a product in one piece however many rows share a thread.
#[test]
fn gradients_of_weights_are_the_same_every_time() {
    let (x, dy) = (rows::<f32, 70>(900, 0.1), rows::<f32, 90>(900, 0.2));
    let once = || {
        let mut sums = parameters::<f32, 70, 90>(true);
        sums.accumulate(&x, &dy).unwrap();
        [values_of(&sums, 0), values_of(&sums, 1)]
    };
    let first = once();
    for _ in 0..5 {
        assert_eq!(once(), first);
    }
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let bias = alone.install(|| once()[1].clone());
    assert_eq!(
        bias, first[1],
        "sums of columns depend on no number of threads"
    );
}
