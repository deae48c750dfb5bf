//! A GPU through CUDA's driver.

mod foreign;
mod machine;
mod maps;
mod module;
#[cfg(test)]
mod tests;
mod timeline;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult, CUstream, CUstreamCaptureMode};
use mla_nvrtc::{Compiled, CubinCache};

use super::blas::Blas;
use super::{
    Address, Clock, Command, Driver, Fence, ForeignStream, Graph, Launch, Matmul, Module, Pinned,
    Source, TensorMap, Tiling,
};
use crate::error::{Error, Result};

pub(crate) use foreign::CallersContext;
pub(crate) use machine::{Machine, OrFail, alone};
use module::GpuModule;
pub(crate) use timeline::GpuClock;
use timeline::{GpuFence, GpuGraph};

/// An NVIDIA GPU. Its commands run in one stream of its own.
#[derive(Debug)]
pub(crate) struct Gpu {
    machine: Arc<Machine>,
    /// Products of matrices, where the library is installed.
    blas: Option<Blas>,
    cubins: CubinCache,
    name: String,
    arch: String,
    multiprocessors: u32,
    /// Whether it starts kernels while those before them end: since Hopper.
    starts_early: bool,
}

impl Gpu {
    /// How many GPUs the driver sees; 0 where there is a driver, but nothing for it to drive.
    ///
    /// # Errors
    /// There is no driver, or none that can be used; the message says what to do about it.
    pub(crate) fn count() -> Result<usize> {
        machine::count()
    }

    /// Takes a GPU into use: the `ordinal`th of those that the driver sees, counted from 0. `batch_invariant`: a row's products do not
    /// depend on how many rows there are.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or it can't be used; the message says what to do about it.
    pub(crate) fn open(ordinal: usize, batch_invariant: bool) -> Result<Self> {
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        let machine = Arc::new(Machine::open(ordinal)?);
        let multiprocessors = machine.attribute(MULTIPROCESSORS)?;
        let (major, minor) = (machine.attribute(MAJOR)?, machine.attribute(MINOR)?);
        Ok(Self {
            blas: Blas::open(&machine, batch_invariant)?,
            cubins: CubinCache::of_user(),
            name: machine.name()?,
            arch: arch(major, minor),
            starts_early: major >= 9,
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(0),
            machine,
        })
    }

    /// What the compiler makes of a source for this GPU, or made of it before.
    ///
    /// # Errors
    /// The compiler refuses; what it says is in the message.
    pub(crate) fn compile(&self, source: &Source<'_>) -> Result<Compiled> {
        Ok(self.cubins.compile(source, &self.arch)?)
    }

    /// Queues commands in a stream of this GPU, one after the other. The stream is the thread's.
    ///
    /// # Safety
    /// As [`Driver::run`].
    unsafe fn queue_all(&self, commands: &[Command], stream: CUstream) -> Result<()> {
        let mut before: Option<&Command> = None;
        for command in commands {
            // SAFETY: this function's contract
            unsafe { self.queue(command, before, stream) }?;
            before = Some(command);
        }
        Ok(())
    }

    /// Queues a command in a stream of this GPU, which is the thread's. `before`: what was queued there last, where that is known.
    ///
    /// # Safety
    /// As [`Driver::run`].
    unsafe fn queue(
        &self,
        command: &Command,
        before: Option<&Command>,
        stream: CUstream,
    ) -> Result<()> {
        match command {
            Command::Launch(launched) => {
                let follows = before.is_some_and(|before| launched.begins.may_follow(before));
                // SAFETY: the function's module is held by the command; the rest is this function's contract
                unsafe { launch(launched, follows && self.starts_early, stream) }
            }
            Command::Matmul(matmul) => {
                let blas = self.blas.as_ref().ok_or_else(Blas::missing)?;
                // SAFETY: this function's contract
                unsafe { blas.multiply(matmul, stream) }
            }
            // Of nothing there is nothing to do, and CUDA wants addresses to be of something
            Command::Upload { bytes: 0, .. }
            | Command::Copy { bytes: 0, .. }
            | Command::Fill { bytes: 0, .. } => Ok(()),
            Command::Upload { from, to, bytes } => {
                if *bytes > from.bytes {
                    return Err(Error::Device(format!(
                        "an upload of {bytes} bytes from memory of {}",
                        from.bytes
                    )));
                }
                // SAFETY: both are as long by this function's contract
                unsafe { sys::cuMemcpyHtoDAsync_v2(*to, from.at.cast(), *bytes, stream) }
                    .result()
                    .or_fail(|| format!("copying {bytes} bytes to the GPU"))
            }
            Command::Copy { from, to, bytes } => {
                // SAFETY: both are as long by this function's contract
                unsafe { result::memcpy_dtod_async(*to, *from, *bytes, stream) }
                    .or_fail(|| format!("copying {bytes} bytes on the GPU"))
            }
            Command::Fill { at, bytes, byte } => {
                // SAFETY: it is as long by this function's contract
                unsafe { result::memset_d8_async(*at, *byte, *bytes, stream) }
                    .or_fail(|| format!("filling {bytes} bytes on the GPU"))
            }
        }
    }
}

/// What compilers call the architecture of a compute capability. That of Hopper is named with its own instructions, which no later one has.
fn arch(major: i32, minor: i32) -> String {
    match (major, minor) {
        (9, 0) => "sm_90a".into(),
        _ => format!("sm_{major}{minor}"),
    }
}

/// How a kernel is launched: all of its blocks together, or refused where a device has no room for them at once; and before the one before has ended.
fn attributes(together: bool, early: bool) -> Vec<sys::CUlaunchAttribute> {
    use sys::CUlaunchAttributeID::{
        CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
    };
    let cooperative = sys::CUlaunchAttributeValue { cooperative: 1 };
    let programmatic = sys::CUlaunchAttributeValue {
        programmaticStreamSerializationAllowed: 1,
    };
    let attribute = |id, value| sys::CUlaunchAttribute {
        id,
        pad: [0; 4],
        value,
    };
    let cooperative = attribute(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, cooperative);
    let programmatic = attribute(
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        programmatic,
    );
    let wanted = [(together, cooperative), (early, programmatic)];
    let wanted = wanted.into_iter().filter(|(wanted, _)| *wanted);
    wanted.map(|(_, attribute)| attribute).collect()
}

/// Launches a kernel, perhaps before the one before has ended.
///
/// # Safety
/// The function is one of a module that is loaded, and what its parameter names is valid.
unsafe fn launch(launched: &Launch, early: bool, stream: CUstream) -> Result<()> {
    let Launch {
        function,
        grid: [x, y, z],
        shared,
        together,
        begins: _,
        args,
        work: _,
    } = launched;
    // The driver reads as much as the kernel wants, whatever there is
    if function.parameter != args.len() {
        return Err(Error::Device(format!(
            "the kernel {} takes a parameter of {} bytes and is launched with {}",
            function.name,
            function.parameter,
            args.len()
        )));
    }
    let mut parameters = [args.as_ptr().cast_mut().cast::<c_void>()];
    let (handle, threads) = (module::handle(function), function.threads);
    let mut attributes = attributes(*together, early && !together);
    let config = sys::CUlaunchConfig {
        gridDimX: *x,
        gridDimY: *y,
        gridDimZ: *z,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: *shared,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    };
    // SAFETY: the parameter is as long as the kernel reads, and it and the attributes are copied before this returns; the rest is the contract's
    let launched = unsafe {
        sys::cuLaunchKernelEx(
            &config,
            handle,
            parameters.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    launched.result().or_fail(|| {
        format!(
            "launching {x} x {y} x {z} blocks of the kernel {}",
            function.name
        )
    })
}

/// Memory of the host that is pinned.
struct HostMemory {
    machine: Arc<Machine>,
    at: *mut c_void,
}

// SAFETY: it only frees, which any thread may do
unsafe impl Send for HostMemory {}
// SAFETY: as above
unsafe impl Sync for HostMemory {}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.machine.enter().is_ok() {
            // SAFETY: allocated in `pin`, freed only here
            let _ = unsafe { result::free_host(self.at) };
        }
    }
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn arch(&self) -> String {
        self.arch.clone()
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Address>> {
        self.machine.enter()?;
        // SAFETY: what is in it is for the caller to know; CUDA aligns to 256 bytes, and does not allocate nothing
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(error).or_fail(|| format!("allocating {bytes} bytes on the GPU")),
        }
    }

    unsafe fn free(&self, at: Address) {
        // What fails here has failed for whoever waits for results, too
        let _ = self.machine.synchronize();
        // SAFETY: nothing that runs uses it, and by this function's contract nobody else
        let _ = unsafe { result::memory_free(at) };
    }

    fn pin(&self, bytes: usize) -> Result<Pinned> {
        self.machine.enter()?;
        // SAFETY: what is in it is for the caller to know
        let at = unsafe { result::malloc_host(bytes.max(1), 0) }
            .or_fail(|| format!("pinning {bytes} bytes of the host's memory"))?;
        Ok(Pinned {
            at: at.cast(),
            bytes,
            owner: Arc::new(HostMemory {
                machine: self.machine.clone(),
                at,
            }),
        })
    }

    fn load(&self, source: &Source<'_>) -> Result<Arc<dyn Module>> {
        let compiled = self.compile(source)?;
        self.load_compiled(source.name, &compiled.cubin)
    }

    fn load_compiled(&self, name: &str, cubin: &[u8]) -> Result<Arc<dyn Module>> {
        let module = GpuModule::load(self.machine.clone(), name, cubin)?;
        Ok(Arc::new(module))
    }

    fn multiplies(&self, matmul: &Matmul) -> bool {
        self.machine.enter().is_ok()
            && self
                .blas
                .as_ref()
                .is_some_and(|blas| blas.multiplies(matmul))
    }

    fn tensor_map(&self, tiling: &Tiling<'_>) -> Result<TensorMap> {
        self.machine.enter()?;
        maps::encoded(tiling)
    }

    fn tune(&self) -> Result<()> {
        self.blas.as_ref().ok_or_else(Blas::missing).map(Blas::tune)
    }

    fn tuned(&self) -> Result<String> {
        let blas = self.blas.as_ref().ok_or_else(Blas::missing)?;
        blas.tuned()
            .ok_or_else(|| Error::Device("nobody asked for products to be timed".to_owned()))
    }

    unsafe fn run(&self, command: &Command) -> Result<()> {
        self.machine.enter()?;
        // SAFETY: this function's contract
        unsafe { self.queue(command, None, self.machine.stream()) }
    }

    unsafe fn record(&self, commands: &[Command]) -> Result<Box<dyn Graph>> {
        self.machine.enter()?;
        // Algorithms are chosen outside, since while a thread records there are calls that it may not make
        if let Some(blas) = &self.blas {
            for command in commands {
                if let Command::Matmul(matmul) = command {
                    blas.multiplies(matmul);
                }
            }
        }
        let _alone = alone();
        let stream = self.machine.recording();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives, and is this thread's as long as it is locked
        unsafe { result::stream::begin_capture(*stream, mode) }
            .or_fail(|| "beginning to record")?;
        // SAFETY: this function's contract
        let queued = unsafe { self.queue_all(commands, *stream) };
        // Whatever happened, the stream has to stop recording
        // SAFETY: it was begun above
        let recorded = unsafe { result::stream::end_capture(*stream) };
        drop(stream);
        if let Err(error) = queued {
            if let Ok(recorded) = recorded
                && !recorded.is_null()
            {
                // SAFETY: nobody else has it
                let _ = unsafe { result::graph::destroy(recorded) };
            }
            return Err(error);
        }
        let recorded = recorded.or_fail(|| "recording commands")?;
        // SAFETY: just recorded, so nobody else has it
        let graph = unsafe { GpuGraph::new(self.machine.clone(), recorded, commands.to_vec()) }?;
        Ok(Box::new(graph))
    }

    unsafe fn wait_for(&self, stream: ForeignStream) -> Result<()> {
        // SAFETY: this function's contract
        unsafe { self.machine.wait_for(stream) }
    }

    unsafe fn be_waited_for(&self, stream: ForeignStream) -> Result<()> {
        // SAFETY: this function's contract
        unsafe { self.machine.be_waited_for(stream) }
    }

    unsafe fn run_in(&self, commands: &[Command], stream: ForeignStream) -> Result<()> {
        self.machine.enter()?;
        // SAFETY: this function's contract
        unsafe { self.queue_all(commands, stream.handle()) }
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.machine.enter()?;
        if !to.is_empty() {
            // SAFETY: there is as much at `from` by this function's contract, and `to` outlives the copy, which is waited for below
            unsafe { result::memcpy_dtoh_async(to, from, self.machine.stream()) }
                .or_fail(|| format!("copying {} bytes from the GPU", to.len()))?;
        }
        self.machine.synchronize()
    }

    fn fence(&self) -> Result<Box<dyn Fence>> {
        Ok(Box::new(GpuFence::new(self.machine.clone())?))
    }

    fn synchronize(&self) -> Result<()> {
        self.machine.synchronize()
    }

    fn clock(&self) -> Result<Box<dyn Clock>> {
        Ok(Box::new(GpuClock::new(self.machine.clone())))
    }
}
