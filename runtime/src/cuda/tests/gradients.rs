//! Gradients of norms, gates, activations and biases.

use super::in_each_type;

in_each_type! { column_sums norms gates activations dots }

mod cases {
    use super::super::*;
    use crate::backend::{Gamma, GradientOps};

    type OfCpu<T> = <Cpu<T> as Backend>::Gradients;
    type OfCuda<T> = <Cuda<T> as Backend>::Gradients;

    /// Large beside squares of small values: a gradient that cancels would be all rounding.
    const EPS: f64 = 0.3;

    fn some_shapes(dice: &mut Dice) -> Vec<Shape> {
        // More lines than one partial sum has, more columns than a block has threads, and nothing at all
        [
            (150, 3, 5),
            (3, 2, 150),
            (1, 1, 1),
            (7, 1, 128),
            (70, 1, 257),
            (0, 2, 4),
            (3, 0, 4),
            (3, 2, 0),
        ]
        .map(|(rows, heads, width)| Shape::random(dice, rows, heads, width))
        .to_vec()
    }

    pub(super) fn column_sums<T: Number>() {
        column_sums_of::<T, T>();
        column_sums_of::<T, Accum<T>>();
    }

    fn column_sums_of<T: Number, S: Scalar>() {
        let dice = &mut Dice::new();
        for shape in some_shapes(dice) {
            let x = Both::<S>::random(dice, shape.len());
            let mut into = Both::<Accum<T>>::random(dice, shape.width);
            OfCpu::<T>::column_sums(&CPU, shape.of(&x.cpu), &mut into.cpu).expect("runs");
            OfCuda::<T>::column_sums(&device(), shape.of(&x.cuda), &mut into.cuda).expect("runs");
            assert_same("column_sums", &into.cuda, &into.cpu);
        }
    }

    pub(super) fn norms<T: Number>() {
        let dice = &mut Dice::new();
        for shape in some_shapes(dice) {
            let of_dy = Shape::random(dice, shape.rows, shape.heads, shape.width);
            let x = Both::<T>::random(dice, shape.len());
            let dy = Both::<T>::random(dice, of_dy.len());
            let gamma = Both::<T>::random(dice, shape.width);
            let mut d_gamma = Both::<Accum<T>>::random(dice, shape.width);
            let mut d_beta = Both::<Accum<T>>::random(dice, shape.width);
            for weighted in [false, true] {
                let wanted = OfCpu::<T>::rms_norm_backward(
                    &CPU,
                    shape.of(&x.cpu),
                    of_dy.of(&dy.cpu),
                    weighted.then_some(Gamma {
                        values: &gamma.cpu,
                        gradient: &mut d_gamma.cpu,
                    }),
                    EPS,
                );
                let found = OfCuda::<T>::rms_norm_backward(
                    &device(),
                    shape.of(&x.cuda),
                    of_dy.of(&dy.cuda),
                    weighted.then_some(Gamma {
                        values: &gamma.cuda,
                        gradient: &mut d_gamma.cuda,
                    }),
                    EPS,
                );
                assert_same("dx", &found.expect("runs"), &wanted.expect("runs"));
                assert_same("d_gamma", &d_gamma.cuda, &d_gamma.cpu);
            }
            let wanted = OfCpu::<T>::layer_norm_backward(
                &CPU,
                shape.of(&x.cpu),
                of_dy.of(&dy.cpu),
                &gamma.cpu,
                EPS,
                &mut d_gamma.cpu,
                &mut d_beta.cpu,
            );
            let found = OfCuda::<T>::layer_norm_backward(
                &device(),
                shape.of(&x.cuda),
                of_dy.of(&dy.cuda),
                &gamma.cuda,
                EPS,
                &mut d_gamma.cuda,
                &mut d_beta.cuda,
            );
            assert_same("centred dx", &found.expect("runs"), &wanted.expect("runs"));
            assert_same("centred d_gamma", &d_gamma.cuda, &d_gamma.cpu);
            assert_same("d_beta", &d_beta.cuda, &d_beta.cpu);
        }
    }

    pub(super) fn gates<T: Number>() {
        gates_of::<T, T>();
        gates_of::<T, Accum<T>>();
    }

    fn gates_of<T: Number, S: Scalar>() {
        let dice = &mut Dice::new();
        for (rows, gates, shared) in [
            (5, 7, 1),
            (3, 4, 2),
            (2, 3, 100),
            (4, 33, 32),
            (0, 3, 2),
            (3, 0, 2),
            (3, 2, 0),
        ] {
            let shape = Shape::random(dice, rows, 1, gates);
            let given = Both::<S>::of(wide_values(dice, shape.len()));
            let x = Both::<T>::random(dice, rows * gates * shared);
            let dy = Both::<T>::random(dice, rows * gates * shared);
            let wanted = OfCpu::<T>::gate_backward(&CPU, &x.cpu, &dy.cpu, shape.of(&given.cpu));
            let found =
                OfCuda::<T>::gate_backward(&device(), &x.cuda, &dy.cuda, shape.of(&given.cuda));
            let (found, wanted) = (found.expect("runs"), wanted.expect("runs"));
            assert_same("gated", &found.x, &wanted.x);
            assert_same("gates", &found.gates, &wanted.gates);
        }
    }

    /// Values up to where the logistic function is as good as 0 or 1, and past it.
    fn wide_values<S: Scalar>(dice: &mut Dice, len: usize) -> Vec<S> {
        let scaled = |_| S::from_f64(dice.real() * 60.0);
        let mut values: Vec<S> = (0..len).map(scaled).collect();
        let corners = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e4, -1e4, 0.0];
        for (value, corner) in values.iter_mut().zip(corners) {
            *value = S::from_f64(corner);
        }
        values
    }

    pub(super) fn activations<T: Number>() {
        let dice = &mut Dice::new();
        for len in [0, 1, 1000] {
            let x = Both::<T>::of(wide_values(dice, len));
            let mut dy = Both::<T>::random(dice, len);
            OfCpu::<T>::silu_backward(&CPU, &x.cpu, &mut dy.cpu).expect("runs");
            OfCuda::<T>::silu_backward(&device(), &x.cuda, &mut dy.cuda).expect("runs");
            assert_same("silu", &dy.cuda, &dy.cpu);
        }
    }

    pub(super) fn dots<T: Number>() {
        let dice = &mut Dice::new();
        for shape in some_shapes(dice) {
            let of_y = Shape::random(dice, shape.rows, shape.heads, shape.width);
            let x = Both::<T>::random(dice, shape.len());
            let y = Both::<T>::random(dice, of_y.len());
            let wanted = OfCpu::<T>::dots(&CPU, shape.of(&x.cpu), of_y.of(&y.cpu));
            let found = OfCuda::<T>::dots(&device(), shape.of(&x.cuda), of_y.of(&y.cuda));
            assert_same("dots", &found.expect("runs"), &wanted.expect("runs"));
        }
    }
}
