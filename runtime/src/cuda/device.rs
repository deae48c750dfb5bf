//! A device, and how work is queued on it.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

use bytemuck::Pod;

use super::buffer::{CudaBuffer, Home};
use super::driver::{
    Address, Begins, Clock, Command, Driver, Emulator, Launch, Matmul, TensorMap, Tiling,
};
use super::graph::{Recording, Replay};
use super::grid::Grid;
use super::kernels::{Kernel, Kernels, Provider};
use super::ops::Schedules;
use super::options::CudaOptions;
use super::pool::Pool;
use super::staging::Staging;
use super::target::Target;
use super::timing::Timeline;
use super::work::Work;
use crate::backend::{Cubin, KernelSource};
use crate::error::{Error, Result};

/// A device that runs CUDA kernels: a GPU, or the host emulating one. Work runs in the order in which it is queued. A clone is the same device.
#[derive(Clone)]
pub struct CudaDevice {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) driver: Box<dyn Driver>,
    pub(super) pool: Mutex<Pool>,
    /// The thread whose work is written down or compared, and its mode; everybody else's is queued at once.
    mode: Mutex<Option<(ThreadId, Mode)>>,
    /// Held by the thread whose graph is run.
    graphs: Mutex<()>,
    pub(super) kernels: Kernels,
    staging: Mutex<Staging>,
    /// What work that is queued at once has made for its attentions.
    pub(super) schedules: Mutex<Schedules>,
    /// Kernels of absorbed decode that were measured on such a device, where there is a table of them.
    tuned: OnceLock<Option<mla_tuned::Table>>,
    /// Where threads want the results of what they are about to ask for.
    pub(super) targets: Mutex<Vec<(ThreadId, Target)>>,
    checked: bool,
    batch_invariant: bool,
    fast_gradients: bool,
    queued: AtomicUsize,
    pub(super) waits: AtomicUsize,
}

/// What becomes of a graph's work, instead of being queued at once.
pub(super) enum Mode {
    /// It is written down.
    Recording(Recording),
    /// It is compared with what was written down.
    Replaying(Replay),
    /// It is queued at once, and timed.
    Timing(Timeline),
}

/// What a device was asked to do so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Allocations that the driver was asked for. Buffers that are used again are none.
    pub allocations: usize,
    /// Times that the host waited for the device.
    pub waits: usize,
    /// Commands queued.
    pub commands: usize,
}

impl CudaDevice {
    pub(super) fn over(driver: Box<dyn Driver>, options: CudaOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                driver,
                pool: Mutex::default(),
                mode: Mutex::default(),
                graphs: Mutex::default(),
                kernels: Kernels::default(),
                staging: Mutex::default(),
                schedules: Mutex::default(),
                tuned: OnceLock::new(),
                targets: Mutex::default(),
                checked: options.checked,
                batch_invariant: options.batch_invariant,
                fast_gradients: options.fast_gradients,
                queued: AtomicUsize::new(0),
                waits: AtomicUsize::new(0),
            }),
        }
    }

    /// The device's name, e.g. `NVIDIA H200`.
    pub fn name(&self) -> String {
        self.shared.driver.name()
    }

    /// Its architecture, e.g. `sm_90a`.
    pub fn arch(&self) -> String {
        self.shared.driver.arch()
    }

    /// Whether it runs kernels that are written for Hopper alone.
    pub(crate) fn is_hopper(&self) -> bool {
        self.shared.driver.is_hopper()
    }

    /// Whether it is the host.
    pub fn is_emulated(&self) -> bool {
        self.arch() == Emulator::ARCH
    }

    /// Its multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.shared.driver.multiprocessors()
    }

    /// The kernels of absorbed decode that were measured on such a device.
    pub(super) fn tuned(&self) -> Option<&mla_tuned::Table> {
        let of_this = || mla_tuned::Table::of_gpu(&self.name());
        self.shared.tuned.get_or_init(of_this).as_ref()
    }

    /// Whether a row's results may not depend on the rows beside it.
    pub(super) fn is_batch_invariant(&self) -> bool {
        self.shared.batch_invariant
    }

    /// Whether gradients are added up in the same order in every run.
    pub(super) fn adds_in_order(&self) -> bool {
        !self.shared.fast_gradients
    }

    /// Whether kernels check every index that comes from a table.
    pub(super) fn is_checked(&self) -> bool {
        self.shared.checked
    }

    /// Kernels that no layer brought along are asked of `provider`.
    pub fn provide(
        &self,
        provider: impl Fn(&str, &[usize]) -> Option<String> + Send + Sync + 'static,
    ) {
        let provider: Arc<Provider> = Arc::new(provider);
        self.shared.kernels.set_provider(provider);
    }

    /// Takes kernels' texts, and what was compiled of them ahead of time: a layer's own come along with it, and others are for whoever knows
    /// them by name, as [`ceilings`](Self::ceilings) does.
    pub fn add_kernels(&self, kernels: &[KernelSource], cubins: &[Cubin]) {
        self.shared.kernels.add(kernels, cubins);
    }

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// Something queued failed.
    pub fn synchronize(&self) -> Result<()> {
        self.shared.waits.fetch_add(1, Ordering::Relaxed);
        self.shared.driver.synchronize()
    }

    /// What it was asked to do so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            allocations: lock(&self.shared.pool).asked(),
            waits: self.shared.waits.load(Ordering::Relaxed),
            commands: self.shared.queued.load(Ordering::Relaxed),
        }
    }

    /// Gives memory that no buffer uses back to the driver.
    pub fn trim(&self) {
        lock(&self.shared.pool).trim(&*self.shared.driver);
    }

    /// From now on, times the algorithms of each product whose shape is met for the first time: for who writes tables of them.
    ///
    /// # Errors
    /// The device has no algorithms to choose from.
    #[doc(hidden)]
    pub fn tune_products(&self) -> Result<()> {
        self.shared.driver.tune()
    }

    /// The table of the fastest algorithms, those that were known before included.
    ///
    /// # Errors
    /// Nobody asked for products to be timed.
    #[doc(hidden)]
    pub fn tuned_products(&self) -> Result<String> {
        self.shared.driver.tuned()
    }

    /// A stopwatch on the device's own clock.
    ///
    /// # Errors
    /// The device refuses.
    pub fn stopwatch(&self) -> Result<Stopwatch> {
        Ok(Stopwatch(self.shared.driver.clock()?))
    }

    /// Does something with this thread's mode, where it has one.
    pub(super) fn with_mode<R>(&self, then: impl FnOnce(Option<&mut Mode>) -> R) -> R {
        let mut slot = lock(&self.shared.mode);
        match &mut *slot {
            Some((owner, mode)) if *owner == thread::current().id() => then(Some(mode)),
            _ => {
                drop(slot);
                then(None)
            }
        }
    }

    /// Whether this thread's work is queued at once.
    fn is_immediate(&self) -> bool {
        self.with_mode(|mode| matches!(mode, None | Some(Mode::Timing(_))))
    }

    /// Gives this thread a mode once no other thread has one; `None` where this thread has one already.
    pub(super) fn enter(&self, mode: Mode) -> Option<MutexGuard<'_, ()>> {
        if self.with_mode(|mode| mode.is_some()) {
            return None;
        }
        let turn = lock(&self.shared.graphs);
        *lock(&self.shared.mode) = Some((thread::current().id(), mode));
        Some(turn)
    }

    /// Takes the mode back.
    pub(super) fn leave(&self) -> Option<Mode> {
        lock(&self.shared.mode).take().map(|(_, mode)| mode)
    }

    /// Room for `len` values, of which nothing is known.
    pub(super) fn room<S: Pod>(&self, len: usize) -> Result<CudaBuffer<S>> {
        let bytes = len.checked_mul(size_of::<S>()).ok_or(Error::Overflow {
            what: "a buffer on the device",
        })?;
        let driver = &*self.shared.driver;
        let (at, home) = self.with_mode(|mode| match mode {
            None | Some(Mode::Timing(_)) => {
                let mut pool = lock(&self.shared.pool);
                let at = pool.take(driver, bytes)?;
                at.map(|at| (at, Home::Pool))
                    .ok_or_else(|| pool.out_of_memory(bytes))
            }
            Some(Mode::Recording(recording)) => recording.room(self, bytes),
            Some(Mode::Replaying(replay)) => replay.room(bytes),
        })?;
        Ok(CudaBuffer::new(self.clone(), at, home, len))
    }

    /// `len` zeros.
    pub(super) fn zeros<S: Pod>(&self, len: usize) -> Result<CudaBuffer<S>> {
        let buffer = self.room::<S>(len)?;
        self.fill(&buffer, 0)?;
        Ok(buffer)
    }

    /// Sets every byte of a buffer.
    pub(super) fn fill<S: Pod>(&self, buffer: &CudaBuffer<S>, byte: u8) -> Result<()> {
        if buffer.bytes() == 0 {
            return Ok(());
        }
        self.queue(Command::Fill {
            at: buffer.at(),
            bytes: buffer.bytes(),
            byte,
        })
    }

    /// Copies values to the device.
    pub(crate) fn upload<S: Pod>(&self, values: &[S]) -> Result<CudaBuffer<S>> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let room = self.with_mode(|mode| match mode {
            None | Some(Mode::Timing(_)) => Ok(None),
            Some(Mode::Recording(recording)) => recording.upload(self, bytes.len()).map(Some),
            Some(Mode::Replaying(replay)) => replay.upload(bytes.len()).map(Some),
        })?;
        let buffer = match room {
            Some((at, home)) => CudaBuffer::new(self.clone(), at, home, values.len()),
            None => self.room(values.len())?,
        };
        self.send(buffer.at(), bytes)?;
        Ok(buffer)
    }

    /// Copies bytes to the device by way of pinned memory, before whatever is queued later.
    pub(super) fn send(&self, mut to: Address, bytes: &[u8]) -> Result<()> {
        let driver = &*self.shared.driver;
        let mut staging = lock(&self.shared.staging);
        for part in bytes.chunks(Staging::PART) {
            let from = staging.stage(driver, part)?;
            self.run(&Command::Upload {
                from,
                to,
                bytes: part.len(),
            })?;
            to += part.len() as Address;
        }
        Ok(())
    }

    /// Copies a buffer to the host, once everything queued before is done.
    pub(crate) fn download<S: Pod>(&self, buffer: &CudaBuffer<S>) -> Result<Vec<S>> {
        if !self.is_immediate() {
            return Err(Error::Device(
                "a graph can't wait for values: nothing may be copied to the host while it is recorded"
                    .to_owned(),
            ));
        }
        let mut values = Vec::new();
        values.try_reserve_exact(buffer.len()).map_err(|_| {
            Error::Device(format!("no room on the host for {} values", buffer.len()))
        })?;
        values.resize(buffer.len(), S::zeroed());
        if !values.is_empty() {
            self.shared.waits.fetch_add(1, Ordering::Relaxed);
            let to = bytemuck::cast_slice_mut(&mut values);
            // SAFETY: the buffer is as long as `values`
            unsafe { self.shared.driver.download(buffer.at(), to)? };
        }
        Ok(values)
    }

    /// Queues a kernel, which has to do this work at least. A grid without blocks is none.
    pub(super) fn launch<A: Pod>(
        &self,
        kernel: &Kernel<'_>,
        grid: impl Into<Grid>,
        work: Work,
        args: &A,
    ) -> Result<()> {
        let grid = grid.into();
        let Some(blocks) = grid.blocks(kernel)? else {
            return Ok(());
        };
        let driver = &*self.shared.driver;
        let function = self
            .shared
            .kernels
            .function(driver, kernel, self.shared.checked)?;
        self.queue(Command::Launch(Launch {
            function: function.clone(),
            grid: blocks,
            shared: grid.shared,
            together: grid.together,
            begins: if grid.reads_ahead {
                Begins::Ahead
            } else {
                Begins::InTurn
            },
            args: bytemuck::bytes_of(args).to_vec(),
            work,
        }))?;
        if self.shared.checked && self.is_immediate() {
            self.check(kernel, &function)?;
        }
        Ok(())
    }

    /// Whether the driver has a way of its own for a product.
    pub(super) fn multiplies(&self, matmul: &Matmul) -> bool {
        self.shared.driver.multiplies(matmul)
    }

    /// Queues a product of matrices; `false` where the driver has no way of its own.
    pub(super) fn matmul(&self, matmul: &Matmul) -> Result<bool> {
        if !self.multiplies(matmul) {
            return Ok(false);
        }
        self.queue(Command::Matmul(*matmul))?;
        Ok(true)
    }

    /// A tensor and its tiles as kernels hand them to Hopper's copy engine.
    pub(super) fn tensor_map(&self, tiling: &Tiling<'_>) -> Result<TensorMap> {
        self.shared.driver.tensor_map(tiling)
    }

    /// Queues a command, or records it, or compares it with what was recorded.
    pub(super) fn queue(&self, command: Command) -> Result<()> {
        let command = self.with_mode(|mode| match mode {
            None => Ok(Some(command)),
            Some(Mode::Recording(recording)) => Ok(recording.push(command)),
            Some(Mode::Replaying(replay)) => replay.expect(&command).map(|()| None),
            Some(Mode::Timing(timeline)) => timeline
                .around(&command, |command| self.run(command))
                .map(|()| None),
        })?;
        command.map_or(Ok(()), |command| self.run(&command))
    }

    pub(super) fn run(&self, command: &Command) -> Result<()> {
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        // SAFETY: commands name buffers, which give their memory back to the pool and not to the driver: it stays valid, and
        // work that takes it over is queued behind this. Windows lie inside their buffers, as `Backend`'s callers guarantee
        unsafe { self.shared.driver.run(command) }
    }

    /// Reports an index out of range that a checked kernel has met.
    fn check(&self, kernel: &Kernel<'_>, function: &super::driver::Function) -> Result<()> {
        let Some((at, _)) = function.module.variable("mla_fault") else {
            return Ok(());
        };
        let mut bytes = [0_u8; size_of::<Fault>()];
        // SAFETY: the variable is a `Fault`, in every text
        unsafe { self.shared.driver.download(at, &mut bytes)? };
        let fault: Fault = bytemuck::pod_read_unaligned(&bytes);
        if fault.seen == 0 {
            return Ok(());
        }
        self.send(at, bytemuck::bytes_of(&Fault::default()))?;
        Err(Error::Device(format!(
            "kernel `{}`: index {} is not below {} (line {} of its text)",
            kernel.entry, fault.index, fault.limit, fault.line
        )))
    }
}

/// Times between points of a device's queue.
#[derive(Debug)]
pub struct Stopwatch(Box<dyn Clock>);

impl Stopwatch {
    /// Notes the time once everything queued before is done. Returns a number for it.
    ///
    /// # Errors
    /// The device refuses.
    pub fn mark(&self) -> Result<usize> {
        self.0.mark()
    }

    /// Milliseconds between two marks; waits for both.
    ///
    /// # Errors
    /// The device refuses, or there is no such mark.
    pub fn milliseconds(&self, from: usize, to: usize) -> Result<f64> {
        self.0.between(from, to)
    }
}

/// The first index out of range, as `prelude.cuh` keeps it.
#[derive(Debug, Clone, Copy, Default, Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Fault {
    seen: u32,
    line: u32,
    index: i64,
    limit: i64,
}

impl Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.arch())
    }
}

impl Default for CudaDevice {
    fn default() -> Self {
        Self::shared()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Errors of what was queued have nobody to go to any more
        let _ = self.driver.synchronize();
        // SAFETY: every buffer holds the device, so none is left; and the device is idle
        unsafe { pool.clear(&*self.driver) };
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
