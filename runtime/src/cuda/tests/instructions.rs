//! Hopper's own instructions, each against what it should do.

use bytemuck::{Pod, Zeroable};
use half::f16;
use mla_codegen::cuda::tile;

use super::super::driver::{Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::kernels::Kernel;
use super::super::{CudaDevice, Work};
use super::{Dice, hopper};
use crate::narrow::E4m3;

fn run<A: Pod>(
    device: &CudaDevice,
    unit: &'static str,
    entry: &'static str,
    blocks: usize,
    args: &A,
) {
    let kernel = Kernel {
        unit,
        entry,
        dims: &[],
        elem: "bf16",
        key: "bf16",
    };
    device
        .launch(&kernel, [blocks, 1, 1], Work::default(), args)
        .expect(entry);
}

fn random_bytes(dice: &mut Dice, len: usize) -> Vec<u8> {
    (0..len).map(|_| dice.below(256) as u8).collect()
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Engine {
    flat: TensorMap,
    deep: TensorMap,
    bulk: u64,
    out: u64,
    unused: [u64; 6],
}

const FLAT: usize = 64 * 128;
const DEEP: usize = 2 * 8 * 128;
const BULK: usize = 4096;

/// Where a byte of a tile stands, whose rows are 128 bytes.
fn place(swizzle: Swizzle, byte: usize) -> usize {
    let byte = byte as u32;
    let place = match swizzle {
        Swizzle::None => byte,
        Swizzle::Rows64 => tile::swizzled_64(byte),
        Swizzle::Rows128 => tile::swizzled_128(byte),
    };
    place as usize
}

#[test]
fn the_copy_engine_brings_tiles_where_their_mirror_says() {
    let Some(device) = hopper() else { return };
    let mut dice = Dice::new();
    // [128, 128] and [4, 16, 128] numbers of 16 bits
    let flat = random_bytes(&mut dice, 128 * 128 * 2);
    let deep = random_bytes(&mut dice, 4 * 16 * 128 * 2);
    let bulk = random_bytes(&mut dice, BULK);
    let [of_flat, of_deep, of_bulk] =
        [&flat, &deep, &bulk].map(|bytes| device.upload(bytes).expect("room"));
    let out = device.room::<u8>(FLAT + DEEP + BULK).expect("room");
    let axis = |len, stride, tile| Axis { len, stride, tile };
    for swizzle in [Swizzle::Rows128, Swizzle::None] {
        let tiling = |at, axes| Tiling {
            at,
            number: NumberType::Bf16,
            axes,
            swizzle,
        };
        let inner = axis(128, 1, 64);
        let flat_axes = [inner, axis(128, 128, 64)];
        let deep_axes = [inner, axis(16, 128, 8), axis(4, 16 * 128, 2)];
        let (of_tiles, of_matrices) = (
            tiling(of_flat.at(), &flat_axes),
            tiling(of_deep.at(), &deep_axes),
        );
        assert_eq!(
            (of_tiles.tile_bytes(), of_matrices.tile_bytes()),
            (FLAT, DEEP)
        );
        let args = Engine {
            flat: device.tensor_map(&of_tiles).expect("it has such tiles"),
            deep: device.tensor_map(&of_matrices).expect("it has such tiles"),
            bulk: of_bulk.at(),
            out: out.at(),
            unused: [0; 6],
        };
        run(&device, "instructions", "copy_by_engine", 1, &args);
        let found = device.download(&out).expect("values");
        for byte in 0..FLAT {
            let (row, inside) = (64 + byte / 128, 128 + byte % 128);
            assert_eq!(
                found[place(swizzle, byte)],
                flat[row * 256 + inside],
                "{swizzle:?} {byte}"
            );
        }
        for byte in 0..DEEP {
            let (matrix, row, inside) = (2 + byte / 1024, 8 + byte / 128 % 8, 128 + byte % 128);
            let wanted = deep[(matrix * 16 + row) * 256 + inside];
            assert_eq!(
                found[FLAT + place(swizzle, byte)],
                wanted,
                "{swizzle:?} {byte}"
            );
        }
        assert_eq!(found[FLAT + DEEP..], bulk);
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Parts {
    quads: u64,
    copied: u64,
    blocks: u64,
    stored: u64,
    turned: u64,
}

#[test]
fn threads_and_warps_copy_what_they_are_told() {
    let Some(device) = hopper() else { return };
    let mut dice = Dice::new();
    let quads = random_bytes(&mut dice, 256 * 16);
    let blocks: Vec<u16> = (0..256).map(|_| dice.below(1 << 16) as u16).collect();
    let of_quads = device.upload(&quads).expect("room");
    let of_blocks = device.upload(&blocks).expect("room");
    let copied = device.room::<u8>(256 * 16).expect("room");
    let stored = device.room::<u16>(256).expect("room");
    let turned = device.room::<u32>(128).expect("room");
    let args = Parts {
        quads: of_quads.at(),
        copied: copied.at(),
        blocks: of_blocks.at(),
        stored: stored.at(),
        turned: turned.at(),
    };
    run(&device, "instructions", "copy_by_threads", 1, &args);
    let mut wanted = quads;
    for thread in (0..128).step_by(3) {
        wanted[thread * 16..][..16].fill(0);
    }
    assert_eq!(device.download(&copied).expect("values"), wanted);
    assert_eq!(device.download(&stored).expect("values"), blocks);
    let wanted: Vec<u32> = (0..128)
        .map(|i| {
            let (lane, block) = (i / 4, i % 4);
            // Elements of a row of the block's transpose are those of a column
            let element = |row: usize| u32::from(blocks[block * 64 + row * 8 + lane / 4]);
            element(lane % 4 * 2) | element(lane % 4 * 2 + 1) << 16
        })
        .collect();
    assert_eq!(device.download(&turned).expect("values"), wanted);
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbers {
    widened: u64,
    exponents: u64,
    powers: u64,
}

#[test]
fn numbers_are_converted_as_the_host_does() {
    let Some(device) = hopper() else { return };
    const COUNT: usize = 1 << 16;
    let mut dice = Dice::new();
    let exponents: Vec<f32> = (0..COUNT).map(|_| dice.real() as f32 * 60.0).collect();
    let of_exponents = device.upload(&exponents).expect("room");
    let widened = device.room::<u32>(COUNT).expect("room");
    let powers = device.room::<f32>(COUNT).expect("room");
    let args = Numbers {
        widened: widened.at(),
        exponents: of_exponents.at(),
        powers: powers.at(),
    };
    run(&device, "instructions", "convert_numbers", 16, &args);
    for (pair, halves) in device
        .download(&widened)
        .expect("values")
        .iter()
        .enumerate()
    {
        for half in 0..2 {
            let wanted = E4m3((pair >> (8 * half)) as u8).decode();
            let found = f16::from_bits((halves >> (16 * half)) as u16).to_f32();
            let same = found == wanted || found.is_nan() && wanted.is_nan();
            assert!(same, "{pair:#x}: {found} for {wanted}");
        }
    }
    let found = device.download(&powers).expect("values");
    for (exponent, found) in exponents.iter().zip(found) {
        let wanted = f64::from(*exponent).exp2();
        let off = (f64::from(found) / wanted - 1.0).abs();
        assert!(
            off < 3.0 * f64::from(f32::EPSILON),
            "2^{exponent}: {found} for {wanted}"
        );
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Handing {
    from: u64,
    to: u64,
}

#[test]
fn warpgroups_hand_values_on() {
    let Some(device) = hopper() else { return };
    let mut dice = Dice::new();
    let from: Vec<u32> = (0..128).map(|_| dice.below(1 << 32) as u32).collect();
    let of_from = device.upload(&from).expect("room");
    let to = device.room::<u32>(512).expect("room");
    let args = Handing {
        from: of_from.at(),
        to: to.at(),
    };
    run(&device, "warpgroups", "hand_on", 1, &args);
    let turns = from
        .iter()
        .rev()
        .copied()
        .chain(from.iter().rev().map(|x| !x));
    let wanted: Vec<u32> = turns.clone().chain(turns).collect();
    assert_eq!(device.download(&to).expect("values"), wanted);
}
