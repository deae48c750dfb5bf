//! A device's context and streams, and errors of CUDA.

use std::fmt::Display;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUresult, CUstream};

use crate::error::{Error, Result};

/// The oldest driver that has every function this backend calls, as drivers count: 12.8.
const OLDEST_DRIVER: i32 = 12_080;

/// Held while a stream is recorded from, and while libraries start and stop: those wait for the whole device, which would end a recording of any thread.
/// Recordings of other people's are theirs to keep apart.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that is in use: its primary context, the stream in which commands run, and one that graphs are recorded from.
#[derive(Debug)]
pub(crate) struct Machine {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    /// Nothing ever runs here, so recording disturbs nobody who uses the other stream meanwhile.
    recording: Mutex<CUstream>,
}

// SAFETY: the driver's functions may be called from any thread, and handles are mere names of what the driver holds
unsafe impl Send for Machine {}
// SAFETY: as above
unsafe impl Sync for Machine {}

impl Machine {
    /// Takes a device into use.
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        let count = count()?;
        if ordinal >= count {
            return Err(Error::Device(match count {
                0 => "CUDA's driver sees no GPU: is one visible (CUDA_VISIBLE_DEVICES), and may this process use it?".into(),
                _ => format!("no GPU {ordinal}: there are {count}, counted from 0"),
            }));
        }
        let device = result::device::get(ordinal as i32).or_fail(|| "taking the GPU")?;
        // SAFETY: the device is one of those that there are
        let context =
            unsafe { result::primary_ctx::retain(device) }.or_fail(|| "opening the GPU")?;
        let mut machine = Self {
            device,
            context,
            stream: ptr::null_mut(),
            recording: Mutex::new(ptr::null_mut()),
        };
        machine.enter()?;
        machine.stream = new_stream()?;
        machine.recording = Mutex::new(new_stream()?);
        Ok(machine)
    }

    /// Makes this device the one that this thread's calls are about. Every use of the driver begins with it.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives
        unsafe { result::ctx::set_current(self.context) }.or_fail(|| "entering the GPU")
    }

    /// Where commands run.
    pub(crate) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Where graphs are recorded, by one thread at a time.
    pub(crate) fn recording(&self) -> MutexGuard<'_, CUstream> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that is queued.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`
        unsafe { result::stream::synchronize(self.stream) }
            .or_fail(|| "running what was queued on the GPU")
    }

    /// The device's name.
    pub(crate) fn name(&self) -> Result<String> {
        result::device::get_name(self.device).or_fail(|| "asking for the GPU's name")
    }

    /// One of the device's numbers.
    pub(crate) fn attribute(&self, attribute: CUdevice_attribute) -> Result<i32> {
        // SAFETY: the device is one of those that there are
        unsafe { result::device::get_attribute(self.device, attribute) }
            .or_fail(|| "asking what the GPU can do")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            let recording = *self.recording();
            for stream in [self.stream, recording] {
                if !stream.is_null() {
                    // SAFETY: made in `open`, and destroyed only here
                    let _ = unsafe { result::stream::destroy(stream) };
                }
            }
        }
        // SAFETY: retained in `open`, and released only here
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A stream that does not wait for the default one.
fn new_stream() -> Result<CUstream> {
    result::stream::create(result::stream::StreamKind::NonBlocking).or_fail(|| "making a stream")
}

/// How many GPUs there are.
///
/// # Errors
/// There is no driver that can be used.
pub(crate) fn count() -> Result<usize> {
    static DRIVER: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DRIVER
        .get_or_init(|| initialize().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|reason| Error::Device(reason.clone()))?;
    match result::device::get_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        // So it is said where there is a driver, but nothing for it to drive
        Err(error) if no_device(error) => Ok(0),
        Err(error) => Err(error).or_fail(|| "counting the GPUs"),
    }
}

/// Starts the driver.
fn initialize() -> std::result::Result<(), String> {
    // SAFETY: it opens the driver, whose loading needs no care
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "no CUDA driver: libcuda.so.1, which comes with NVIDIA's driver, is not found. Install the driver; in a container, pass the \
             GPU on to it (with Docker: --gpus all)"
                .into(),
        );
    }
    match result::init() {
        Ok(()) => {}
        Err(error) if no_device(error) => return Ok(()),
        Err(error) => return Err(describe("starting CUDA's driver", error)),
    }
    let mut version = 0;
    // SAFETY: it writes a number
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| describe("asking for the driver's version", error))?;
    if version < OLDEST_DRIVER {
        let said = |version| format!("{}.{}", version / 1000, version % 1000 / 10);
        return Err(format!(
            "the GPU's driver knows CUDA {}; {} or newer is needed: update the driver",
            said(version),
            said(OLDEST_DRIVER)
        ));
    }
    Ok(())
}

fn no_device(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_NOT_INITIALIZED
    )
}

/// What was being done and what CUDA calls its failing.
fn describe(what: impl Display, error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_else(|_| "unknown".into())
    };
    format!(
        "{what} failed: {} ({})",
        text(error.error_name()),
        text(error.error_string())
    )
}

/// Errors of CUDA as ours.
pub(crate) trait OrFail<T> {
    /// Says what was being done.
    fn or_fail<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> OrFail<T> for std::result::Result<T, DriverError> {
    fn or_fail<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::Device(describe(what(), error)))
    }
}
