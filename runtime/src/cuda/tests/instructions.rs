//! Hopper's own instructions, each against what it should do.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use mla_codegen::cuda::tile;

use super::super::driver::{Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::kernels::Kernel;
use super::super::{CudaDevice, Work};
use super::{Dice, hopper};
use crate::narrow::{E4m3, E5m2};

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
        Swizzle::Rows32 => tile::swizzled_32(byte),
        Swizzle::Rows64 => tile::swizzled_64(byte),
        Swizzle::Rows128 => tile::swizzled_128(byte),
    };
    place as usize
}

#[test]
fn the_copy_engine_brings_tiles_where_their_mirror_says() {
    let device = hopper();
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
struct Adding {
    from: u64,
    to: u64,
}

#[test]
fn the_copy_engine_adds_what_blocks_have() {
    let device = hopper();
    let mut dice = Dice::new();
    let mut integers =
        |len: usize| -> Vec<f32> { (0..len).map(|_| dice.below(99) as f32).collect() };
    let (from, before) = (integers(256), integers(128));
    let of_from = device.upload(&from).expect("room");
    let to = device.upload(&before).expect("room");
    let args = Adding {
        from: of_from.at(),
        to: to.at(),
    };
    run(&device, "instructions", "add_by_engine", 2, &args);
    let wanted: Vec<f32> = (0..128)
        .map(|i| before[i] + from[i] + from[128 + i])
        .collect();
    assert_eq!(device.download(&to).expect("values"), wanted);
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Counting {
    from: u64,
    to: u64,
    turn: u64,
}

#[test]
fn blocks_add_one_after_the_other() {
    let device = hopper();
    const BLOCKS: usize = 3;
    let mut dice = Dice::new();
    let mut number = || dice.real() as f32 * if dice.below(2) == 0 { 1e5 } else { 1.0 };
    let from: Vec<f32> = (0..BLOCKS * 512).map(|_| number()).collect();
    let of_from = device.upload(&from).expect("room");
    let to = device.room::<f32>(512).expect("room");
    let turn = device.upload(&[0_u32]).expect("room");
    let args = Counting {
        from: of_from.at(),
        to: to.at(),
        turn: turn.at(),
    };
    run(&device, "instructions", "add_in_turn", BLOCKS, &args);
    let wanted: Vec<f32> = (0..512)
        .map(|i| from[i] + from[512 + i] + from[1024 + i])
        .collect();
    assert_eq!(device.download(&to).expect("values"), wanted);
    assert_eq!(device.download(&turn).expect("values"), [BLOCKS as u32]);
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
    let device = hopper();
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
    x: u64,
    y: u64,
    e4m3: u64,
    e5m2: u64,
    halves: u64,
    powers: u64,
    logarithms: u64,
    inverses: u64,
    peaks: u64,
    bf16_pairs: u64,
    f16_pairs: u64,
    bf16_products: u64,
    f16_products: u64,
}

/// Checks what came of a pair, the lower number first.
#[track_caller]
fn assert_pair(what: &str, at: usize, found: [f32; 2], wanted: [f32; 2]) {
    for (found, wanted) in found.into_iter().zip(wanted) {
        let same = found == wanted || found.is_nan() && wanted.is_nan();
        assert!(same, "{what} {at:#x}: {found} for {wanted}");
    }
}

/// Checks a number that is off by some units in the last place, or by `least`.
#[track_caller]
fn assert_close(what: &str, of: f32, found: f32, wanted: f64, least: f64) {
    let most = (3.0 * f64::from(f32::EPSILON) * wanted.abs()).max(least);
    let same = f64::from(found) == wanted || found.is_nan() && wanted.is_nan();
    let near = (f64::from(found) - wanted).abs() <= most;
    assert!(same || near, "{what} of {of}: {found} for {wanted}");
}

fn halves<N>(pair: u32, widened: impl Fn(u16) -> N) -> [N; 2] {
    [widened(pair as u16), widened((pair >> 16) as u16)]
}

#[test]
fn numbers_are_converted_as_the_host_does() {
    let device = hopper();
    const COUNT: usize = 1 << 16;
    let mut dice = Dice::new();
    // Some of a usual size, of which there are powers; then any bits, and numbers halfway between two that are rounded to
    let mut number = |i: usize| match i % 4 {
        0 | 1 => dice.real() as f32 * 60.0,
        2 => f32::from_bits(dice.below(1 << 32) as u32),
        _ => f32::from_bits(((i as u32) << 16 | 0x1000) & !(dice.below(2) as u32 * 0x1000)),
    };
    let [x, y] = [(); 2].map(|()| (0..COUNT).map(&mut number).collect::<Vec<f32>>());
    let [of_x, of_y] = [&x, &y].map(|values| device.upload(values).expect("room"));
    let [
        e4m3,
        e5m2,
        bf16_pairs,
        f16_pairs,
        bf16_products,
        f16_products,
    ] = [(); 6].map(|()| device.room::<u32>(COUNT).expect("room"));
    let [powers, logarithms, inverses, peaks] =
        [(); 4].map(|()| device.room::<f32>(COUNT).expect("room"));
    let widened = device.room::<[f32; 2]>(COUNT).expect("room");
    let args = Numbers {
        x: of_x.at(),
        y: of_y.at(),
        e4m3: e4m3.at(),
        e5m2: e5m2.at(),
        halves: widened.at(),
        powers: powers.at(),
        logarithms: logarithms.at(),
        inverses: inverses.at(),
        peaks: peaks.at(),
        bf16_pairs: bf16_pairs.at(),
        f16_pairs: f16_pairs.at(),
        bf16_products: bf16_products.at(),
        f16_products: f16_products.at(),
    };
    run(&device, "instructions", "convert_numbers", 16, &args);
    let of_f16 = |bits| f16::from_bits(bits).to_f32();
    let of_bf16 = |bits| bf16::from_bits(bits).to_f32();
    for (codes, what, decoded) in [
        (
            &e4m3,
            "e4m3",
            &(|code| E4m3(code).decode()) as &dyn Fn(u8) -> f32,
        ),
        (&e5m2, "e5m2", &|code| E5m2(code).decode()),
    ] {
        for (pair, found) in device
            .download(codes)
            .expect("values")
            .into_iter()
            .enumerate()
        {
            let wanted = [decoded(pair as u8), decoded((pair >> 8) as u8)];
            assert_pair(what, pair, halves(found, of_f16), wanted);
        }
    }
    for (i, found) in device
        .download(&widened)
        .expect("values")
        .into_iter()
        .enumerate()
    {
        assert_pair(
            "f16",
            i,
            found,
            halves(i as u32 | !(i as u32) << 16, of_f16),
        );
    }
    let [powers, logarithms, inverses, peaks] = [powers, logarithms, inverses, peaks]
        .map(|values| device.download(&values).expect("values"));
    let pairs = [bf16_pairs, f16_pairs, bf16_products, f16_products];
    let [bf16_pairs, f16_pairs, bf16_products, f16_products] =
        pairs.map(|pairs| device.download(&pairs).expect("values"));
    let flushed = |x: f32| if x.is_subnormal() { 0.0 } else { x };
    for i in 0..COUNT {
        let (x, y) = (x[i], y[i]);
        let power = f64::from(flushed(x)).exp2() as f32;
        assert_close("2^", x, powers[i], f64::from(flushed(power)), 0.0);
        // Near 1 the logarithm is as near as 2^-22
        assert_close(
            "log2",
            x,
            logarithms[i],
            f64::from(flushed(x)).log2(),
            2.4e-7,
        );
        let inverse = (1.0 / f64::from(flushed(x))) as f32;
        assert_close("1 /", x, inverses[i], f64::from(flushed(inverse)), 0.0);
        let peak = if x.is_nan() || y.is_nan() {
            f32::NAN
        } else {
            x.max(y)
        };
        assert_pair("the larger", i, [peaks[i]; 2], [peak; 2]);
        let rounded = [x, y].map(|x| bf16::from_f32(x).to_f32());
        assert_pair("bf16", i, halves(bf16_pairs[i], of_bf16), rounded);
        let products =
            rounded.map(|x| bf16::from_f64(f64::from(x) * f64::from(rounded[1])).to_f32());
        assert_pair("bf16 times", i, halves(bf16_products[i], of_bf16), products);
        let rounded = [x, y].map(|x| f16::from_f32(x).to_f32());
        assert_pair("f16", i, halves(f16_pairs[i], of_f16), rounded);
        let products = rounded.map(|x| f16::from_f32(x * rounded[1]).to_f32());
        assert_pair("f16 times", i, halves(f16_products[i], of_f16), products);
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
    let device = hopper();
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
