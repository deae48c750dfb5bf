//! The instructions that kernels for Hopper stand on: products of every kind of operand, and how tiles lie.

use bytemuck::{Pod, Zeroable};
use half::bf16;
use mla_codegen::cuda::tile;

use super::super::driver::{Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::kernels::Kernel;
use super::super::{CudaBuffer, Work};
use super::{Dice, device, hopper};
use crate::narrow::E4m3;

fn kernel(unit: &'static str, entry: &'static str) -> Kernel<'static> {
    Kernel {
        unit,
        entry,
        dims: &[],
        elem: "bf16",
        key: "bf16",
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TensorCore {
    a: u64,
    b: u64,
    c: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Fetched {
    a: TensorMap,
    b: TensorMap,
    c: u64,
    unused: [u64; 7],
}

/// How numbers become a tensor core's operand.
type Encoding<'a> = &'a dyn Fn(&[f32]) -> Vec<u8>;

const M: usize = 128;
const N: usize = 256;
const K: usize = 64;

#[test]
fn tensor_cores_take_operands_in_every_layout() {
    let device = hopper();
    let mut dice = Dice::new();
    let mut integers =
        |len: usize| -> Vec<f32> { (0..len).map(|_| dice.below(9) as f32 - 4.0).collect() };
    let (a, b) = (integers(M * K), integers(N * K));
    let wanted: Vec<f32> = (0..M * N)
        .map(|i| {
            let (row, column) = (i / N, i % N);
            (0..K)
                .map(|term| a[row * K + term] * b[column * K + term])
                .sum()
        })
        .collect();
    let wide = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
            .collect()
    };
    let narrow =
        |values: &[f32]| -> Vec<u8> { values.iter().map(|&value| E4m3::encode(value).0).collect() };
    let held: [(&str, Encoding<'_>); 15] = [
        ("tensor_core_rows", &wide),
        ("tensor_core_rows_128", &wide),
        ("tensor_core_rows_256", &wide),
        ("tensor_core_b_turned", &wide),
        ("tensor_core_b_turned_128", &wide),
        ("tensor_core_b_turned_256", &wide),
        ("tensor_core_a_turned", &wide),
        ("tensor_core_a_held", &wide),
        ("tensor_core_a_held_128", &wide),
        ("tensor_core_a_held_256", &wide),
        ("tensor_core_tiles_of_32", &wide),
        ("tensor_core_tiles_of_16", &wide),
        ("tensor_core_e4m3", &narrow),
        ("tensor_core_e4m3_128", &narrow),
        ("tensor_core_e4m3_256", &narrow),
    ];
    for (entry, encoded) in held {
        let of_a = device.upload(&encoded(&a)).expect("room");
        let of_b = device.upload(&encoded(&b)).expect("room");
        let c = device.room::<f32>(M * N).expect("room");
        let args = TensorCore {
            a: of_a.at(),
            b: of_b.at(),
            c: c.at(),
        };
        device
            .launch(
                &kernel("tensor_core", entry),
                [M / 64, 1, 1],
                Work::default(),
                &args,
            )
            .expect(entry);
        assert_all_equal(entry, &device.download(&c).expect("values"), &wanted);
    }
    // And as the copy engine brings them
    let rows = |len, tile| Axis {
        len,
        stride: K,
        tile,
    };
    let terms = Axis {
        len: K,
        stride: 1,
        tile: K,
    };
    let of_a = device.upload(&wide(&a)).expect("room");
    let of_b = device.upload(&wide(&b)).expect("room");
    let map = |buffer: &CudaBuffer<u8>, rows: Axis| {
        let tiling = Tiling {
            at: buffer.at(),
            number: NumberType::Bf16,
            axes: &[terms, rows],
            swizzle: Swizzle::Rows128,
        };
        device.tensor_map(&tiling).expect("it has such tiles")
    };
    let c = device.room::<f32>(M * N).expect("room");
    let args = Fetched {
        a: map(&of_a, rows(M, M / 2)),
        b: map(&of_b, rows(N, N)),
        c: c.at(),
        unused: [0; 7],
    };
    let fetched = kernel("tensor_core", "tensor_core_fetched");
    device
        .launch(&fetched, [M / 64, 1, 1], Work::default(), &args)
        .expect("it runs");
    assert_all_equal("fetched", &device.download(&c).expect("values"), &wanted);
}

#[track_caller]
fn assert_all_equal(what: &str, found: &[f32], wanted: &[f32]) {
    let other = found.iter().zip(wanted).position(|(x, y)| x != y);
    assert_eq!(
        other,
        None,
        "{what}: {:?}",
        other.map(|i| (found[i], wanted[i]))
    );
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Swizzles {
    swizzled_128: u64,
    swizzled_64: u64,
    swizzled_32: u64,
    descriptors: u64,
    places: u64,
}

#[test]
fn tiles_lie_as_their_mirror_says() {
    let device = device();
    let [wide, small, least] = [(); 3].map(|()| device.room::<u32>(8192).expect("room"));
    let descriptors = device.room::<u64>(8192).expect("room");
    let places = device.room::<i32>(128 * 40).expect("room");
    let args = Swizzles {
        swizzled_128: wide.at(),
        swizzled_64: small.at(),
        swizzled_32: least.at(),
        descriptors: descriptors.at(),
        places: places.at(),
    };
    device
        .launch(
            &kernel("swizzles", "swizzles"),
            [1, 1, 1],
            Work::default(),
            &args,
        )
        .expect("it runs");
    let wanted: Vec<u32> = (0..8192).map(tile::swizzled_128).collect();
    assert_eq!(device.download(&wide).expect("values"), wanted);
    let wanted: Vec<u32> = (0..8192).map(tile::swizzled_64).collect();
    assert_eq!(device.download(&small).expect("values"), wanted);
    let wanted: Vec<u32> = (0..8192).map(tile::swizzled_32).collect();
    assert_eq!(device.download(&least).expect("values"), wanted);
    let wanted: Vec<u64> = (0..8192)
        .map(|i| {
            let layout = [tile::Layout::Rows64, tile::Layout::Rows128][i as usize % 2];
            tile::descriptor(16 * i, 32 * i, 1024, layout)
        })
        .collect();
    assert_eq!(device.download(&descriptors).expect("values"), wanted);
    let found = device.download(&places).expect("values");
    for thread in 0..128 {
        for pair in 0..16 {
            let at = (thread * 16 + pair) as usize * 2;
            let (row, column) = tile::accumulator_place(thread, pair);
            assert_eq!(found[at..at + 2], [row as i32, column as i32]);
        }
        for part in 0..4 {
            let at = 128 * 32 + (thread * 4 + part) as usize * 2;
            let (row, column) = tile::accumulator_place(thread, part);
            assert_eq!(found[at..at + 2], [row as i32, column as i32]);
        }
    }
}
