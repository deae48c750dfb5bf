//! Where the result of some work is wanted, so that it need not be copied there.

use std::thread;

use bytemuck::Pod;

use super::buffer::CudaBuffer;
use super::device::{CudaDevice, lock};
use super::driver::Address;
use crate::error::Result;

/// Memory that somebody else has, and wants a result in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) at: Address,
    pub(crate) bytes: usize,
}

/// What addresses of products are multiples of, so that every kernel takes them.
const ALIGNMENT: Address = 16;

impl CudaDevice {
    /// Does some work of this thread's whose result is wanted in memory of somebody else: its first product with a weight that has just as many bytes is
    /// written there. That is the result where no product before is as large; who wants it looks where it is.
    ///
    /// # Safety
    /// Whatever is queued may write to the target's memory, and reads nothing else there, whenever it runs.
    pub(crate) unsafe fn with_target<R>(&self, target: Target, work: impl FnOnce() -> R) -> R {
        /// Forgets the target, even where the work panics.
        struct Forget<'a>(&'a CudaDevice);
        impl Drop for Forget<'_> {
            fn drop(&mut self) {
                self.0.take_target(|_| true);
            }
        }
        if target.at.is_multiple_of(ALIGNMENT) {
            lock(&self.shared.targets).push((thread::current().id(), target));
        }
        let _forget = Forget(self);
        work()
    }

    /// Room for a product with a weight.
    pub(super) fn room_of_product<S: Pod>(&self, len: usize) -> Result<CudaBuffer<S>> {
        let bytes = len * size_of::<S>();
        match self.take_target(|target| target.bytes == bytes) {
            // SAFETY: whoever called `with_target` has promised it
            Some(target) => Ok(unsafe { CudaBuffer::borrowed(self, target.at, len) }),
            None => self.room(len),
        }
    }

    /// This thread's target, if it is one that is asked for: nobody else gets it then.
    fn take_target(&self, is_asked: impl FnOnce(&Target) -> bool) -> Option<Target> {
        let mut targets = lock(&self.shared.targets);
        let this = thread::current().id();
        let found = targets.iter().position(|(owner, _)| *owner == this)?;
        is_asked(&targets[found].1).then(|| targets.swap_remove(found).1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;

    #[test]
    fn the_first_product_of_its_size_gets_the_target() {
        let device = device();
        let wanted = device.upload(&[0.0_f32; 8]).expect("room");
        let target = Target {
            at: wanted.at(),
            bytes: 32,
        };
        let room = |len| device.room_of_product::<f32>(len).expect("room").at();
        // SAFETY: nothing is queued
        let found = unsafe { device.with_target(target, || [room(4), room(8), room(8)]) };
        assert_ne!(found[0], target.at);
        assert_eq!(found[1], target.at);
        assert_ne!(found[2], target.at);
        // SAFETY: as above
        unsafe { device.with_target(target, || ()) };
        assert_ne!(room(8), target.at, "it is forgotten where nobody took it");
    }

    #[test]
    fn what_no_kernel_could_write_to_is_no_target() {
        let device = device();
        let wanted = device.upload(&[0.0_f32; 16]).expect("room");
        let target = Target {
            at: wanted.at() + 4,
            bytes: 32,
        };
        let room = || device.room_of_product::<f32>(8).expect("room").at();
        // SAFETY: nothing is queued
        assert_ne!(unsafe { device.with_target(target, room) }, target.at);
    }
}
