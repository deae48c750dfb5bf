//! Measuring ceilings: what runs, how often, and what its time says.

use std::thread;
use std::time::Duration;

use bytemuck::Pod;

use super::super::buffer::CudaBuffer;
use super::super::device::{CudaDevice, Stopwatch};
use super::super::driver::{Axis, Command, Matmul, NumberType, Operand, Swizzle, Tiling};
use super::super::grid::Grid;
use super::super::kernels::{Kernel, symbol};
use super::super::work::Work;
use super::args::{Moving, Reading, Rounds, Rows, Tiles};
use super::random::{RANDOM, random_factors, random_words};
use super::{Ceilings, Factors, Hopper, Paced, ProductRate};
use crate::error::{Error, Result};

/// The sizes of what is measured, and for how long.
struct Scale {
    /// Bytes of memory that are read.
    memory: usize,
    /// Bytes of the set that the L2 holds, about.
    set: usize,
    /// Bytes that one launch reads of the set.
    set_reads: usize,
    /// Rows and columns of the matrices.
    matrix: usize,
    /// Seconds of work before the time is taken, where arithmetic is measured.
    settling: f64,
    /// Seconds over which the time is taken.
    timing: f64,
}

const GPU: Scale = Scale {
    memory: 4 << 30,
    set: 512 * 64 * 1152,
    set_reads: 4 << 30,
    matrix: 8192,
    settling: 0.05,
    timing: 0.05,
};

/// An emulated device is asked for nothing but to do all of it once.
const EMULATED: Scale = Scale {
    memory: 1 << 18,
    set: 1 << 16,
    set_reads: 1 << 16,
    matrix: 64,
    settling: 0.0,
    timing: 0.0,
};

/// How long a burst is, in seconds, and how long the device rests before it.
const BURST: f64 = 0.03;
const REST: Duration = Duration::from_millis(250);

/// Threads of most kernels' blocks, and bytes that a block of `ceiling_memory` moves at a time.
const THREADS: usize = 128;
const PIECE: usize = 16 * 8 * THREADS;

/// Bytes of rows, the unit's size.
const ROWS: [usize; 2] = [1152, 656];
/// Columns of a cache's rows of bf16, and rows and columns of a tile of it.
const WIDTH: usize = 576;
const TILE: usize = 64;
/// Tiles of a block under way: as many as its shared memory holds beside what is the system's.
const STAGES: usize = 24;
/// Conversions of a thread in a round of `ceiling_convert`: of pairs.
const CONVERSIONS: usize = 2 * 8 * 16;
/// Warpgroups of a block of `ceiling_wgmma`, and products of each in a round.
const GROUPS: usize = 2;
const STEPS: usize = 4;
const COLUMNS: [usize; 3] = [64, 128, 256];

pub(super) fn ceilings(device: &CudaDevice) -> Result<Ceilings> {
    let hopper = device.arch() == "sm_90a";
    complete(device, hopper)?;
    let scale = if device.is_emulated() {
        &EMULATED
    } else {
        &GPU
    };
    let meter = Meter {
        device,
        clock: device.stopwatch()?,
        scale,
    };
    let bf16 = meter.products(NumberType::Bf16)?;
    let fp8 = meter.products(NumberType::E4m3)?;
    let (read, copy) = meter.memory()?;
    let rows = if device.is_emulated() {
        None
    } else {
        Some(meter.rows()?)
    };
    let hopper = if hopper { Some(meter.hopper()?) } else { None };
    device.trim();
    Ok(Ceilings {
        device: device.name(),
        multiprocessors: device.multiprocessors(),
        read,
        copy,
        rows,
        bf16,
        fp8,
        hopper,
    })
}

/// Refuses a device to which kernels were not given, and says which.
fn complete(device: &CudaDevice, hopper: bool) -> Result<()> {
    let mut units: Vec<(&str, Vec<usize>)> = vec![("ceiling_memory", vec![])];
    // The emulator knows no instructions of a GPU's own
    if !device.is_emulated() {
        units.extend(ROWS.map(|bytes| ("ceiling_rows", vec![bytes])));
    }
    if hopper {
        units.push(("ceiling_tiles", vec![STAGES]));
        units.push(("ceiling_convert", vec![]));
        units.extend(COLUMNS.map(|columns| ("ceiling_wgmma", vec![columns])));
    }
    let missing: Vec<String> = units
        .iter()
        .filter(|(unit, dims)| !device.shared.kernels.has(unit, dims))
        .map(|(unit, dims)| format!("`{}`", symbol(unit, dims)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Device(format!(
        "no kernels {} to measure with: give the device the texts of `mla_codegen::cuda::CEILINGS` by `CudaDevice::add_kernels`",
        missing.join(", ")
    )))
}

fn kernel<'a>(unit: &'static str, entry: &'static str, dims: &'a [usize]) -> Kernel<'a> {
    Kernel {
        unit,
        entry,
        dims,
        elem: "bf16",
        key: "bf16",
    }
}

/// Times what a device does.
struct Meter<'a> {
    device: &'a CudaDevice,
    clock: Stopwatch,
    scale: &'a Scale,
}

impl Meter<'_> {
    /// Seconds of one `work` where it is done for `seconds` on end, once at least.
    fn on_end(&self, one: f64, seconds: f64, work: &dyn Fn() -> Result<()>) -> Result<f64> {
        let times = times(one, seconds);
        let from = self.clock.mark()?;
        for _ in 0..times {
            work()?;
        }
        let to = self.clock.mark()?;
        Ok(self.clock.milliseconds(from, to)? / 1e3 / times as f64)
    }

    /// Seconds of one `work` once it has been done for a while. Before that it is done twice: kernels are compiled, and data comes to the L2.
    fn settled(&self, settling: f64, work: &dyn Fn() -> Result<()>) -> Result<f64> {
        work()?;
        let one = self.on_end(1.0, 0.0, work)?;
        self.on_end(one, settling, work)?;
        self.on_end(one, self.scale.timing, work)
    }

    /// `len` values, random ones over and over.
    fn filled<S: Pod>(&self, random: &[S], len: usize) -> Result<CudaBuffer<S>> {
        let buffer = self.device.room::<S>(len)?;
        let first = len.min(random.len());
        self.device
            .send(buffer.at(), bytemuck::cast_slice(&random[..first]))?;
        let (mut done, len) = (first * size_of::<S>(), buffer.bytes());
        while done < len {
            let bytes = done.min(len - done);
            self.device.queue(Command::Copy {
                from: buffer.at(),
                to: buffer.at() + done as u64,
                bytes,
            })?;
            done += bytes;
        }
        Ok(buffer)
    }

    /// Floating-point operations a second of a large product; `None` where nobody but kernels of ours multiplies such numbers.
    fn products(&self, number: NumberType) -> Result<Option<Paced>> {
        let size = self.scale.matrix;
        let bytes = size * size * number.bytes();
        let random = random_factors(number);
        let a = self.filled(&random, bytes)?;
        let b = self.filled(&random[RANDOM / 2..], bytes)?;
        let c = self.device.room::<u16>(size * size)?;
        let operand = |at, number, row_stride, column_stride| Operand {
            at,
            number,
            row_stride,
            column_stride,
            batch_stride: 0,
        };
        let matmul = Matmul {
            m: size,
            n: size,
            k: size,
            batch: 1,
            a: operand(a.at(), number, size, 1),
            // A weight, whose terms lie side by side
            b: operand(b.at(), number, 1, size),
            c: operand(c.at(), NumberType::Bf16, size, 1),
            accumulate: false,
        };
        // What it takes first is no part of a burst
        if !self.device.matmul(&matmul)? {
            return Ok(None);
        }
        let work = || self.device.matmul(&matmul).map(|_| ());
        let one = self.on_end(1.0, 0.0, &work)?;
        thread::sleep(REST);
        let burst = self.on_end(one, BURST, &work)?;
        let settled = self.settled(self.scale.settling, &work)?;
        let flops = matmul.work().flops as f64;
        Ok(Some(Paced {
            burst: flops / burst,
            settled: flops / settled,
        }))
    }

    /// Bytes a second of reads and of copies.
    fn memory(&self) -> Result<(f64, f64)> {
        let device = self.device;
        let bytes = self.scale.memory;
        let memory = self.filled(&random_words(), bytes / 4)?;
        let blocks = device.multiprocessors() as usize * 16;
        let sums = device.room::<u32>(blocks)?;
        let reading = Reading {
            from: memory.at(),
            sums: sums.at(),
            pieces: (bytes / PIECE) as i64,
        };
        let read = self.settled(0.0, &|| {
            device.launch(
                &kernel("ceiling_memory", "read_memory", &[]),
                [blocks, 1, 1],
                Work::moving(bytes),
                &reading,
            )
        })?;
        let moving = Moving {
            from: memory.at(),
            to: memory.at() + bytes as u64 / 2,
            pieces: (bytes / 2 / PIECE) as i64,
        };
        let copied = self.settled(0.0, &|| {
            device.launch(
                &kernel("ceiling_memory", "copy_memory", &[]),
                [blocks, 1, 1],
                Work::moving(bytes),
                &moving,
            )
        })?;
        Ok((bytes as f64 / read, bytes as f64 / copied))
    }

    /// The set that the L2 holds, in random words.
    fn set(&self) -> Result<CudaBuffer<u32>> {
        self.filled(&random_words(), self.scale.set / 4)
    }

    /// Bytes a second of rows in random order.
    fn rows(&self) -> Result<[f64; 2]> {
        let device = self.device;
        let set = self.set()?;
        // 64 warps on each multiprocessor
        let blocks = device.multiprocessors() as usize * 16;
        let readers = blocks * THREADS / 8;
        let sums = device.room::<u32>(blocks * THREADS)?;
        let mut rates = [0.0; 2];
        for (rate, bytes) in rates.iter_mut().zip(ROWS) {
            let reads = (self.scale.set_reads / bytes / readers).max(1);
            let args = Rows {
                from: set.at(),
                sums: sums.at(),
                rows: (self.scale.set / bytes) as u32,
                reads: reads as u32,
            };
            let moved = readers * reads * bytes;
            let seconds = self.settled(0.0, &|| {
                device.launch(
                    &kernel("ceiling_rows", "read_rows", &[bytes]),
                    [blocks, 1, 1],
                    Work::moving(moved),
                    &args,
                )
            })?;
            *rate = moved as f64 / seconds;
        }
        Ok(rates)
    }

    /// What Hopper's own instructions reach.
    fn hopper(&self) -> Result<Hopper> {
        let tiles = self.tiles()?;
        let (conversions, conversions_per_cycle) = self.conversions()?;
        let mut products = Vec::new();
        for factors in [Factors::Shared, Factors::Held, Factors::E4m3] {
            for columns in COLUMNS {
                products.push(self.product(factors, columns)?);
            }
        }
        Ok(Hopper {
            tiles,
            conversions,
            conversions_per_cycle,
            products,
        })
    }

    /// Bytes a second of tiles by the copy engine.
    fn tiles(&self) -> Result<f64> {
        let device = self.device;
        let set = self.set()?;
        let rows = self.scale.set / 2 / WIDTH;
        let axis = |len, stride| Axis {
            len,
            stride,
            tile: TILE,
        };
        let tiling = Tiling {
            at: set.at(),
            number: NumberType::Bf16,
            axes: &[axis(WIDTH, 1), axis(rows, WIDTH)],
            swizzle: Swizzle::Rows128,
        };
        let blocks = device.multiprocessors() as usize;
        let reads = (self.scale.set_reads / tiling.tile_bytes() / blocks).max(STAGES);
        let sums = device.room::<u32>(blocks)?;
        let args = Tiles {
            from: device.tensor_map(&tiling)?,
            sums: sums.at(),
            across: (WIDTH / TILE) as u32,
            tiles: (WIDTH / TILE * (rows / TILE)) as u32,
            reads: reads as u32,
            unused: [0; 11],
        };
        let ring = u32::try_from(STAGES * tiling.tile_bytes()).unwrap_or(u32::MAX);
        let moved = blocks * reads * tiling.tile_bytes();
        let seconds = self.settled(0.0, &|| {
            device.launch(
                &kernel("ceiling_tiles", "read_tiles", &[STAGES]),
                Grid::sharing([blocks, 1, 1], ring),
                Work::moving(moved),
                &args,
            )
        })?;
        Ok(moved as f64 / seconds)
    }

    /// Numbers of e4m3 that become f16: in a second, and on a multiprocessor in a cycle.
    fn conversions(&self) -> Result<(f64, f64)> {
        const ROUNDS: usize = 4000;
        let blocks = self.device.multiprocessors() as usize;
        let (seconds, cycles) = self.rounds(
            &kernel("ceiling_convert", "convert_e4m3", &[]),
            THREADS,
            Work::default(),
            ROUNDS,
        )?;
        let numbers = (THREADS * ROUNDS * CONVERSIONS) as f64;
        Ok((numbers * blocks as f64 / seconds, numbers / cycles))
    }

    /// How fast tensor cores multiply.
    fn product(&self, factors: Factors, columns: usize) -> Result<ProductRate> {
        // About a millisecond
        let rounds = 1700 * 256 / columns;
        let entry = match factors {
            Factors::Shared => "multiply_shared",
            Factors::Held => "multiply_held",
            Factors::E4m3 => "multiply_e4m3",
        };
        let products = GROUPS * STEPS * rounds;
        let blocks = self.device.multiprocessors() as usize;
        let work = Work::default().adding(blocks * products * 64 * columns * factors.terms());
        let (seconds, cycles) = self.rounds(
            &kernel("ceiling_wgmma", entry, &[columns]),
            GROUPS * 128,
            work,
            rounds,
        )?;
        Ok(ProductRate {
            factors,
            columns,
            flops: work.flops as f64 / seconds,
            cycles: cycles / products as f64,
        })
    }

    /// Seconds of a kernel that does something `rounds` times, one block on each multiprocessor, and cycles of a block on average.
    fn rounds(
        &self,
        kernel: &Kernel<'_>,
        threads: usize,
        work: Work,
        rounds: usize,
    ) -> Result<(f64, f64)> {
        let device = self.device;
        let blocks = device.multiprocessors() as usize;
        let cycles = device.room::<u64>(blocks)?;
        let sums = device.room::<u32>(blocks * threads)?;
        let args = Rounds {
            cycles: cycles.at(),
            sums: sums.at(),
            rounds: rounds as u32,
            unused: 0,
        };
        let seconds = self.settled(self.scale.settling, &|| {
            device.launch(kernel, [blocks, 1, 1], work, &args)
        })?;
        let cycles = device.download(&cycles)?;
        Ok((seconds, cycles.iter().sum::<u64>() as f64 / blocks as f64))
    }
}

/// How often something of so many seconds is done in some seconds: once at least.
fn times(one: f64, seconds: f64) -> usize {
    // Where nothing took any time, that is no number
    (seconds / one).ceil().clamp(0.0, 1e6).max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_at_least_and_long_enough() {
        assert_eq!(times(1e-3, 0.0495), 50);
        assert_eq!(times(0.0016, 0.03), 19);
        assert_eq!(times(1.0, 0.0), 1);
        assert_eq!(times(0.0, 0.0), 1);
        assert_eq!(times(0.0, 1.0), 1_000_000);
    }

    #[test]
    fn what_is_read_comes_out_even() {
        for scale in [GPU, EMULATED] {
            assert_eq!(scale.memory % (2 * PIECE), 0);
            assert_eq!(scale.matrix % 16, 0);
        }
        assert_eq!(GPU.set % (TILE * WIDTH * 2), 0);
    }

    #[test]
    fn kernels_that_are_missing_are_named() {
        let error = CudaDevice::emulated(crate::cuda::CudaOptions::default())
            .ceilings()
            .expect_err("no kernels");
        assert!(error.to_string().contains("`ceiling_memory`"), "{error}");
    }
}
