//! The backward pass of everything but attention, against finite differences and as the adjoint of the forward pass.

mod differences;
mod linears;
mod norms;
mod shapes;
mod turns;

use mla_runtime::{Backend, Cpu, CpuDevice, CpuElement, Heads, ParameterGroup, Rows, Scalar, bf16};

const DEVICE: CpuDevice = CpuDevice::new();

/// Values that every element type holds exactly.
fn values<T: Scalar>(len: usize, seed: f64) -> Vec<T> {
    (0..len)
        .map(|i| T::from_f64(bf16::from_f64((i as f64 * 0.731 + seed).sin()).to_f64()))
        .collect()
}

fn rows<T: CpuElement, const W: usize>(count: usize, seed: f64) -> Rows<Cpu<T>, W> {
    rows_of(&values::<T>(count * W, seed))
}

fn rows_of<T: CpuElement, const W: usize>(values: &[T]) -> Rows<Cpu<T>, W> {
    Rows::from_vec(&DEVICE, values.to_vec()).unwrap()
}

/// `count` rows of heads. `W` is `H · D`.
fn heads<T: CpuElement, const H: usize, const D: usize, const W: usize>(
    count: usize,
    seed: f64,
) -> Heads<Cpu<T>, H, D> {
    rows::<T, W>(count, seed).into_heads()
}

/// Parameter `index` of a group, from 0.
fn values_of<B: Backend>(group: &impl ParameterGroup<B>, index: usize) -> Vec<f64> {
    wide(&group.parameter(index).unwrap().to_vec().unwrap())
}

fn wide<T: Scalar>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn dot<S: Scalar, T: Scalar>(x: &[S], y: &[T]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x.to_f64() * y.to_f64()).sum()
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

/// `<f(x), y>` is `<x, fᵀ(y)>`, but for a part of what two vectors as long as `f(x)` and `y` could have as their product.
fn assert_adjoint<T: Scalar>(fx: &[T], y: &[T], x: &[T], fty: &[T], tolerance: f64) {
    let (left, right) = (dot(fx, y), dot(x, fty));
    let most = (dot(fx, fx) * dot(y, y)).sqrt();
    assert!(
        (left - right).abs() <= tolerance * most,
        "<f(x), y> is {left}, <x, fᵀ(y)> is {right}"
    );
}
