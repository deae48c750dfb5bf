//! Queries of an indexer as codes of e4m3: turned, and rounded as a cache rounds keys, each head's scale a part of its weight.

use bytemuck::{Pod, Zeroable};

use super::super::super::super::driver::Address;
use super::super::super::super::kernels::Kernel;
use super::super::super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::super::args::{Turn, Window};
use super::maps::Queries;
use crate::backend::{QueryRounding, Strided};
use crate::error::Result;

/// Heads of a block of the kernel: one to a warp.
const HEADS: usize = 4;

/// `EncodeQueries` of `index_fp8.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EncodeQueries {
    q: Window,
    turn: Turn,
    weights: Address,
    codes: Address,
    scaled: Address,
    transformed: i64,
}

/// Codes of queries, `[rows, heads, width]`, and weights times the codes' scales, `[rows, heads]`.
#[derive(Debug)]
pub(super) struct Rounded {
    codes: CudaBuffer<u8>,
    pub(super) weights: CudaBuffer<f32>,
}

impl Rounded {
    /// Room for them.
    pub(super) fn room<T: CudaElement>(
        device: &CudaDevice,
        q: &Strided<'_, Cuda<T>, T>,
    ) -> Result<Self> {
        Ok(Self {
            codes: device.room(q.rows * q.heads * q.width)?,
            weights: device.room(q.rows * q.heads)?,
        })
    }

    /// As kernels take them.
    pub(super) fn queries<T: CudaElement>(&self, q: &Strided<'_, Cuda<T>, T>) -> Queries {
        Queries {
            at: self.codes.at(),
            rows: q.rows,
            heads: q.heads,
            width: q.width,
            row_stride: q.heads * q.width,
            head_stride: q.width,
        }
    }

    /// Queues the rounding of queries of 64 or 128 numbers a head, which have one scale each. `weights`: of their heads.
    pub(super) fn fill<T: CudaElement>(
        &self,
        device: &CudaDevice,
        power_of_two: bool,
        rounding: &QueryRounding<'_, Cuda<T>>,
        (q, weights): (&Strided<'_, Cuda<T>, T>, &CudaBuffer<T::Accum>),
    ) -> Result<()> {
        let args = EncodeQueries {
            q: q.into(),
            turn: rounding.rotation.map_or(Turn::NONE, Turn::of),
            weights: weights.at(),
            codes: self.codes.at(),
            scaled: self.weights.at(),
            transformed: i64::from(rounding.transformed),
        };
        let dims = [q.width, usize::from(power_of_two)];
        let kernel = Kernel::of::<T>("index_fp8", "encode_index_queries", &dims);
        let numbers = q.rows * q.heads * q.width;
        let work = Work::moving(numbers * (size_of::<T>() + 1) + 2 * self.weights.bytes());
        let blocks = (q.rows * q.heads).div_ceil(HEADS);
        device.launch(&kernel, [blocks, 1, 1], work, &args)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::super::super::super::tests::{Dice, Shape, device};
    use super::*;
    use crate::backend::{Backend, Rotation};
    use crate::cache::{AnyScale, ByteFormat, IndexFp8, PowerOfTwo};

    type B = Cuda<bf16>;

    const ROWS: usize = 5;
    const HEADS: usize = 6;

    /// Codes and weights of queries.
    fn codes(
        x: &CudaBuffer<bf16>,
        width: usize,
        weights: &CudaBuffer<f32>,
        power_of_two: bool,
        rounding: &QueryRounding<'_, B>,
    ) -> (Vec<u8>, Vec<f32>) {
        let device = device();
        let shape = Shape {
            rows: ROWS,
            heads: HEADS,
            width,
            head_stride: width,
            row_stride: HEADS * width,
            offset: 0,
        };
        let q = shape.of::<B, bf16>(x);
        let rounded = Rounded::room(&device, &q).expect("room");
        let filled = rounded.fill(&device, power_of_two, rounding, (&q, weights));
        filled.expect("runs");
        let codes = device.download(&rounded.codes).expect("values");
        (codes, device.download(&rounded.weights).expect("values"))
    }

    /// Codes as the CPU has them.
    fn codes_of_cpu(values: &[bf16], width: usize, power_of_two: bool) -> Vec<u8> {
        let line = |values: &[bf16]| {
            let numbers: Vec<f32> = values.iter().map(|x| x.to_f32()).collect();
            let (mut codes, mut scale) = (vec![0; width], [0; 4]);
            if power_of_two {
                IndexFp8::<PowerOfTwo>::default().encode(&numbers, &[], &mut codes, &mut scale);
            } else {
                IndexFp8::<AnyScale>::default().encode(&numbers, &[], &mut codes, &mut scale);
            }
            codes
        };
        values.chunks(width).flat_map(line).collect()
    }

    fn check(dice: &mut Dice, [width, pairs, start]: [usize; 3], half: [bool; 2]) {
        let device = device();
        let mut upload = |len: usize| device.upload(&dice.values::<f32>(len)).expect("room");
        let (weights, cos, sin) = (
            upload(ROWS * HEADS),
            upload(ROWS * pairs),
            upload(ROWS * pairs),
        );
        let x = dice.values::<bf16>(ROWS * HEADS * width);
        let rotation = Rotation {
            cos: &cos,
            sin: &sin,
            pairs,
            start,
            half_in: half[0],
            half_out: half[1],
            backward: false,
        };
        let as_they_are = QueryRounding {
            rotation: None,
            transformed: false,
        };
        for power_of_two in [false, true] {
            for transformed in [false, true] {
                let given = device.upload(&x).expect("room");
                let rounding = QueryRounding {
                    rotation: Some(&rotation),
                    transformed,
                };
                let found = codes(&given, width, &weights, power_of_two, &rounding);
                let mut turned = device.upload(&x).expect("room");
                B::rotate(&device, &mut turned, HEADS, width, &rotation).expect("runs");
                if transformed {
                    B::hadamard(&device, &mut turned, width).expect("runs");
                }
                let wanted = codes(&turned, width, &weights, power_of_two, &as_they_are);
                let values = device.download(&turned).expect("values");
                assert!(wanted.0 == codes_of_cpu(&values, width, power_of_two));
                assert!(found == wanted, "{width}, {pairs} from {start}, {half:?}");
                let unturned = codes(&given, width, &weights, power_of_two, &as_they_are);
                assert!(found.0 != unturned.0);
            }
        }
    }

    #[test]
    fn one_pass_turns_and_rounds_as_each_kernel_does() {
        let dice = &mut Dice::new();
        for [width, pairs, start] in [
            [128, 32, 0],
            [128, 32, 64],
            [128, 64, 0],
            [64, 16, 32],
            [64, 5, 3],
        ] {
            for half in [[true, true], [false, false], [false, true]] {
                check(dice, [width, pairs, start], half);
            }
        }
    }
}
