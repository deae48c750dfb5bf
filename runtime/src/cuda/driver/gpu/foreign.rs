//! Streams and contexts that somebody else made.

use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::result;
use cudarc::driver::sys::{
    self, CUcontext, CUevent, CUevent_flags, CUevent_wait_flags, CUstream, CUstreamCaptureStatus,
};

use super::super::ForeignStream;
use super::machine::{Machine, OrFail};
use crate::error::{Error, Result};

impl ForeignStream {
    /// As the driver has it.
    pub(super) fn handle(self) -> CUstream {
        ptr::without_provenance_mut(self.0)
    }
}

impl Machine {
    /// Lets this machine's stream wait for all that a foreign one holds now.
    ///
    /// # Safety
    /// There is such a stream.
    pub(super) unsafe fn wait_for(&self, stream: ForeignStream) -> Result<()> {
        self.enter()?;
        // SAFETY: this function's contract
        let status = unsafe { result::stream::is_capturing(stream.handle()) }
            .or_fail(|| "asking whether the stream is being captured")?;
        if status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Err(Error::Device(
                "the stream is being captured into a graph, which allocating and uploading are not: make a step before, and run that"
                    .to_owned(),
            ));
        }
        // SAFETY: this function's contract, and the own stream lives as long as `self`
        unsafe { wait(self.stream(), stream.handle()) }
    }

    /// Lets a foreign stream wait for all that this machine's holds now.
    ///
    /// # Safety
    /// There is such a stream.
    pub(super) unsafe fn be_waited_for(&self, stream: ForeignStream) -> Result<()> {
        self.enter()?;
        // SAFETY: as above
        unsafe { wait(stream.handle(), self.stream()) }
    }
}

/// Lets one stream of the thread's context wait for what another one holds now.
///
/// # Safety
/// There are both streams.
unsafe fn wait(waiting: CUstream, awaited: CUstream) -> Result<()> {
    let event = Event(
        result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .or_fail(|| "making an event")?,
    );
    // SAFETY: the event lives, and so does the stream
    unsafe { result::event::record(event.0, awaited) }.or_fail(|| "recording an event")?;
    let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: as above; an event that is destroyed is kept by the driver until nobody waits for it
    unsafe { result::stream::wait_event(waiting, event.0, flags) }
        .or_fail(|| "letting a stream wait for another")
}

struct Event(CUevent);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by its only maker, destroyed only here, in the context that it was made in
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// The context that a thread of a caller is in. It is entered again when this is dropped: a library leaves its callers where they were.
pub(crate) struct CallersContext(Option<CUcontext>);

impl CallersContext {
    /// The thread's context, if it has one.
    pub(crate) fn of_thread() -> Self {
        static DRIVER: OnceLock<bool> = OnceLock::new();
        // SAFETY: it opens the driver, whose loading needs no care
        if !*DRIVER.get_or_init(|| unsafe { sys::is_culib_present() }) {
            return Self(None);
        }
        Self(result::ctx::get_current().ok().flatten())
    }
}

impl Drop for CallersContext {
    fn drop(&mut self) {
        if let Some(context) = self.0 {
            // SAFETY: the thread was in it before, so whoever made it keeps it
            let _ = unsafe { result::ctx::set_current(context) };
        }
    }
}
