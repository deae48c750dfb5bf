//! The host as a device: kernels are compiled by its C++ compiler and run there, thread by thread.
//!
//! It is what tests of kernels run on where there is no GPU. Fresh memory holds NaN, so that what nothing wrote is seen. What runs there runs in
//! the same order every time. Copies and products are done at once, or for tests only when somebody waits for them.

mod library;
mod tensor_map;

use std::alloc::Layout;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::{ptr, slice};

use bytemuck::Zeroable;

use super::{
    Address, Clock, Command, Driver, Fence, ForeignStream, Graph, Launch, Matmul, Module, Pinned,
    Source, TensorMap, Tiling,
};
use crate::error::{Error, Result};
use library::{Entry, Loaded};

const ALIGNMENT: usize = 256;

/// Bytes of shared memory that a block can have, as on Hopper.
const SHARED_BYTES: u32 = 232_448;

/// Bytes that there are. The host would promise more than it has, and end the process once that is written to.
const MEMORY: usize = 16 << 30;

/// The host, emulating a device.
#[derive(Debug, Default)]
pub(crate) struct Emulator {
    /// What is allocated, and how large it is.
    memory: Mutex<HashMap<Address, usize>>,
    /// Whether layers may choose kernels that are written for Hopper. It runs them either way.
    hopper: bool,
    /// What chance begins with where copies and products are done late; 0: they are done at once.
    seed: u32,
}

impl Emulator {
    /// What it calls its architecture.
    pub(crate) const ARCH: &'static str = "host";

    /// One that passes for a Hopper GPU.
    pub(crate) fn of_hopper() -> Self {
        Self {
            hopper: true,
            ..Self::default()
        }
    }

    /// The same, which does what threads ask for only when somebody waits for it, and runs warps as `seed` has it: who does not wait for others or
    /// for a copy finds that nothing has come.
    #[cfg(test)]
    pub(crate) fn of_late_hopper(seed: u32) -> Self {
        Self {
            seed,
            ..Self::of_hopper()
        }
    }
}

impl Driver for Emulator {
    fn name(&self) -> String {
        "the host, emulating a GPU".to_owned()
    }

    fn arch(&self) -> String {
        Self::ARCH.to_owned()
    }

    fn is_hopper(&self) -> bool {
        self.hopper
    }

    fn multiprocessors(&self) -> u32 {
        if self.hopper { 16 } else { 4 }
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Address>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let left = MEMORY.saturating_sub(memory.values().sum());
        let Ok(layout) = Layout::from_size_align(bytes.max(1), ALIGNMENT) else {
            return Ok(None);
        };
        if layout.size() > left {
            return Ok(None);
        }
        // SAFETY: the layout's size is not 0
        let at = unsafe { std::alloc::alloc(layout) };
        if at.is_null() {
            return Ok(None);
        }
        // SAFETY: so many bytes were allocated there
        unsafe { ptr::write_bytes(at, 0xff, bytes) };
        memory.insert(at as Address, bytes.max(1));
        Ok(Some(at as Address))
    }

    unsafe fn free(&self, at: Address) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bytes) = memory.remove(&at) else {
            return;
        };
        if let Ok(layout) = Layout::from_size_align(bytes, ALIGNMENT) {
            // SAFETY: allocated with this layout, and used by nobody, as the caller says
            unsafe { std::alloc::dealloc(at as *mut u8, layout) };
        }
    }

    fn pin(&self, bytes: usize) -> Result<Pinned> {
        let mut owner: Arc<Vec<u64>> = Arc::new(vec![0; bytes.div_ceil(8).max(1)]);
        let at = Arc::get_mut(&mut owner).map(|values| values.as_mut_ptr().cast());
        Ok(Pinned {
            at: at.ok_or_else(|| Error::Device("a new buffer is shared".to_owned()))?,
            bytes,
            owner,
        })
    }

    fn load(&self, source: &Source<'_>) -> Result<Arc<dyn Module>> {
        Ok(Arc::new(Loaded::new(source)?))
    }

    fn load_compiled(&self, name: &str, _: &[u8]) -> Result<Arc<dyn Module>> {
        Err(Error::Device(format!(
            "{name} is compiled for a GPU, and there is none"
        )))
    }

    fn multiplies(&self, _: &Matmul) -> bool {
        false
    }

    fn tensor_map(&self, tiling: &Tiling<'_>) -> Result<TensorMap> {
        tensor_map::encoded(tiling)
    }

    fn tune(&self) -> Result<()> {
        Err(multiplies_nothing())
    }

    fn tuned(&self) -> Result<String> {
        Err(multiplies_nothing())
    }

    unsafe fn run(&self, command: &Command) -> Result<()> {
        // SAFETY: addresses are valid, as the caller says
        unsafe {
            match command {
                Command::Launch(launch) => {
                    check(launch)?;
                    let entry: Entry = std::mem::transmute(launch.function.handle);
                    let [x, y, z] = launch.grid;
                    let args = aligned(&launch.args);
                    entry(args.as_ptr().cast(), x, y, z, launch.together, self.seed);
                }
                Command::Matmul(_) => {
                    return Err(multiplies_nothing());
                }
                Command::Upload { from, to, bytes } => {
                    ptr::copy_nonoverlapping(from.at, *to as *mut u8, *bytes);
                }
                Command::Copy { from, to, bytes } => {
                    ptr::copy(*from as *const u8, *to as *mut u8, *bytes);
                }
                Command::Fill { at, bytes, byte } => {
                    ptr::write_bytes(*at as *mut u8, *byte, *bytes);
                }
            }
        }
        Ok(())
    }

    unsafe fn record(&self, commands: &[Command]) -> Result<Box<dyn Graph>> {
        Ok(Box::new(Recorded {
            commands: commands.to_vec(),
            seed: self.seed,
        }))
    }

    unsafe fn wait_for(&self, _: ForeignStream) -> Result<()> {
        Ok(())
    }

    unsafe fn be_waited_for(&self, _: ForeignStream) -> Result<()> {
        Ok(())
    }

    unsafe fn run_in(&self, commands: &[Command], _: ForeignStream) -> Result<()> {
        commands
            .iter()
            // SAFETY: as the caller says
            .try_for_each(|command| unsafe { self.run(command) })
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        // SAFETY: there is as much memory, as the caller says
        to.copy_from_slice(unsafe { slice::from_raw_parts(from as *const u8, to.len()) });
        Ok(())
    }

    fn fence(&self) -> Result<Box<dyn Fence>> {
        Ok(Box::new(Passed))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn clock(&self) -> Result<Box<dyn Clock>> {
        Ok(Box::new(HostClock::default()))
    }
}

/// Refuses what a GPU refuses.
fn check(launch: &Launch) -> Result<()> {
    let Launch {
        function,
        grid,
        shared,
        together,
        args,
        ..
    } = launch;
    let refused = |what: String| {
        Err(Error::Device(format!(
            "the kernel {} {what}",
            function.name
        )))
    };
    if function.parameter != args.len() {
        return refused(format!(
            "takes a parameter of {} bytes and is launched with {}",
            function.parameter,
            args.len()
        ));
    }
    if *shared > SHARED_BYTES {
        return refused(format!(
            "is launched with {shared} bytes of shared memory for a block, which has {SHARED_BYTES}"
        ));
    }
    if *together && grid[1..] != [1, 1] {
        return refused(format!("is launched together over a grid of {grid:?}"));
    }
    Ok(())
}

/// A parameter as the widest of its parts wants it.
fn aligned(args: &[u8]) -> Vec<TensorMap> {
    let mut aligned = vec![TensorMap::zeroed(); args.len().div_ceil(size_of::<TensorMap>())];
    bytemuck::cast_slice_mut(&mut aligned)[..args.len()].copy_from_slice(args);
    aligned
}

fn multiplies_nothing() -> Error {
    Error::Device("the emulator multiplies no matrices".to_owned())
}

/// Nothing is ever queued.
struct Passed;

impl Fence for Passed {
    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Recorded {
    commands: Vec<Command>,
    seed: u32,
}

impl Graph for Recorded {
    unsafe fn launch(&self) -> Result<()> {
        let emulator = Emulator {
            seed: self.seed,
            ..Emulator::default()
        };
        for command in &self.commands {
            // SAFETY: as the caller says
            unsafe { emulator.run(command)? };
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct HostClock(Mutex<Vec<Instant>>);

impl Clock for HostClock {
    fn mark(&self) -> Result<usize> {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push(Instant::now());
        Ok(marks.len() - 1)
    }

    fn between(&self, from: usize, to: usize) -> Result<f64> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (marks.get(from), marks.get(to)) {
            (Some(from), Some(to)) => Ok(to.saturating_duration_since(*from).as_secs_f64() * 1e3),
            _ => Err(Error::Device(
                "there is no such mark of the clock".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
