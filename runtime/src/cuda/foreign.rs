//! What a device does with streams and memory that somebody else has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytemuck::Pod;

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::driver::{Address, Command, ForeignStream};
use crate::error::{Error, Result};

impl CudaDevice {
    /// Whether the other one is a clone of this.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Does work between what a foreign stream holds now and what it gets later; the host waits for nothing.
    ///
    /// # Errors
    /// The work's own. The device refuses, or the stream is being captured into a graph.
    ///
    /// # Safety
    /// There is such a stream.
    pub(crate) unsafe fn between<R, E: From<Error>>(
        &self,
        stream: ForeignStream,
        work: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        // SAFETY: this function's contract
        unsafe { self.shared.driver.wait_for(stream)? };
        let result = work();
        // Also where it failed: what was queued before may still use the caller's memory
        // SAFETY: this function's contract
        unsafe { self.shared.driver.be_waited_for(stream)? };
        result
    }

    /// Copies memory that somebody else has to the host, once everything queued before is done.
    ///
    /// # Errors
    /// The device refuses, or something queued before failed.
    ///
    /// # Safety
    /// There are so many bytes at `from`.
    pub(crate) unsafe fn download_foreign(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.shared.waits.fetch_add(1, Ordering::Relaxed);
        // SAFETY: this function's contract
        unsafe { self.shared.driver.download(from, to) }
    }

    /// Copies a buffer to another one that is as long.
    pub(crate) fn copy_to<S: Pod>(&self, from: &CudaBuffer<S>, to: &CudaBuffer<S>) -> Result<()> {
        if from.bytes() == 0 {
            return Ok(());
        }
        self.queue(Command::Copy {
            from: from.at(),
            to: to.at(),
            bytes: from.bytes(),
        })
    }
}
