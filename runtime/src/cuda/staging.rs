//! Pinned memory through which the host's values go to the device without the host waiting for it.

use std::sync::Arc;

use super::driver::{Driver, Fence, Pinned};
use crate::error::{Error, Result};

/// A ring of parts. A part is written again once the device has read what was written to it before.
#[derive(Default)]
pub(super) struct Staging {
    memory: Option<Pinned>,
    /// What the device has to pass before a part is free.
    fences: [Option<Box<dyn Fence>>; PARTS],
    part: usize,
    /// Bytes of the part that are written.
    written: usize,
}

const PARTS: usize = 4;

impl Staging {
    /// Bytes that are staged at once, at most.
    pub(super) const PART: usize = 8 << 20;

    /// A copy of some bytes for the device to read.
    pub(super) fn stage(&mut self, driver: &dyn Driver, bytes: &[u8]) -> Result<Pinned> {
        if self.written + bytes.len() > Self::PART {
            // What was staged is queued to be read
            self.fences[self.part] = Some(driver.fence()?);
            self.part = (self.part + 1) % PARTS;
            self.written = 0;
            if let Some(fence) = self.fences[self.part].take() {
                fence.wait()?;
            }
        }
        let memory = match &self.memory {
            Some(memory) => memory.clone(),
            None => self.memory.insert(driver.pin(PARTS * Self::PART)?).clone(),
        };
        let offset = self.part * Self::PART + self.written;
        if bytes.len() > Self::PART || offset + bytes.len() > memory.bytes {
            return Err(Error::Device(
                "more is staged than there is room".to_owned(),
            ));
        }
        // SAFETY: so many bytes are pinned behind `offset`, as checked above
        let at = unsafe { memory.at.add(offset) };
        // SAFETY: as above; the device has read what was there
        unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.written += bytes.len().next_multiple_of(256);
        Ok(Pinned {
            at,
            bytes: bytes.len(),
            owner: Arc::clone(&memory.owner),
        })
    }
}
