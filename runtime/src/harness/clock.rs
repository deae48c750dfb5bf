//! Backends whose calls are timed.

use std::time::Instant;

use super::report::{Ceilings, Device, Timed};
use crate::{Backend, Cpu, CpuElement, KernelSource, Result};

/// A backend whose calls can be timed.
pub trait Clocked: Backend {
    /// The device, where it is not the machine's processor.
    fn described(device: &Self::Device) -> Option<Device>;

    /// What the device reaches, measured by kernels that are handed to it; `None` for processors, and where there is nothing to measure with.
    ///
    /// # Errors
    /// The device refuses.
    fn ceilings(device: &Self::Device, kernels: &[KernelSource]) -> Result<Option<Ceilings>>;

    /// Times calls of `step`, all of which do the same. `alone`: whether it can run without the host in between, so that a device can
    /// repeat it by itself.
    ///
    /// # Errors
    /// The step's own, or the device refuses.
    fn time<R>(
        device: &Self::Device,
        alone: bool,
        step: &mut dyn FnMut() -> Result<R>,
    ) -> Result<Times>;
}

/// How long a call takes, as [`Timing`](super::report::Timing) has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times {
    pub(super) call_seconds: f64,
    pub(super) device_seconds: Option<f64>,
    pub(super) commands: Vec<Timed>,
}

/// Calls are repeated until they took so long together.
const SETTLED_SECONDS: f64 = 0.3;
/// But so often at least.
const FEWEST_CALLS: usize = 3;
/// And no more often.
const MOST_CALLS: usize = 200;

/// The median wall time of calls. The first is not counted: it compiles kernels and finds memory.
fn wall(call: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut seconds = Vec::new();
    while seconds.len() < FEWEST_CALLS
        || seconds.len() < MOST_CALLS && seconds.iter().sum::<f64>() < SETTLED_SECONDS
    {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

impl<T: CpuElement> Clocked for Cpu<T> {
    fn described(_: &Self::Device) -> Option<Device> {
        None
    }

    fn ceilings(_: &Self::Device, _: &[KernelSource]) -> Result<Option<Ceilings>> {
        Ok(None)
    }

    fn time<R>(_: &Self::Device, _: bool, step: &mut dyn FnMut() -> Result<R>) -> Result<Times> {
        Ok(Times {
            call_seconds: wall(&mut || step().map(drop))?,
            ..Times::default()
        })
    }
}

#[cfg(feature = "cuda")]
mod on_cuda {
    use super::super::report::{Ceilings, Device, Timed, Work};
    use super::{Clocked, MOST_CALLS, SETTLED_SECONDS, Times, wall};
    use crate::{
        Backend, Cuda, CudaDevice, CudaElement, CudaGraph, KernelSource, Result, TimedCommand,
    };

    /// Rounds in which each command is timed.
    const ROUNDS: usize = 5;

    impl<T: CudaElement> Clocked for Cuda<T> {
        fn described(device: &CudaDevice) -> Option<Device> {
            Some(Device {
                name: device.name(),
                arch: device.arch(),
            })
        }

        fn ceilings(device: &CudaDevice, kernels: &[KernelSource]) -> Result<Option<Ceilings>> {
            // Nobody asks how fast an emulation is
            if kernels.is_empty() || device.is_emulated() {
                return Ok(None);
            }
            Self::add_kernels(device, kernels, &[])?;
            let measured = device.ceilings()?;
            Ok(measured.bf16.map(|products| Ceilings {
                read: measured.read,
                products: products.settled,
                text: measured.to_string(),
            }))
        }

        fn time<R>(
            device: &CudaDevice,
            alone: bool,
            step: &mut dyn FnMut() -> Result<R>,
        ) -> Result<Times> {
            let call_seconds = wall(&mut || {
                step()?;
                device.synchronize()
            })?;
            if !alone {
                let (_, commands) = device.time_commands(&mut *step)?;
                return Ok(Times {
                    call_seconds,
                    device_seconds: None,
                    commands: by_name(commands),
                });
            }
            let mut graph = CudaGraph::new(device);
            graph.run(&mut *step)?;
            let launches = (SETTLED_SECONDS / call_seconds).clamp(3.0, MOST_CALLS as f64);
            Ok(Times {
                call_seconds,
                device_seconds: Some(graph.time(launches as usize)? / 1e3),
                commands: by_name(graph.time_commands(ROUNDS)?),
            })
        }
    }

    /// One entry for all commands of a name.
    fn by_name(commands: Vec<TimedCommand>) -> Vec<Timed> {
        let mut named: Vec<Timed> = Vec::new();
        for command in commands {
            let seconds = command.milliseconds / 1e3;
            let (bytes, flops) = (command.work.bytes, command.work.flops);
            match named.iter_mut().find(|timed| timed.name == command.name) {
                Some(timed) => {
                    timed.count += 1;
                    timed.seconds += seconds;
                    timed.work.bytes += bytes;
                    timed.work.flops += flops;
                }
                None => named.push(Timed {
                    name: command.name,
                    count: 1,
                    seconds,
                    work: Work { bytes, flops },
                }),
            }
        }
        named
    }
}
