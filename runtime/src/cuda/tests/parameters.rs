//! Flat parameters.

use super::in_each_type;

in_each_type! { conversions sums row_scales norms finds host_work }

mod cases {
    use super::super::*;
    use crate::parameters::ParameterOps;

    type OfCpu<T> = <Cpu<T> as Backend>::Parameters;
    type OfCuda<T> = <Cuda<T> as Backend>::Parameters;

    const LENGTHS: [usize; 4] = [0, 1, 129, 5000];

    pub(super) fn conversions<T: Number>() {
        let dice = &mut Dice::new();
        for len in LENGTHS {
            let from = Both::<T>::random(dice, len);
            let mut wide = Both::<Accum<T>>::random(dice, len);
            OfCuda::<T>::widen(&device(), &from.cuda, &mut wide.cuda).expect("runs");
            OfCpu::<T>::widen(&CPU, &from.cpu, &mut wide.cpu).expect("runs");
            assert_exact(&wide.cuda, &wide.cpu);
            let wide = Both::<Accum<T>>::random(dice, len);
            let mut to = from;
            OfCuda::<T>::narrow(&device(), &wide.cuda, &mut to.cuda).expect("runs");
            OfCpu::<T>::narrow(&CPU, &wide.cpu, &mut to.cpu).expect("runs");
            assert_exact(&to.cuda, &to.cpu);
        }
    }

    #[track_caller]
    fn assert_exact<S: Scalar>(found: &CudaBuffer<S>, wanted: &[S]) {
        assert_eq!(device().download(found).expect("values"), wanted);
    }

    pub(super) fn sums<T: Number>() {
        let dice = &mut Dice::new();
        for len in LENGTHS {
            let mut x = Both::<Accum<T>>::random(dice, len);
            let y = Both::<Accum<T>>::random(dice, len);
            OfCuda::<T>::add(&device(), &mut x.cuda, &y.cuda).expect("runs");
            OfCpu::<T>::add(&CPU, &mut x.cpu, &y.cpu).expect("runs");
            assert_exact(&x.cuda, &x.cpu);
        }
    }

    pub(super) fn row_scales<T: Number>() {
        let dice = &mut Dice::new();
        for (rows, width) in [(3, 50), (200, 1), (0, 4), (4, 0)] {
            let mut x = Both::<Accum<T>>::random(dice, rows * width);
            let factors = Both::<Accum<T>>::random(dice, rows);
            OfCuda::<T>::scale_rows(&device(), &mut x.cuda, &factors.cuda, width).expect("runs");
            OfCpu::<T>::scale_rows(&CPU, &mut x.cpu, &factors.cpu, width).expect("runs");
            assert_exact(&x.cuda, &x.cpu);
        }
    }

    pub(super) fn norms<T: Number>() {
        let dice = &mut Dice::new();
        for len in LENGTHS {
            let x = Both::<Accum<T>>::random(dice, len);
            let found = OfCuda::<T>::square_norm(&device(), &x.cuda).expect("runs");
            let wanted = OfCpu::<T>::square_norm(&CPU, &x.cpu).expect("runs");
            assert!((found - wanted).abs() <= 1e-13 * wanted, "{found} {wanted}");
            let again = OfCuda::<T>::square_norm(&device(), &x.cuda).expect("runs");
            assert_eq!(found.to_bits(), again.to_bits());
        }
        // A square that no f32 holds
        let large = Both::<Accum<T>>::of(vec![Accum::<T>::from_f64(1e30)]);
        let found = OfCuda::<T>::square_norm(&device(), &large.cuda).expect("runs");
        assert!((found / 1e60 - 1.0).abs() < 1e-6, "{found}");
    }

    pub(super) fn finds<T: Number>() {
        let dice = &mut Dice::new();
        let is_finite = |values: &[Accum<T>]| {
            let x = Both::<Accum<T>>::of(values.to_vec());
            OfCuda::<T>::is_finite(&device(), &x.cuda).expect("runs")
        };
        for len in LENGTHS {
            let mut values: Vec<Accum<T>> = dice.values(len);
            if let Some(value) = values.first_mut() {
                *value = Accum::<T>::from_f32(-f32::MAX);
            }
            assert!(is_finite(&values));
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for at in [0, len / 2, len.saturating_sub(1)] {
                    let mut values = values.clone();
                    let Some(value) = values.get_mut(at) else {
                        continue;
                    };
                    *value = Accum::<T>::from_f64(bad);
                    assert!(!is_finite(&values), "{bad} at {at} of {len}");
                }
            }
        }
    }

    pub(super) fn host_work<T: Number>() {
        let dice = &mut Dice::new();
        for len in [0, 1, 1000] {
            let mut x = Both::<Accum<T>>::random(dice, len);
            let mut y = Both::<Accum<T>>::random(dice, len);
            let z = Both::<Accum<T>>::random(dice, len);
            let sum = OfCuda::<T>::on_host(
                &device(),
                [&mut x.cuda, &mut y.cuda],
                [&z.cuda],
                |[x, y], [z]| {
                    for ((x, y), z) in x.iter_mut().zip(y.iter_mut()).zip(z) {
                        (*x, *y) = (*y, *z);
                    }
                    x.len() + y.len() + z.len()
                },
            );
            assert_eq!(sum.expect("runs"), 3 * len);
            assert_exact(&x.cuda, &y.cpu);
            assert_exact(&y.cuda, &z.cpu);
            assert_exact(&z.cuda, &z.cpu);
        }
    }
}
