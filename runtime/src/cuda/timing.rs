//! How long work takes on the device's own clock: a step as a whole, and each of its commands.

use super::device::{CudaDevice, Mode};
use super::driver::{Clock, Command};
use super::graph::CudaGraph;
use super::work::Work;
use crate::error::{Error, Result};

/// Bytes that are filled before commands are timed one by one: the device is busy with them until the host is well ahead of it.
const HEAD_START: usize = 512 << 20;
/// How often.
const FILLS: usize = 4;

/// A command, and how long it took.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedCommand {
    /// The kernel's symbol, or `product MxNxK`, `copy`, `fill`.
    pub name: String,
    /// What it had to do at least.
    pub work: Work,
    /// The median of all rounds. A mark of the clock before it and one behind are part of it: about a microsecond.
    pub milliseconds: f64,
}

/// Commands that are timed as they are queued.
pub(super) struct Timeline {
    clock: Box<dyn Clock>,
    timed: Vec<(String, Work, [usize; 2])>,
}

impl Timeline {
    pub(super) fn new(clock: Box<dyn Clock>) -> Self {
        Self {
            clock,
            timed: Vec::new(),
        }
    }

    /// Queues a command between two marks.
    pub(super) fn around(
        &mut self,
        command: &Command,
        run: impl FnOnce(&Command) -> Result<()>,
    ) -> Result<()> {
        let before = self.clock.mark()?;
        run(command)?;
        let after = self.clock.mark()?;
        self.timed
            .push((command.name(), command.work(), [before, after]));
        Ok(())
    }

    /// What was timed; waits for it.
    fn finish(self) -> Result<Vec<TimedCommand>> {
        let timed = self.timed.into_iter().map(|(name, work, [from, to])| {
            Ok(TimedCommand {
                name,
                work,
                milliseconds: self.clock.between(from, to)?,
            })
        });
        timed.collect()
    }
}

impl CudaDevice {
    /// Runs a step whose commands are timed as they are queued. Where the host is slower than the device, which it is where kernels take
    /// some microseconds, its time is part of a command's: [`CudaGraph::time_commands`] is more exact.
    ///
    /// # Errors
    /// The step's own, or the device refuses.
    pub fn time_commands<R>(
        &self,
        mut step: impl FnMut() -> Result<R>,
    ) -> Result<(R, Vec<TimedCommand>)> {
        let timeline = Timeline::new(self.shared.driver.clock()?);
        let (result, mode) = self.in_mode(Mode::Timing(timeline), &mut step)?;
        match mode {
            Mode::Timing(timeline) => Ok((result?, timeline.finish()?)),
            _ => Err(Error::Device("a timeline was lost".to_owned())),
        }
    }
}

impl CudaGraph {
    /// Milliseconds that one launch of what was recorded takes, the mean of `launches` that follow each other.
    ///
    /// # Errors
    /// Nothing was recorded yet, or the device refuses.
    pub fn time(&self, launches: usize) -> Result<f64> {
        let clock = self.device.shared.driver.clock()?;
        // The first one's way to the device is not timed
        self.launch()?;
        let from = clock.mark()?;
        for _ in 0..launches {
            self.launch()?;
        }
        let to = clock.mark()?;
        Ok(clock.between(from, to)? / launches.max(1) as f64)
    }

    /// Times each command of what was recorded, the median of `rounds`. What the step writes is written again.
    ///
    /// # Errors
    /// Nothing was recorded yet, or the device refuses.
    pub fn time_commands(&self, rounds: usize) -> Result<Vec<TimedCommand>> {
        let commands = self.commands()?;
        let head_start = self.device.room::<u8>(HEAD_START)?;
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); commands.len()];
        let mut last = Vec::new();
        for _ in 0..rounds.max(1) {
            for _ in 0..FILLS {
                self.device.fill(&head_start, 0)?;
            }
            let mut timeline = Timeline::new(self.device.shared.driver.clock()?);
            for command in commands {
                timeline.around(command, |command| self.device.run(command))?;
            }
            last = timeline.finish()?;
            for (times, timed) in times.iter_mut().zip(&last) {
                times.push(timed.milliseconds);
            }
        }
        for (timed, times) in last.iter_mut().zip(&mut times) {
            timed.milliseconds = median(times);
        }
        Ok(last)
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

impl Command {
    fn name(&self) -> String {
        match self {
            Self::Launch(launch) => launch.function.name.to_string(),
            Self::Matmul(matmul) => {
                let (m, n, k) = (matmul.m, matmul.n, matmul.k);
                let times = match matmul.batch {
                    1 => String::new(),
                    batch => format!("{batch}x "),
                };
                format!("product {times}{m}x{n}x{k} {}", matmul.a.number.name())
            }
            Self::Upload { .. } => "upload".to_owned(),
            Self::Copy { .. } => "copy".to_owned(),
            Self::Fill { .. } => "fill".to_owned(),
        }
    }

    /// What it has to do at least.
    fn work(&self) -> Work {
        match self {
            Self::Launch(launch) => launch.work,
            Self::Matmul(matmul) => matmul.work(),
            // Through the bus, which is another matter
            Self::Upload { .. } => Work::default(),
            Self::Copy { bytes, .. } => Work::moving(2 * bytes),
            Self::Fill { bytes, .. } => Work::moving(*bytes),
        }
    }
}
