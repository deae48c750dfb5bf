//! Products of matrices of any strides.

use super::in_each_type;

in_each_type! { linears head_products gradients rows_beside }

mod cases {
    use super::super::*;
    use crate::backend::{GradientOps, HeadMatrices};

    pub(super) fn linears<T: Number>() {
        let dice = &mut Dice::new();
        for (rows, input, out) in [(1, 7, 3), (5, 33, 40), (40, 64, 17), (2, 0, 4)] {
            let shape = Shape::random(dice, rows, 1, input);
            let x = Both::<T>::random(dice, shape.len());
            let (weight, bias) = (
                Both::<T>::random(dice, out * input),
                Both::<T>::random(dice, out),
            );
            for biased in [false, true] {
                let found = Cuda::linear(
                    &device(),
                    shape.of(&x.cuda),
                    &weight.cuda,
                    biased.then_some(&bias.cuda),
                    out,
                );
                let wanted = Cpu::linear(
                    &CPU,
                    shape.of(&x.cpu),
                    &weight.cpu,
                    biased.then_some(&bias.cpu),
                    out,
                );
                assert_same("linear", &found.expect("runs"), &wanted.expect("runs"));
            }
            let weight = Both::<Accum<T>>::random(dice, out * input);
            let bias = Both::<Accum<T>>::random(dice, out);
            let found = Cuda::accum_linear(
                &device(),
                shape.of(&x.cuda),
                &weight.cuda,
                Some(&bias.cuda),
                out,
            );
            let wanted =
                Cpu::accum_linear(&CPU, shape.of(&x.cpu), &weight.cpu, Some(&bias.cpu), out);
            assert_same(
                "accum_linear",
                &found.expect("runs"),
                &wanted.expect("runs"),
            );
        }
    }

    /// Matrices of `[k, n]` in a weight, one way round or the other.
    fn matrices(k: usize, n: usize, turned: bool) -> HeadMatrices {
        let (k_stride, n_stride) = if turned { (1, k) } else { (n, 1) };
        HeadMatrices {
            offset: 3,
            head_stride: k * n + 2,
            k_stride,
            n_stride,
            columns: n,
        }
    }

    pub(super) fn head_products<T: Number>() {
        let dice = &mut Dice::new();
        for (rows, heads, k, n, turned) in [
            (3, 4, 6, 5, false),
            (40, 2, 35, 33, true),
            (1, 3, 16, 8, true),
        ] {
            let shape = Shape::random(dice, rows, heads, k);
            let x = Both::<T>::random(dice, shape.len());
            let matrices = matrices(k, n, turned);
            let weight = Both::<T>::random(dice, 3 + heads * matrices.head_stride);
            let found = Cuda::head_product(&device(), shape.of(&x.cuda), &weight.cuda, matrices);
            let wanted = Cpu::head_product(&CPU, shape.of(&x.cpu), &weight.cpu, matrices);
            assert_same(
                "head_product",
                &found.expect("runs"),
                &wanted.expect("runs"),
            );
        }
    }

    pub(super) fn gradients<T: Number>() {
        gradients_of::<T, T>();
        gradients_of::<T, Accum<T>>();
        let dice = &mut Dice::new();
        let (rows, out, input) = (5, 9, 34);
        let (dy, weight) = (
            Both::<Accum<T>>::random(dice, rows * out),
            Both::<Accum<T>>::random(dice, out * input),
        );
        let sizes = (rows, out, input);
        let found = <Cuda<T> as Backend>::Gradients::accum_linear_backward(
            &device(),
            &dy.cuda,
            &weight.cuda,
            sizes,
        );
        let wanted = <Cpu<T> as Backend>::Gradients::accum_linear_backward(
            &CPU,
            &dy.cpu,
            &weight.cpu,
            sizes,
        );
        assert_same(
            "accum_linear_backward",
            &found.expect("runs"),
            &wanted.expect("runs"),
        );
    }

    /// With the option for it, a row's product is the same bits whatever rows are beside it.
    pub(super) fn rows_beside<T: Number>() {
        let device = batch_invariant_device();
        let dice = &mut Dice::new();
        let large = if device.is_emulated() { 1 } else { 16 };
        for (input, out) in [(7, 3), (64 * large, 48 * large), (96 * large, 8 * large)] {
            let (rows, heads) = (33 * large, 2);
            let shape = Shape {
                offset: 0,
                rows,
                heads,
                width: input,
                head_stride: input,
                row_stride: heads * input,
            };
            let x = Both::<T>::random(dice, shape.len());
            let weight = Both::<T>::random(dice, heads * input * out);
            let matrices = HeadMatrices {
                offset: 0,
                head_stride: input * out,
                k_stride: 1,
                n_stride: input,
                columns: out,
            };
            // Another device of the same GPU does not wait for this one's uploads
            super::super::device().synchronize().expect("uploads");
            let products = |first: usize, rows: usize| {
                let some = Shape {
                    offset: first * shape.row_stride,
                    rows,
                    ..shape
                };
                let one_head = Shape { heads: 1, ..some };
                let linear = Cuda::linear(&device, one_head.of(&x.cuda), &weight.cuda, None, out);
                let by_heads =
                    Cuda::head_product(&device, some.of(&x.cuda), &weight.cuda, matrices);
                [(linear, out), (by_heads, heads * out)].map(|(found, width)| {
                    let found = device.download(&found.expect("runs")).expect("values");
                    (found, width)
                })
            };
            let together = products(0, rows);
            for (first, some) in [(0, 1), (rows - 1, 1), (3, 2), (5, 20)] {
                for ((found, width), (all, _)) in products(first, some).iter().zip(&together) {
                    let beside = &all[first * width..(first + some) * width];
                    assert_eq!(
                        found, beside,
                        "{some} rows of {input} to {out} from {first} on"
                    );
                }
            }
        }
    }

    fn gradients_of<T: Number, S: Scalar>() {
        let dice = &mut Dice::new();
        for (rows, heads, k, n, turned) in [(3, 4, 6, 5, false), (40, 2, 35, 33, true)] {
            let (of_x, of_dy) = (
                Shape::random(dice, rows, heads, k),
                Shape::random(dice, rows, heads, n),
            );
            let (x, dy) = (
                Both::<T>::random(dice, of_x.len()),
                Both::<S>::random(dice, of_dy.len()),
            );
            let matrices = matrices(k, n, turned);
            let mut into = Both::<Accum<T>>::random(dice, 3 + heads * matrices.head_stride);
            <Cpu<T> as Backend>::Gradients::outer_products(
                &CPU,
                of_x.of(&x.cpu),
                of_dy.of(&dy.cpu),
                &mut into.cpu,
                matrices,
            )
            .expect("runs");
            <Cuda<T> as Backend>::Gradients::outer_products(
                &device(),
                of_x.of(&x.cuda),
                of_dy.of(&dy.cuda),
                &mut into.cuda,
                matrices,
            )
            .expect("runs");
            assert_same("outer_products", &into.cuda, &into.cpu);
        }
    }
}
