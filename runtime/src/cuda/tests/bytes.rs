//! Byte formats: the same bytes as the CPU's, and the same numbers from them.

use super::in_each_type;

in_each_type! { flat latents keys narrow_numbers }

mod cases {
    use super::super::*;
    use crate::cache::{
        AnyScale, ByteFormat, EntryShape, Fp8DsMla, Fp8E4m3, Fp8E5m2, Fp8Model1, IndexFp8,
        IndexMxfp4, Mxfp8, PowerOfTwo,
    };

    pub(super) fn flat<T: Number>() {
        for &(latent, rope) in of_type::<T, _>(2, &[(512, 64), (3, 5), (1, 0), (0, 2), (0, 0)]) {
            check::<T, _>(Fp8E4m3::default(), latent, rope);
            check::<T, _>(Fp8E5m2::default(), latent, rope);
            check::<T, _>(Fp8E4m3::of_scale(0.37), latent, rope);
            check::<T, _>(Fp8E5m2::of_scale(7.1e-3), latent, rope);
        }
    }

    pub(super) fn latents<T: Number>() {
        for &(latent, rope) in of_type::<T, _>(2, &[(512, 64), (640, 3), (128, 0), (0, 7)]) {
            check::<T, _>(Fp8DsMla::<AnyScale>::default(), latent, rope);
            check::<T, _>(Fp8DsMla::<PowerOfTwo>::default(), latent, rope);
        }
        for &(latent, rope) in of_type::<T, _>(2, &[(448, 64), (640, 3), (64, 0), (0, 7)]) {
            check::<T, _>(Fp8Model1, latent, rope);
        }
        for &(latent, rope) in of_type::<T, _>(2, &[(448, 64), (160, 32), (32, 0), (0, 64)]) {
            check::<T, _>(Mxfp8, latent, rope);
        }
    }

    pub(super) fn keys<T: Number>() {
        for &key in of_type::<T, _>(2, &[128, 200, 1, 700]) {
            check::<T, _>(IndexFp8::<AnyScale>::default(), key, 0);
            check::<T, _>(IndexFp8::<PowerOfTwo>::default(), key, 0);
        }
        for &key in of_type::<T, _>(2, &[128, 288, 32]) {
            check::<T, _>(IndexMxfp4, key, 0);
        }
    }

    /// All codes, their neighbours and the middles between them, where the scale is 1.
    pub(super) fn narrow_numbers<T: Number>() {
        let codes: Vec<u8> = (0..=255).collect();
        let e4m3 = around((0..127).map(|code| crate::narrow::E4m3(code).decode()));
        let e5m2 = around((0..124).map(|code| crate::narrow::E5m2(code).decode()));
        let e2m1 = around((0..8).map(|code| crate::narrow::E2m1(code).decode()));
        same_values::<T, _>(Fp8E4m3::default(), 256, &codes);
        same_values::<T, _>(Fp8E5m2::default(), 256, &codes);
        same_bytes::<T, _>(Fp8E4m3::default(), &e4m3);
        same_bytes::<T, _>(Fp8E5m2::default(), &e5m2);
        // The largest value in each group makes its scale 1
        let groups: Vec<f64> = e2m1
            .chunks(31)
            .flat_map(|group| {
                let mut group = group.to_vec();
                group.resize(31, 0.0);
                group.push(6.0);
                group
            })
            .filter(|value| value.abs() <= 6.0)
            .collect();
        let whole = groups.len() / 32 * 32;
        same_bytes::<T, _>(IndexMxfp4, &groups[..whole]);
        // Two codes in each byte, and every scale
        let mut bytes: Vec<u8> = codes.repeat(16);
        bytes.extend(&codes);
        same_values::<T, _>(IndexMxfp4, 32 * 256, &bytes);
    }

    /// Numbers, the middles between neighbours, what is next to each as an `f32`, and their negatives.
    fn around(numbers: impl Iterator<Item = f32>) -> Vec<f64> {
        let mut numbers: Vec<f32> = numbers.collect();
        let middles: Vec<f32> = numbers
            .windows(2)
            .map(|pair| f32::midpoint(pair[0], pair[1]))
            .collect();
        numbers.extend(middles);
        let largest = numbers.iter().copied().fold(0.0, f32::max);
        numbers.extend([largest * 1.03, largest * 1.5, f32::MAX, f32::MIN_POSITIVE]);
        numbers.extend([f32::from_bits(1), f32::INFINITY, f32::NAN]);
        let near = numbers
            .iter()
            .flat_map(|x| [x.next_down(), *x, x.next_up()]);
        near.flat_map(|x| [f64::from(x), f64::from(-x)]).collect()
    }

    fn one(latent: usize) -> EntryShape {
        EntryShape {
            latent,
            rope: 0,
            blocks: 1,
            page: 1,
        }
    }

    /// One entry, encoded by both.
    fn same_bytes<T: Number, F: ByteFormat>(format: F, values: &[f64]) {
        let shape = one(values.len());
        let values = Both::<T>::of(values.iter().map(|&x| T::from_f64(x)).collect());
        let of_values = Shape {
            rows: 1,
            heads: 1,
            width: shape.latent,
            head_stride: shape.latent,
            row_stride: shape.latent,
            offset: 0,
        };
        let nothing = Shape {
            width: 0,
            ..of_values
        };
        let layout = F::layout(shape.latent, 0);
        let mut bytes = Bytes::of(vec![0x5a; layout.block_bytes(1)]);
        bytes.encode::<T, F>(format, shape, &[Some(0)], (of_values, &values), nothing);
        bytes.assert_same(format);
    }

    /// One entry, decoded by both.
    fn same_values<T: Number, F: ByteFormat>(format: F, width: usize, bytes: &[u8]) {
        Bytes::of(bytes.to_vec()).decode::<T, F>(format, one(width), &[0]);
    }

    /// A cache in the memory of both.
    struct Bytes {
        cpu: Vec<u8>,
        cuda: CudaBuffer<u8>,
    }

    impl Bytes {
        fn of(bytes: Vec<u8>) -> Self {
            let cuda = device().upload(&bytes).expect("room on the device");
            Self { cpu: bytes, cuda }
        }

        fn encode<T: Number, F: ByteFormat>(
            &mut self,
            format: F,
            shape: EntryShape,
            slots: &[Option<usize>],
            (latent, values): (Shape, &Both<T>),
            rope: Shape,
        ) {
            let (first, last) = (latent.of(&values.cpu), rope.of(&values.cpu));
            Cpu::encode(&CPU, format, &mut self.cpu, shape, slots, first, last).expect("runs");
            let (first, last) = (latent.of(&values.cuda), rope.of(&values.cuda));
            Cuda::encode(&device(), format, &mut self.cuda, shape, slots, first, last)
                .expect("runs");
        }

        #[track_caller]
        fn assert_same<F: ByteFormat>(&self, format: F) {
            let found = device().download(&self.cuda).expect("bytes");
            let pairs = found.iter().zip(&self.cpu).enumerate();
            for (i, (found, wanted)) in pairs {
                assert_eq!(found, wanted, "byte {i} of {format:?}");
            }
        }

        #[track_caller]
        fn decode<T: Number, F: ByteFormat>(&self, format: F, shape: EntryShape, slots: &[usize]) {
            let found: [CudaBuffer<T>; 2] =
                Cuda::decode(&device(), format, &self.cuda, shape, slots).expect("runs");
            let wanted: [Vec<T>; 2] =
                Cpu::decode(&CPU, format, &self.cpu, shape, slots).expect("runs");
            for (found, wanted) in found.iter().zip(&wanted) {
                let found = device().download(found).expect("values");
                assert_eq!(found.len(), wanted.len());
                for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                    let (found, wanted) = (found.to_f64(), wanted.to_f64());
                    assert!(
                        found.to_bits() == wanted.to_bits() || (found.is_nan() && wanted.is_nan()),
                        "value {i} of {format:?} is {found:e}, wanted {wanted:e}"
                    );
                }
            }
        }
    }

    /// Entries of some widths in some blocks: written over arbitrary bytes, read again, and arbitrary bytes read as well.
    fn check<T: Number, F: ByteFormat>(format: F, latent: usize, rope: usize) {
        let dice = &mut Dice::new();
        for (blocks, page) in [(1, 1), (3, 5)] {
            let shape = EntryShape {
                latent,
                rope,
                blocks,
                page,
            };
            let rows = shape.slots().min(9);
            let slots: Vec<Option<usize>> = (0..rows)
                .map(|row| (row != 3).then(|| (row * 7 + 2) % shape.slots()))
                .collect();
            let of_latent = Shape::random(dice, rows, 1, latent);
            let mut of_rope = Shape::random(dice, rows, 1, rope);
            of_rope.offset += of_latent.len();
            let kinds = Kind::ALL.iter().cycle();
            let mut values = vec![T::from_f64(f64::NAN); of_rope.len()];
            for (row, kind) in (0..rows).zip(kinds) {
                for part in [&of_latent, &of_rope] {
                    let first = part.offset + row * part.row_stride;
                    for value in &mut values[first..first + part.width] {
                        *value = T::from_f64(kind.value(dice));
                    }
                }
            }
            let values = Both::<T>::of(values);
            let len = blocks * F::layout(latent, rope).block_bytes(page);
            let mut bytes = Bytes::of((0..len).map(|_| dice.below(256) as u8).collect());
            let all: Vec<usize> = (0..shape.slots()).rev().collect();
            bytes.decode::<T, F>(format, shape, &all);
            bytes.decode::<T, F>(format, shape, &[]);
            bytes.encode(format, shape, &slots, (of_latent, &values), of_rope);
            bytes.assert_same(format);
            bytes.decode::<T, F>(format, shape, &all);
        }
    }

    /// What an entry's values are like.
    #[derive(Clone, Copy)]
    enum Kind {
        Usual,
        /// Any numbers of 32 bits, infinities and NaNs among them.
        Any,
        Tiny,
        Large,
        Zeros,
        /// A few infinities among numbers.
        Infinities,
        /// A few NaNs among numbers.
        Missing,
    }

    impl Kind {
        const ALL: [Self; 7] = [
            Self::Usual,
            Self::Any,
            Self::Tiny,
            Self::Zeros,
            Self::Large,
            Self::Infinities,
            Self::Missing,
        ];

        fn value(self, dice: &mut Dice) -> f64 {
            let sign = [1.0, -1.0][dice.below(2)];
            match self {
                Self::Usual => dice.real(),
                Self::Any => f64::from(f32::from_bits(dice.below(1 << 32) as u32)),
                Self::Tiny => dice.real() * 1e-38,
                Self::Large => dice.real() * 1e38,
                Self::Zeros => 0.0 * sign,
                Self::Infinities if dice.below(20) == 0 => f64::INFINITY * sign,
                Self::Missing if dice.below(20) == 0 => f64::NAN.copysign(sign),
                Self::Infinities | Self::Missing => dice.real(),
            }
        }
    }

    #[test]
    fn a_slot_out_of_range_is_reported() {
        let shape = one(4);
        let device = checked_device();
        let mut bytes = device.upload(&[0_u8; 4]).expect("room");
        let row = device.upload(&[1.0_f32; 4]).expect("room");
        let window = |width| Strided::<Cuda<f32>, f32> {
            buffer: &row,
            offset: 0,
            rows: 1,
            heads: 1,
            width,
            row_stride: 4,
            head_stride: 4,
        };
        let (format, slots) = (Fp8E4m3::default(), [Some(1)]);
        let (first, last) = (window(4), window(0));
        let error = Cuda::encode(&device, format, &mut bytes, shape, &slots, first, last)
            .expect_err("slot 1");
        assert!(
            error.to_string().contains("index 1 is not below 1"),
            "{error}"
        );
        assert_eq!(device.download(&bytes).expect("bytes"), [0; 4]);
        let decoded: crate::Result<[CudaBuffer<f32>; 2]> =
            Cuda::decode(&device, IndexMxfp4, &bytes, one(32), &[3]);
        let error = decoded.expect_err("slot 3");
        assert!(
            error.to_string().contains("index 3 is not below 1"),
            "{error}"
        );
    }
}
