//! What runs again and again, and what tells how long it took.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUgraph, CUgraphExec, CUgraphInstantiate_flags};

use super::super::{Clock, Command, Fence, Graph};
use super::machine::{Machine, OrFail};
use crate::error::{Error, Result};

/// Recorded commands.
#[derive(Debug)]
pub(super) struct GpuGraph {
    machine: Arc<Machine>,
    /// One thread at a time may use it.
    handle: Mutex<CUgraphExec>,
    /// Keeps loaded and allocated what the graph runs and reads.
    _commands: Vec<Command>,
}

// SAFETY: the driver's functions may be called from any thread, and the lock keeps callers apart
unsafe impl Send for GpuGraph {}
// SAFETY: as above
unsafe impl Sync for GpuGraph {}

impl GpuGraph {
    /// Makes a graph of what was recorded.
    ///
    /// # Safety
    /// `recorded` is a graph that nobody else has.
    pub(super) unsafe fn new(
        machine: Arc<Machine>,
        recorded: CUgraph,
        commands: Vec<Command>,
    ) -> Result<Self> {
        // SAFETY: it is a graph
        let handle = unsafe { result::graph::instantiate(recorded, CUgraphInstantiate_flags(0)) };
        // SAFETY: it is a graph, and what was made of it stands on its own
        let _ = unsafe { result::graph::destroy(recorded) };
        Ok(Self {
            machine,
            handle: Mutex::new(handle.or_fail(|| "making a graph of recorded commands")?),
            _commands: commands,
        })
    }
}

impl Graph for GpuGraph {
    unsafe fn launch(&self) -> Result<()> {
        self.machine.enter()?;
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both live as long as `self`; what the commands name is valid by this function's contract
        unsafe { result::graph::launch(*handle, self.machine.stream()) }
            .or_fail(|| "launching a graph")
    }
}

impl Drop for GpuGraph {
    fn drop(&mut self) {
        // It may still be running, and so may what its commands keep alive
        let _ = self.machine.synchronize();
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: made in `new`, destroyed only here
        let _ = unsafe { result::graph::exec_destroy(handle) };
    }
}

/// An event in the stream.
pub(super) struct GpuFence {
    machine: Arc<Machine>,
    event: CUevent,
}

// SAFETY: the driver's functions may be called from any thread, and a handle is a mere name of what the driver holds
unsafe impl Send for GpuFence {}
// SAFETY: as above
unsafe impl Sync for GpuFence {}

impl GpuFence {
    /// A fence behind what the stream has to do.
    pub(super) fn new(machine: Arc<Machine>) -> Result<Self> {
        machine.enter()?;
        let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .or_fail(|| "making an event")?;
        let fence = Self { machine, event };
        // SAFETY: both live as long as the fence
        unsafe { result::event::record(event, fence.machine.stream()) }
            .or_fail(|| "recording an event")?;
        Ok(fence)
    }
}

impl Fence for GpuFence {
    fn wait(&self) -> Result<()> {
        self.machine.enter()?;
        // SAFETY: the event lives as long as the fence
        unsafe { result::event::synchronize(self.event) }.or_fail(|| "waiting for an event")
    }
}

impl Drop for GpuFence {
    fn drop(&mut self) {
        if self.machine.enter().is_ok() {
            // SAFETY: made in `new`, destroyed only here
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Events in the stream.
#[derive(Debug)]
pub(crate) struct GpuClock {
    machine: Arc<Machine>,
    marks: Mutex<Vec<CUevent>>,
}

// SAFETY: the driver's functions may be called from any thread, and handles are mere names of what the driver holds
unsafe impl Send for GpuClock {}
// SAFETY: as above
unsafe impl Sync for GpuClock {}

impl GpuClock {
    /// A clock without marks.
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self {
            machine,
            marks: Mutex::default(),
        }
    }

    /// The event of a mark, once it has happened.
    fn passed(&self, mark: usize) -> Result<CUevent> {
        let event = {
            let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            *marks.get(mark).ok_or_else(|| {
                Error::Device(format!("no mark {mark}: the clock has {}", marks.len()))
            })?
        };
        // SAFETY: events live as long as `self`
        unsafe { result::event::synchronize(event) }.or_fail(|| "waiting for a mark")?;
        Ok(event)
    }
}

impl Clock for GpuClock {
    fn mark(&self) -> Result<usize> {
        self.machine.enter()?;
        let event =
            result::event::create(CUevent_flags::CU_EVENT_DEFAULT).or_fail(|| "making an event")?;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        // From here on it is destroyed with the clock
        marks.push(event);
        // SAFETY: both live as long as `self`
        unsafe { result::event::record(event, self.machine.stream()) }
            .or_fail(|| "marking the time")?;
        Ok(marks.len() - 1)
    }

    fn between(&self, from: usize, to: usize) -> Result<f64> {
        self.machine.enter()?;
        let (from, to) = (self.passed(from)?, self.passed(to)?);
        // SAFETY: both are recorded events that keep the time
        unsafe { result::event::elapsed(from, to) }
            .map(f64::from)
            .or_fail(|| "reading the clock")
    }
}

impl Drop for GpuClock {
    fn drop(&mut self) {
        if self.machine.enter().is_err() {
            return;
        }
        let marks = self.marks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for event in marks.drain(..) {
            // SAFETY: made in `mark`, destroyed only here; the driver waits for those still to come
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}
