//! Kernels that measure: what they compute is right, and the whole measurement runs. How fast it is passes or fails nothing.

use mla_codegen::cuda::CEILINGS;

use super::super::ceilings::Paced;
use super::super::ceilings::args::{Moving, Rows, Tiles};
use super::super::driver::{Axis, NumberType, Swizzle, Tiling};
use super::super::grid::Grid;
use super::super::kernels::Kernel;
use super::super::{CudaDevice, CudaOptions, Work};
use super::{Dice, device};
use crate::backend::KernelSource;

fn kernel<'a>(unit: &'static str, entry: &'static str, dims: &'a [usize]) -> Kernel<'a> {
    Kernel {
        unit,
        entry,
        dims,
        elem: "bf16",
        key: "bf16",
    }
}

fn words(dice: &mut Dice, len: usize) -> Vec<u32> {
    (0..len).map(|_| dice.below(1 << 32) as u32).collect()
}

fn combined(words: &[u32]) -> u32 {
    words.iter().fold(0, |sum, word| sum ^ word)
}

#[test]
fn memory_is_read_whole_and_copied() {
    let device = device();
    let (pieces, words_of_piece, blocks) = (7, 4 * 8 * 128, 3);
    let from = words(&mut Dice::new(), pieces * words_of_piece);
    let of_from = device.upload(&from).expect("room");
    let sums = device.room::<u32>(blocks).expect("room");
    let mut args = Moving {
        from: of_from.at(),
        to: sums.at(),
        pieces: pieces as i64,
    };
    let run = |entry, args: &Moving| {
        device
            .launch(
                &kernel("ceiling_memory", entry, &[]),
                [blocks, 1, 1],
                Work::default(),
                args,
            )
            .expect(entry);
    };
    run("read_memory", &args);
    let sums = device.download(&sums).expect("values");
    assert_eq!(combined(&sums), combined(&from));
    let to = device.room::<u32>(from.len()).expect("room");
    args.to = to.at();
    run("copy_memory", &args);
    assert_eq!(device.download(&to).expect("values"), from);
}

/// The kernel's own choice of a row.
fn picked(i: u32, end: u32) -> u32 {
    let x = (i ^ (i >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    let chance = u64::from(x ^ (x >> 16));
    ((chance * u64::from(end)) >> 32) as u32
}

#[test]
fn rows_are_those_that_chance_names() {
    let device = device();
    if device.is_emulated() {
        eprintln!("skipped: {device:?} knows no instructions of a GPU's own");
        return;
    }
    for bytes in [1152, 656] {
        let (rows, reads, readers) = (50, 5, 16 * 2);
        let from = words(&mut Dice::new(), rows * bytes / 4);
        let of_from = device.upload(&from).expect("room");
        let sums = device.room::<u32>(readers * 8).expect("room");
        let args = Rows {
            from: of_from.at(),
            sums: sums.at(),
            rows: rows as u32,
            reads,
        };
        device
            .launch(
                &kernel("ceiling_rows", "read_rows", &[bytes]),
                [2, 1, 1],
                Work::default(),
                &args,
            )
            .expect("it runs");
        let found = device.download(&sums).expect("values");
        for reader in 0..readers {
            let wanted = (0..reads).fold(0, |sum, read| {
                let row = picked(reader as u32 * reads + read, rows as u32) as usize;
                sum ^ combined(&from[row * bytes / 4..][..bytes / 4])
            });
            assert_eq!(
                combined(&found[reader * 8..][..8]),
                wanted,
                "{bytes} {reader}"
            );
        }
    }
}

#[test]
fn tiles_come_in_turn_through_a_ring() {
    let device = device();
    if device.arch() != "sm_90a" {
        eprintln!("skipped: {device:?} has no copy engine");
        return;
    }
    const STAGES: usize = 24;
    let (rows, across, blocks) = (3 * 64, 9, 5);
    let tiles = 3 * across;
    let from = words(&mut Dice::new(), rows * 288);
    let of_from = device.upload(&from).expect("room");
    let axis = |len, stride| Axis {
        len,
        stride,
        tile: 64,
    };
    let tiling = Tiling {
        at: of_from.at(),
        number: NumberType::Bf16,
        axes: &[axis(576, 1), axis(rows, 576)],
        swizzle: Swizzle::Rows128,
    };
    // The ring is filled not quite, once, and several times over
    for reads in [1, STAGES, 3 * STAGES + 5] {
        let sums = device.room::<u32>(blocks).expect("room");
        let args = Tiles {
            from: device.tensor_map(&tiling).expect("it has such tiles"),
            sums: sums.at(),
            across: across as u32,
            tiles: tiles as u32,
            reads: reads as u32,
            unused: [0; 11],
        };
        device
            .launch(
                &kernel("ceiling_tiles", "read_tiles", &[STAGES]),
                Grid::sharing([blocks, 1, 1], (STAGES * tiling.tile_bytes()) as u32),
                Work::default(),
                &args,
            )
            .expect("it runs");
        let found = device.download(&sums).expect("values");
        for (block, found) in found.into_iter().enumerate() {
            let tile = (block + (reads - 1) * blocks) % tiles;
            let (down, right) = (tile / across * 64, tile % across * 32);
            let wanted = (down..down + 64).fold(0, |sum, row| {
                sum ^ combined(&from[row * 288 + right..][..32])
            });
            assert_eq!(found, wanted, "{reads} {block}");
        }
    }
}

#[test]
fn ceilings_lie_below_what_hardware_can() {
    // With kernels of its own: nobody provides them
    let device = CudaDevice::any(CudaOptions::default());
    let sources = CEILINGS.iter().map(|(unit, dims)| {
        let text = mla_codegen::cuda::kernel_text(unit, dims).expect("there are such kernels");
        let name = mla_codegen::cuda::symbol(unit, dims);
        // A program has them for as long as it runs
        KernelSource::new(name.leak(), text.leak())
    });
    device.add_kernels(&sources.collect::<Vec<_>>(), &[]);
    let ceilings = device.ceilings().expect("they are measured");
    eprintln!("{ceilings}");
    assert!(ceilings.read > 0.0 && ceilings.copy > 0.0, "{ceilings:?}");
    // The host has caches of which nothing is known
    let Some(rows) = ceilings.rows else { return };
    assert!(
        ceilings.read < 20e12 && ceilings.copy < 20e12,
        "{ceilings:?}"
    );
    assert!(
        rows.iter().all(|rate| *rate > 0.0 && *rate < 1e15),
        "{ceilings:?}"
    );
    for Paced { burst, settled } in [ceilings.bf16, ceilings.fp8].into_iter().flatten() {
        assert!(burst > 0.0 && settled > 0.0, "{ceilings:?}");
    }
    let Some(hopper) = &ceilings.hopper else {
        return;
    };
    assert!(
        hopper.tiles > 0.0 && hopper.conversions > 0.0,
        "{ceilings:?}"
    );
    for rate in &hopper.products {
        // No product is done in fewer cycles than its multiplications take
        assert!(rate.cycles > 0.99 * rate.columns as f64 / 2.0, "{rate:?}");
        assert!(rate.flops > 0.0 && rate.flops < 2e15, "{rate:?}");
    }
}
