//! Rotations, query scales and gates.

use mla_runtime::{
    Cpu, CpuElement, Half, Interleaved, LogPositionParameters, LogPositionScale, RopeLayout,
    Rotary, bf16, gate, hadamard, position_scale,
};

use super::differences::derivatives;
use super::{
    DEVICE, assert_adjoint, assert_close, dot, heads, rows, rows_of, values, values_of, wide,
};

fn rotations<T: CpuElement, In: RopeLayout, Out: RopeLayout>(tolerance: f64) {
    const INV: [f64; 3] = [1.0, 0.031, 0.000_97];
    let rotary: Rotary<Cpu<T>, In, Out, 6> = Rotary::new(&DEVICE, &INV, 1.25).unwrap();
    let positions = [0, 1, 4095, 999_999];
    let angles = rotary.angles(&positions).unwrap();
    let x = || heads::<T, 2, 9, 18>(4, 0.6);
    let y = || heads::<T, 2, 9, 18>(4, 0.1);
    let adjoint = |fx: Vec<T>, fty: Vec<T>| {
        let (x, y) = (x().to_vec().unwrap(), y().to_vec().unwrap());
        assert_adjoint(&fx, &y, &x, &fty, tolerance);
    };
    let turned = rotary.heads(x(), &angles).unwrap();
    let back = rotary.heads_backward(y(), &angles).unwrap();
    adjoint(turned.to_vec().unwrap(), back.to_vec().unwrap());
    let turned = rotary.heads_first(x(), &angles).unwrap();
    let back = rotary.heads_first_backward(y(), &angles).unwrap();
    adjoint(turned.to_vec().unwrap(), back.to_vec().unwrap());
    let (x, y) = (|| x().into_rows::<18>(), || y().into_rows::<18>());
    let turned = rotary.rows_last(x(), &angles).unwrap();
    let back = rotary.rows_last_backward(y(), &angles).unwrap();
    adjoint(turned.to_vec().unwrap(), back.to_vec().unwrap());
    let turned = rotary.rows_first(x(), &angles).unwrap();
    let back = rotary.rows_first_backward(y(), &angles).unwrap();
    adjoint(turned.to_vec().unwrap(), back.to_vec().unwrap());

    let (key, d) = (rows::<T, 6>(4, 0.3), rows::<T, 6>(4, 0.9));
    let turned = rotary.key(&key, &angles).unwrap().to_vec().unwrap();
    let (key, ds) = (key.to_vec().unwrap(), d.to_vec().unwrap());
    let back = rotary.key_backward(d, &angles).unwrap().to_vec().unwrap();
    assert_adjoint(&turned, &ds, &key, &back, tolerance);
    // A rotation back undoes one, but for the square of the factor
    let whole = rotary.key(&rows_of::<T, 6>(&key), &angles).unwrap();
    let undone = rotary
        .key_backward(whole.view().to_rows().unwrap(), &angles)
        .unwrap();
    let wanted: Vec<f64> = wide(&key).iter().map(|x| 1.25 * 1.25 * x).collect();
    assert_close(&undone.to_vec().unwrap(), &wanted, tolerance);
    assert!(rotary.key_backward(rows::<T, 6>(3, 0.0), &angles).is_err());
    assert!(
        rotary
            .heads_backward(heads::<T, 2, 9, 18>(3, 0.0), &angles)
            .is_err()
    );
}

#[test]
fn rotations_back_are_the_adjoints_in_every_pair_of_layouts() {
    rotations::<f64, Interleaved, Interleaved>(1e-12);
    rotations::<f64, Interleaved, Half>(1e-12);
    rotations::<f64, Half, Interleaved>(1e-12);
    rotations::<f64, Half, Half>(1e-12);
    rotations::<f32, Interleaved, Half>(1e-5);
    rotations::<f32, Half, Half>(1e-5);
    rotations::<bf16, Half, Interleaved>(3e-2);
}

#[test]
fn diagonal_and_symmetric_maps_are_their_own_adjoints() {
    let x = || heads::<f64, 2, 8, 16>(3, 0.2);
    let y = || heads::<f64, 2, 8, 16>(3, 0.7);
    let (xs, ys) = (x().to_vec().unwrap(), y().to_vec().unwrap());
    let scaled = |q| {
        position_scale::llama4(q, &[0, 40, 900], 0.3, 16, 1)
            .unwrap()
            .to_vec()
    };
    assert_adjoint(
        &scaled(x()).unwrap(),
        &ys,
        &xs,
        &scaled(y()).unwrap(),
        1e-12,
    );
    let mixed = |q| hadamard::heads(q).unwrap().to_vec().unwrap();
    assert_adjoint(&mixed(x()), &ys, &xs, &mixed(y()), 1e-12);
}

fn query_scale<T: CpuElement>(tolerance: f64) {
    let (a, b) = (values::<T>(3, 0.2), values::<T>(3, 0.9));
    let scale: LogPositionScale<Cpu<T>, 3> = LogPositionScale::new(&DEVICE, &a, &b).unwrap();
    let positions = [0, 1, 17, 70_000];
    let q = heads::<T, 3, 5, 15>(4, 0.4);
    let ds = values::<T>(60, 0.7);
    let d = || rows_of::<T, 15>(&ds).into_heads::<3, 5>();
    let loss = |q: &[f64], a: &[f64], b: &[f64]| -> f64 {
        let factor = |i: usize| {
            let head = i / 5 % 3;
            a[head] * f64::from(positions[i / 15]).ln_1p() + b[head]
        };
        (0..q.len())
            .map(|i| q[i] * factor(i) * ds[i].to_f64())
            .sum()
    };
    let (qs, a, b) = (wide(&q.to_vec().unwrap()), wide(&a), wide(&b));
    let mut sums = LogPositionParameters::zeros(&DEVICE, "s").unwrap();
    let dq = scale.backward(&q, d(), &positions, &mut sums).unwrap();
    assert_close(
        &dq.to_vec().unwrap(),
        &derivatives(&qs, |q| loss(q, &a, &b)),
        tolerance,
    );
    scale.backward(&q, d(), &positions, &mut sums).unwrap();
    let twice = |wanted: Vec<f64>| -> Vec<f64> { wanted.iter().map(|x| 2.0 * x).collect() };
    assert_close(
        &values_of(&sums, 0),
        &twice(derivatives(&a, |a| loss(&qs, a, &b))),
        1e-5,
    );
    assert_close(
        &values_of(&sums, 1),
        &twice(derivatives(&b, |b| loss(&qs, &a, b))),
        1e-5,
    );
    assert!(scale.backward(&q, d(), &positions[..3], &mut sums).is_err());
    let short = heads::<T, 3, 5, 15>(3, 0.4);
    assert!(
        scale
            .backward(&short, d(), &positions[..3], &mut sums)
            .is_err()
    );
    let none = heads::<T, 3, 5, 15>(0, 0.4);
    let before = values_of(&sums, 0);
    let nothing = heads::<T, 3, 5, 15>(0, 0.4);
    assert!(
        scale
            .backward(&none, nothing, &[], &mut sums)
            .unwrap()
            .to_vec()
            .unwrap()
            .is_empty()
    );
    assert_eq!(values_of(&sums, 0), before);
}

#[test]
fn the_learned_query_scale_against_differences() {
    query_scale::<f64>(1e-8);
    query_scale::<f32>(1e-5);
    query_scale::<bf16>(2e-2);
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Gates with large and small logits, a gate to each `shared` values of `x`.
fn wanted(x: &[f64], gates: &[f64], d: &[f64], shared: usize) -> [Vec<f64>; 2] {
    let loss = |x: &[f64], gates: &[f64]| -> f64 {
        let gated = |i: usize| x[i] * sigmoid(gates[i / shared]);
        (0..x.len()).map(|i| gated(i) * d[i]).sum()
    };
    [
        derivatives(x, |x| loss(x, gates)),
        derivatives(gates, |gates| loss(x, gates)),
    ]
}

fn gates<T: CpuElement>(count: usize, tolerance: f64) {
    let x = heads::<T, 4, 3, 12>(count, 0.4);
    let d = heads::<T, 4, 3, 12>(count, 1.3);
    let (xs, ds) = (wide(&x.to_vec().unwrap()), wide(&d.to_vec().unwrap()));

    let by_head = rows::<T, 7>(count, 0.9).scaled(5.0).unwrap();
    let window = by_head.columns::<2, 4>();
    let [by_x, by_gate] = wanted(&xs, &wide(&window.to_vec().unwrap()), &ds, 3);
    let check = |dx: Vec<T>, d_gates: Vec<f64>| {
        assert_close(&dx, &by_x, tolerance);
        assert_close(&d_gates, &by_gate, tolerance);
    };
    let (dx, d_gates) = gate::per_head_backward(&x, window, &d).unwrap();
    check(dx.to_vec().unwrap(), wide(&d_gates.to_vec().unwrap()));
    let copy = window.to_rows().unwrap();
    let (dx, d_gates) = gate::per_head_backward(&x, &copy, &d).unwrap();
    check(dx.to_vec().unwrap(), wide(&d_gates.to_vec().unwrap()));
    let wide_gates = window.to_per_head().unwrap();
    let (dx, d_gates) = gate::per_head_backward(&x, &wide_gates, &d).unwrap();
    check(dx.to_vec().unwrap(), wide(&d_gates.to_vec().unwrap()));

    let all = rows::<T, 14>(count, 0.5);
    let window = all.columns::<1, 12>();
    let [by_x, by_gate] = wanted(&xs, &wide(&window.to_vec().unwrap()), &ds, 1);
    let check = |dx: Vec<T>, d_gates: Vec<f64>| {
        assert_close(&dx, &by_x, tolerance);
        assert_close(&d_gates, &by_gate, tolerance);
    };
    let (dx, d_gates) = gate::per_element_backward(&x, window, &d).unwrap();
    check(dx.to_vec().unwrap(), wide(&d_gates.to_vec().unwrap()));
    let wide_gates = window.to_per_head().unwrap();
    let (dx, d_gates) = gate::per_element_backward(&x, &wide_gates, &d).unwrap();
    check(dx.to_vec().unwrap(), wide(&d_gates.to_vec().unwrap()));
    let (x, d) = (x.into_rows::<12>(), d.into_rows::<12>());
    let copy = window.to_rows().unwrap();
    let (dx, d_gates) = gate::per_element_backward(&x, &copy, &d).unwrap();
    check(dx.to_vec().unwrap(), wide(&d_gates.to_vec().unwrap()));
}

#[test]
fn gates_of_every_kind_against_differences() {
    for count in [0, 1, 5] {
        gates::<f64>(count, 1e-8);
        gates::<f32>(count, 1e-5);
        gates::<bf16>(count, 2e-2);
    }
    let x = heads::<f32, 2, 3, 6>(2, 0.0);
    let short = heads::<f32, 2, 3, 6>(1, 0.0);
    assert!(gate::per_head_backward(&x, &rows::<f32, 2>(3, 0.0), &x).is_err());
    assert!(gate::per_head_backward(&x, &rows::<f32, 2>(2, 0.0), &short).is_err());
    assert!(gate::per_element_backward(&x, &rows::<f32, 6>(3, 0.0), &x).is_err());
    assert!(gate::per_element_backward(&x, &rows::<f32, 6>(2, 0.0), &short).is_err());
}

#[test]
fn a_closed_or_open_gate_passes_nothing_or_all() {
    let x = rows_of::<f32, 3>(&[2.0, -3.0, 4.0]);
    let d = rows_of::<f32, 3>(&[1.0, 0.5, -1.0]);
    let gates = rows_of::<f32, 3>(&[f32::INFINITY, f32::NEG_INFINITY, -300.0]);
    let (dx, d_gates) = gate::per_element_backward(&x, &gates, &d).unwrap();
    assert_eq!(dx.to_vec().unwrap(), [1.0, 0.0, 0.0]);
    assert_eq!(d_gates.to_vec().unwrap(), [0.0; 3]);
    assert_eq!(dot(&dx.to_vec().unwrap(), &[1.0_f32, 0.0, 0.0]), 1.0);
}
