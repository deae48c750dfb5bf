//! Clocks, and how fast this machine reads and multiplies.

use std::fmt;
use std::time::{Duration, Instant};

use mla_runtime::{Backend, Cpu, CpuDevice, Linear, Result, Rows};
use rayon::prelude::*;

/// What ends the bench.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What counts as time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Clock {
    /// What a user waits.
    Wall,
    /// What all threads together ran.
    Cpu,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Clock::Wall => "wall time",
            Clock::Cpu => "time of all threads together",
        })
    }
}

impl Clock {
    /// The seconds that `work` takes, and what it returns.
    pub(crate) fn time<R>(self, work: impl FnOnce() -> R) -> (std::io::Result<f64>, R) {
        match self {
            Clock::Wall => {
                let start = Instant::now();
                let result = work();
                (Ok(start.elapsed().as_secs_f64()), result)
            }
            Clock::Cpu => {
                let start = cpu_seconds();
                let result = work();
                let end = cpu_seconds();
                (start.and_then(|start| Ok(end? - start)), result)
            }
        }
    }
}

/// What all threads of this process have run so far.
fn cpu_seconds() -> std::io::Result<f64> {
    // The kernel's books are exact for threads that sleep
    std::thread::sleep(Duration::from_micros(300));
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let ran: Option<f64> = text.split(' ').next().and_then(|ran| ran.parse().ok());
        nanoseconds += ran.ok_or_else(|| {
            std::io::Error::other("found no run time in /proc/self/task/*/schedstat")
        })?;
    }
    Ok(nanoseconds / 1e9)
}

/// What the threads of the current pool reach.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Machine {
    /// Bytes read from memory per second.
    pub(crate) read: f64,
    /// Operations of f32 products per second.
    pub(crate) multiply: f64,
}

impl Machine {
    /// Several goes at each; the best of all calls stays.
    ///
    /// # Errors
    /// The clock can't be read, or there is no room.
    pub(crate) fn measure(&mut self, clock: Clock) -> std::result::Result<(), Fault> {
        const TRIES: usize = 7;

        // Larger than caches, and than what is left of one that neighbours share
        const VALUES: usize = 128 << 20;
        // As layers have theirs
        let memory: Vec<f32> = Cpu::<f32>::zeros(&CpuDevice::new(), VALUES)?;
        for _ in 0..TRIES {
            let (seconds, sum) = clock.time(|| memory.par_chunks(1 << 16).map(summed).sum::<f32>());
            std::hint::black_box(sum);
            self.read = self.read.max((VALUES * size_of::<f32>()) as f64 / seconds?);
        }

        let (operations, product) = large_product()?;
        for _ in 0..TRIES {
            let (seconds, result) = clock.time(&product);
            result?;
            self.multiply = self.multiply.max(operations / seconds?);
        }
        Ok(())
    }
}

/// A sum in enough lanes for the compiler to read memory as fast as it comes.
fn summed(values: &[f32]) -> f32 {
    let mut lanes = [0.0; 64];
    for chunk in values.chunks_exact(lanes.len()) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum()
}

/// A product large enough to be limited by arithmetic alone, and its operations.
fn large_product() -> Result<(f64, impl Fn() -> Result<()>)> {
    const ROWS: usize = 1024;
    const WIDTH: usize = 2048;
    let device = CpuDevice::new();
    let linear: Linear<Cpu, WIDTH, WIDTH> = Linear::new(&device, vec![0.5; WIDTH * WIDTH], None)?;
    let x: Rows<Cpu, WIDTH> = Rows::from_vec(&device, vec![0.5; ROWS * WIDTH])?;
    let call = move || linear.forward(&x).map(drop);
    Ok((2.0 * (ROWS * WIDTH * WIDTH) as f64, call))
}
