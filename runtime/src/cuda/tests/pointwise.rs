//! Loops over values, norms, rotations, and rows in caches.

use super::in_each_type;

in_each_type! { copies gates scales norms rotations transforms entries }

mod cases {
    use super::super::*;
    use crate::backend::{GradientOps, Place, Rotation};

    fn some_shapes(dice: &mut Dice) -> [Shape; 3] {
        [
            Shape::random(dice, 3, 2, 5),
            Shape::random(dice, 7, 1, 150),
            Shape::random(dice, 1, 3, 64),
        ]
    }

    pub(super) fn copies<T: Number>() {
        let dice = &mut Dice::new();
        for shape in some_shapes(dice) {
            let x = Both::<T>::random(dice, shape.len());
            let (cpu, cuda) = (
                shape.of::<Cpu<T>, T>(&x.cpu),
                shape.of::<Cuda<T>, T>(&x.cuda),
            );
            assert_same(
                "copy",
                &Cuda::copy(&device(), cuda).expect("runs"),
                &Cpu::copy(&CPU, cpu).expect("runs"),
            );
            let wide = Cuda::widened(&device(), cuda).expect("runs");
            assert_same("widened", &wide, &Cpu::widened(&CPU, cpu).expect("runs"));
            let narrow = Cuda::<T>::round(&device(), wide).expect("runs");
            let wanted = Cpu::copy(&CPU, cpu).expect("runs");
            assert_same("round", &narrow, &wanted);
            let place = Place {
                stride: shape.heads * shape.width + 3,
                offset: 2,
                head_stride: shape.width,
            };
            let mut sum = Both::<T>::random(dice, shape.rows * place.stride);
            <Cpu<T> as Backend>::Gradients::add(&CPU, cpu, &mut sum.cpu, place).expect("runs");
            <Cuda<T> as Backend>::Gradients::add(&device(), cuda, &mut sum.cuda, place)
                .expect("runs");
            assert_same("add", &sum.cuda, &sum.cpu);
        }
        let (left, right) = (Shape::random(dice, 4, 1, 6), Shape::random(dice, 4, 1, 3));
        let (x, y) = (
            Both::<T>::random(dice, left.len()),
            Both::<T>::random(dice, right.len()),
        );
        let found = Cuda::concat(&device(), left.of(&x.cuda), right.of(&y.cuda)).expect("runs");
        assert_same(
            "concat",
            &found,
            &Cpu::concat(&CPU, left.of(&x.cpu), right.of(&y.cpu)).expect("runs"),
        );
    }

    pub(super) fn gates<T: Number>() {
        let dice = &mut Dice::new();
        for shape in some_shapes(dice) {
            let gates = Both::<T>::random(dice, shape.len());
            let mut x = Both::<T>::random(dice, shape.rows * shape.heads * shape.width);
            Cpu::gate(&CPU, &mut x.cpu, shape.of(&gates.cpu)).expect("runs");
            Cuda::gate(&device(), &mut x.cuda, shape.of(&gates.cuda)).expect("runs");
            assert_same("gate", &x.cuda, &x.cpu);
            let gates = Both::<Accum<T>>::random(dice, shape.rows * shape.heads);
            Cpu::gate_parts(&CPU, &mut x.cpu, &gates.cpu, shape.width).expect("runs");
            Cuda::gate_parts(&device(), &mut x.cuda, &gates.cuda, shape.width).expect("runs");
            assert_same("gate_parts", &x.cuda, &x.cpu);
            Cpu::scale_parts(&CPU, &mut x.cpu, &gates.cpu, shape.width).expect("runs");
            Cuda::scale_parts(&device(), &mut x.cuda, &gates.cuda, shape.width).expect("runs");
            assert_same("scale_parts", &x.cuda, &x.cpu);
            Cpu::silu(&CPU, &mut x.cpu).expect("runs");
            Cuda::silu(&device(), &mut x.cuda).expect("runs");
            assert_same("silu", &x.cuda, &x.cpu);
        }
    }

    pub(super) fn scales<T: Number>() {
        let dice = &mut Dice::new();
        let mut x = Both::<T>::random(dice, 1000);
        Cpu::scale(&CPU, &mut x.cpu, -0.3).expect("runs");
        Cuda::scale(&device(), &mut x.cuda, -0.3).expect("runs");
        assert_same("scale", &x.cuda, &x.cpu);
        let mut x = Both::<Accum<T>>::random(dice, 300);
        Cpu::<T>::scale_accum(&CPU, &mut x.cpu, 1.7).expect("runs");
        Cuda::<T>::scale_accum(&device(), &mut x.cuda, 1.7).expect("runs");
        assert_same("scale_accum", &x.cuda, &x.cpu);
    }

    pub(super) fn norms<T: Number>() {
        let dice = &mut Dice::new();
        for shape in some_shapes(dice) {
            let x = Both::<T>::random(dice, shape.len());
            let (gamma, beta) = (
                Both::<T>::random(dice, shape.width),
                Both::<T>::random(dice, shape.width),
            );
            for weighted in [false, true] {
                let found = Cuda::rms_norm(
                    &device(),
                    shape.of(&x.cuda),
                    weighted.then_some(&gamma.cuda),
                    1e-3,
                );
                let wanted =
                    Cpu::rms_norm(&CPU, shape.of(&x.cpu), weighted.then_some(&gamma.cpu), 1e-3);
                assert_same("rms_norm", &found.expect("runs"), &wanted.expect("runs"));
            }
            let found =
                Cuda::layer_norm(&device(), shape.of(&x.cuda), &gamma.cuda, &beta.cuda, 1e-3);
            let wanted = Cpu::layer_norm(&CPU, shape.of(&x.cpu), &gamma.cpu, &beta.cpu, 1e-3);
            assert_same("layer_norm", &found.expect("runs"), &wanted.expect("runs"));
        }
    }

    pub(super) fn rotations<T: Number>() {
        let dice = &mut Dice::new();
        for (half_in, half_out, backward) in [
            (false, false, false),
            (true, true, true),
            (false, true, false),
        ] {
            let (rows, heads, width, start, pairs) = (3, 2, 11, 2, 4);
            let mut x = Both::<T>::random(dice, rows * heads * width);
            let (cos, sin) = (
                Both::random(dice, rows * pairs),
                Both::random(dice, rows * pairs),
            );
            let of_cpu = Rotation {
                cos: &cos.cpu,
                sin: &sin.cpu,
                pairs,
                start,
                half_in,
                half_out,
                backward,
            };
            let of_cuda = Rotation {
                cos: &cos.cuda,
                sin: &sin.cuda,
                pairs,
                start,
                half_in,
                half_out,
                backward,
            };
            Cpu::rotate(&CPU, &mut x.cpu, heads, width, &of_cpu).expect("runs");
            Cuda::rotate(&device(), &mut x.cuda, heads, width, &of_cuda).expect("runs");
            assert_same("rotate", &x.cuda, &x.cpu);
        }
    }

    pub(super) fn transforms<T: Number>() {
        let dice = &mut Dice::new();
        for width in [1, 2, 64, 512] {
            let mut x = Both::<T>::random(dice, 3 * width);
            Cpu::hadamard(&CPU, &mut x.cpu, width).expect("runs");
            Cuda::hadamard(&device(), &mut x.cuda, width).expect("runs");
            assert_same("hadamard", &x.cuda, &x.cpu);
        }
    }

    pub(super) fn entries<T: Number>() {
        entries_of::<T, f32>();
        entries_of::<T, bf16>();
        entries_of::<T, half::f16>();
    }

    fn entries_of<T: Number, E: Scalar>() {
        let dice = &mut Dice::new();
        let shape = Shape::random(dice, 4, 2, 3);
        let x = Both::<T>::random(dice, shape.len());
        let slots = [Some(5), None, Some(0), Some(2)];
        let place = Place {
            stride: 10,
            offset: 1,
            head_stride: 4,
        };
        let mut cache = Both::<E>::random(dice, 6 * place.stride);
        Cpu::scatter(&CPU, shape.of(&x.cpu), &mut cache.cpu, &slots, place).expect("runs");
        Cuda::scatter(&device(), shape.of(&x.cuda), &mut cache.cuda, &slots, place).expect("runs");
        assert_same("scatter", &cache.cuda, &cache.cpu);
        let found: CudaBuffer<T> =
            Cuda::<T>::gather(&device(), &cache.cuda, &[2, 5, 5], place, 7).expect("runs");
        assert_same(
            "gather",
            &found,
            &Cpu::<T>::gather(&CPU, &cache.cpu, &[2, 5, 5], place, 7).expect("runs"),
        );
    }
}
