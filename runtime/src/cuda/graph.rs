//! Work that is recorded once and then run again with other values: lengths, block tables, positions and whatever else the host computes.
//!
//! The host's part of a step is run every time. The first time, what it asks of the device is written down; later, each command
//! is only compared with the one written down, the host's values go to where they went before, and at the end one graph is
//! launched. Where a command differs (another number of rows, say), the step is recorded anew.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex};

use super::buffer::Home;
use super::device::{CudaDevice, Mode, lock};
use super::driver::{Address, Command, ForeignStream, Graph, Launch};
use super::ops::Schedules;
use super::pool::Pool;
use crate::error::{Error, Result};

/// A step of work that runs as one graph.
///
/// What the step returns holds memory of the graph, which the next run writes to again: copy it before, if it is wanted after.
/// A step runs on the thread that calls [`run`](Self::run), which asks nothing else of the device meanwhile.
#[derive(Debug)]
pub struct CudaGraph {
    pub(super) device: CudaDevice,
    recorded: Option<Recorded>,
    recordings: usize,
}

struct Recorded {
    graph: Box<dyn Graph>,
    log: Arc<Log>,
}

impl Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.log.commands.len())
    }
}

/// What was recorded.
struct Log {
    commands: Vec<Command>,
    /// Every buffer that was made, in order.
    rooms: Vec<(Address, usize)>,
    arena: Arc<Arena>,
}

/// The memory of a graph's buffers.
#[derive(Debug)]
pub(super) struct Arena {
    device: CudaDevice,
    pool: Mutex<Pool>,
    /// Room for uploads, which take none that a command has used: they are copied before any command runs.
    uploads: Mutex<Pool>,
    /// While recording, a dropped buffer's memory is used again.
    open: std::sync::atomic::AtomicBool,
}

/// A recording under way.
pub(super) struct Recording {
    log: Log,
    /// Whether the host's values are the same whenever the step runs.
    fixed: bool,
    /// Whether what is asked now is done at once, and not a part of the step.
    ahead: bool,
    /// What the step has made for its attentions.
    pub(super) schedules: Schedules,
}

/// A comparison under way.
pub(super) struct Replay {
    log: Arc<Log>,
    command: usize,
    room: usize,
    differs: bool,
    /// What the step has made for its attentions, where it made it when it was recorded.
    pub(super) schedules: Schedules,
}

impl CudaGraph {
    /// A graph of nothing yet.
    pub fn new(device: &CudaDevice) -> Self {
        Self {
            device: device.clone(),
            recorded: None,
            recordings: 0,
        }
    }

    /// Runs a step: as a graph that was recorded before, where the step asks the same of the device, otherwise as a new one.
    ///
    /// # Errors
    /// The step's own. The step waits for values of the device. The device refuses.
    pub fn run<R>(&mut self, mut step: impl FnMut() -> Result<R>) -> Result<R> {
        if let Some(recorded) = &self.recorded {
            let log = Arc::clone(&recorded.log);
            let (result, replay) = self
                .device
                .in_mode(Mode::Replaying(Replay::of(log)), &mut step)?;
            let Mode::Replaying(replay) = replay else {
                return Err(Error::Device("a graph was lost".to_owned()));
            };
            if !replay.differs {
                let result = result?;
                if replay.is_whole() {
                    // SAFETY: the log holds what the commands name
                    unsafe { recorded.graph.launch()? };
                    return Ok(result);
                }
            }
        }
        self.record(step)
    }

    fn record<R>(&mut self, mut step: impl FnMut() -> Result<R>) -> Result<R> {
        // What ran before may still use the memory
        self.device.synchronize()?;
        self.recorded = None;
        let (result, log) = self.device.recorded(&mut step, false)?;
        // SAFETY: the log holds what the commands name
        let graph = unsafe { self.device.shared.driver.record(&log.commands)? };
        // SAFETY: as above
        unsafe { graph.launch()? };
        self.recorded = Some(Recorded {
            graph,
            log: Arc::new(log),
        });
        self.recordings += 1;
        Ok(result)
    }

    /// What was recorded.
    fn recorded(&self) -> Result<&Recorded> {
        self.recorded
            .as_ref()
            .ok_or_else(|| Error::Device("a graph has recorded no step yet".to_owned()))
    }

    /// The commands of what was recorded.
    pub(super) fn commands(&self) -> Result<&[Command]> {
        Ok(&self.recorded()?.log.commands)
    }

    /// Runs what was recorded, with the host's values as they are there.
    pub(super) fn launch(&self) -> Result<()> {
        // SAFETY: the log holds what the commands name
        unsafe { self.recorded()?.graph.launch() }
    }

    /// How often a step was recorded.
    pub fn recordings(&self) -> usize {
        self.recordings
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // It may still run; its memory goes with it
        let _ = self.device.synchronize();
    }
}

/// A step of work that was recorded once and runs in streams of others, always with the same memory and the same values of the host.
pub(crate) struct Prepared {
    device: CudaDevice,
    log: Log,
}

impl Prepared {
    /// Queues the step in a stream. Nothing is allocated and nobody waits, so that the stream may be one that is being captured.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Safety
    /// There is such a stream. All memory that the step was told of is still there. No other work of the device runs at the same time,
    /// this step's own included.
    pub(crate) unsafe fn run_in(&self, stream: ForeignStream) -> Result<()> {
        // SAFETY: the log holds what the commands name; the rest is this function's contract
        unsafe { self.device.shared.driver.run_in(&self.log.commands, stream) }
    }
}

impl CudaDevice {
    /// Records a step; nothing of it has run when this returns. What the host sends is on the device by then, and is not sent again: a step
    /// that changes it is none for this.
    ///
    /// # Errors
    /// The step's own. The step waits for values of the device. The device refuses.
    pub(crate) fn prepare<R, E: From<Error>>(
        &self,
        step: impl FnOnce() -> Result<R, E>,
    ) -> Result<Prepared, E> {
        let mut step = Some(step);
        let step = &mut || match step.take() {
            Some(step) => step(),
            None => Err(Error::Device("a step was recorded twice".to_owned()).into()),
        };
        let (result, log) = self.recorded(step, true)?;
        drop(result);
        self.synchronize()?;
        Ok(Prepared {
            device: self.clone(),
            log,
        })
    }

    /// What a step returns, and what it asked of the device. `fixed`: the host's values will be the same whenever it runs.
    fn recorded<R, E: From<Error>>(
        &self,
        step: &mut impl FnMut() -> Result<R, E>,
        fixed: bool,
    ) -> Result<(R, Log), E> {
        let recording = Mode::Recording(Recording::new(self, fixed));
        let (result, recording) = self.in_mode(recording, step)?;
        let result = result?;
        let Mode::Recording(Recording { log, .. }) = recording else {
            return Err(Error::Device("a recording was lost".to_owned()).into());
        };
        log.arena
            .open
            .store(false, std::sync::atomic::Ordering::Relaxed);
        Ok((result, log))
    }

    /// Does what depends on the host's values alone: once and at once, where they are the same whenever the step runs, and as a part of the step
    /// otherwise.
    pub(super) fn ahead<R>(&self, then: impl FnOnce() -> Result<R>) -> Result<R> {
        let turn = |on: bool| {
            self.with_mode(|mode| {
                if let Some(Mode::Recording(recording)) = mode {
                    recording.ahead = on && recording.fixed;
                }
            });
        };
        turn(true);
        let result = then();
        turn(false);
        result
    }

    /// Runs `step` in a mode; returns what became of the mode.
    pub(super) fn in_mode<R>(&self, mode: Mode, step: &mut impl FnMut() -> R) -> Result<(R, Mode)> {
        /// Ends the mode, even where the step panics.
        struct Back<'a>(&'a CudaDevice);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.leave();
            }
        }
        let Some(_turn) = self.enter(mode) else {
            return Err(Error::Device(
                "a graph's step runs another graph".to_owned(),
            ));
        };
        let _back = Back(self);
        let result = step();
        let mode = self
            .leave()
            .ok_or_else(|| Error::Device("a graph was lost".to_owned()))?;
        Ok((result, mode))
    }
}

impl Recording {
    fn new(device: &CudaDevice, fixed: bool) -> Self {
        // Each in a statement of its own, which the lock is held for
        let pool = lock(&device.shared.pool).beside();
        let uploads = lock(&device.shared.pool).beside();
        Self {
            log: Log {
                commands: Vec::new(),
                rooms: Vec::new(),
                arena: Arc::new(Arena {
                    device: device.clone(),
                    pool: pool.into(),
                    uploads: uploads.into(),
                    open: true.into(),
                }),
            },
            fixed,
            ahead: false,
            schedules: Schedules::default(),
        }
    }

    pub(super) fn room(&mut self, device: &CudaDevice, bytes: usize) -> Result<(Address, Home)> {
        if self.ahead {
            return self.upload(device, bytes);
        }
        let at = take(&self.log.arena.pool, device, bytes)?;
        self.log.rooms.push((at, bytes));
        Ok((at, Home::Graph(Arc::clone(&self.log.arena))))
    }

    /// Room for values of the host. They are copied before the graph runs, so that nothing else may use the room in it, neither before nor
    /// after.
    pub(super) fn upload(&mut self, device: &CudaDevice, bytes: usize) -> Result<(Address, Home)> {
        let room = room_of_upload(bytes);
        let at = take(&self.log.arena.uploads, device, room)?;
        self.log.rooms.push((at, room));
        Ok((at, Home::Kept(Arc::clone(&self.log.arena))))
    }

    /// Writes a command down; gives it back where it is to be done at once.
    pub(super) fn push(&mut self, command: Command) -> Option<Command> {
        if self.ahead {
            return Some(command);
        }
        self.log.commands.push(command);
        None
    }
}

impl Replay {
    fn of(log: Arc<Log>) -> Self {
        Self {
            log,
            command: 0,
            room: 0,
            differs: false,
            schedules: Schedules::default(),
        }
    }

    /// Whether the step has asked for everything that was recorded.
    fn is_whole(&self) -> bool {
        self.command == self.log.commands.len()
    }

    fn differing<T>(&mut self) -> Result<T> {
        self.differs = true;
        Err(Error::Device(
            "the step is not the one that was recorded".to_owned(),
        ))
    }

    pub(super) fn room(&mut self, bytes: usize) -> Result<(Address, Home)> {
        match self.log.rooms.get(self.room) {
            Some(&(at, room)) if room == bytes => {
                self.room += 1;
                Ok((at, Home::Graph(Arc::clone(&self.log.arena))))
            }
            _ => self.differing(),
        }
    }

    pub(super) fn upload(&mut self, bytes: usize) -> Result<(Address, Home)> {
        self.room(room_of_upload(bytes))
    }

    pub(super) fn expect(&mut self, command: &Command) -> Result<()> {
        let same = self
            .log
            .commands
            .get(self.command)
            .is_some_and(|recorded| recorded.is(command));
        if !same {
            return self.differing();
        }
        self.command += 1;
        Ok(())
    }
}

/// Room for more than there is now: tables grow with the lengths.
fn room_of_upload(bytes: usize) -> usize {
    bytes.next_power_of_two().max(256)
}

impl Command {
    /// Whether it does the same with the same memory.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Launch(Launch {
                    function,
                    grid,
                    shared,
                    together,
                    begins,
                    args,
                    work: _,
                }),
                Self::Launch(other),
            ) => {
                (function.handle, grid, shared, together, begins, args)
                    == (
                        other.function.handle,
                        &other.grid,
                        &other.shared,
                        &other.together,
                        &other.begins,
                        &other.args,
                    )
            }
            (Self::Matmul(matmul), Self::Matmul(other)) => matmul == other,
            (
                Self::Copy { from, to, bytes },
                Self::Copy {
                    from: other_from,
                    to: other_to,
                    bytes: other_bytes,
                },
            ) => (from, to, bytes) == (other_from, other_to, other_bytes),
            (
                Self::Fill { at, bytes, byte },
                Self::Fill {
                    at: other_at,
                    bytes: other_bytes,
                    byte: other_byte,
                },
            ) => (at, bytes, byte) == (other_at, other_bytes, other_byte),
            _ => false,
        }
    }
}

/// Memory of a graph's own; what the device has free for other buffers goes back to the driver first, if there is no room otherwise.
fn take(pool: &Mutex<Pool>, device: &CudaDevice, bytes: usize) -> Result<Address> {
    let driver = &*device.shared.driver;
    let mut pool = lock(pool);
    if let Some(at) = pool.take(driver, bytes)? {
        return Ok(at);
    }
    device.trim();
    pool.take(driver, bytes)?
        .ok_or_else(|| pool.out_of_memory(bytes))
}

impl Arena {
    pub(super) fn give(&self, at: Address) {
        if self.open.load(std::sync::atomic::Ordering::Relaxed) {
            lock(&self.pool).give(at);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        for pool in [&self.pool, &self.uploads] {
            // SAFETY: every buffer and the graph hold the arena, so none is left; and the device is idle
            unsafe { lock(pool).clear(&*self.device.shared.driver) };
        }
    }
}
