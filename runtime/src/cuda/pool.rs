//! Memory that is used again: the device is asked only for what no earlier buffer left.

use std::collections::{BTreeMap, HashMap};

use super::driver::{Address, Driver};
use crate::error::{Error, Result};

/// Blocks of the device's memory, in use or free.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Free blocks by their size.
    free: BTreeMap<usize, Vec<Address>>,
    /// Sizes of the blocks in use.
    used: HashMap<Address, usize>,
    /// How often the device was asked.
    asked: usize,
}

impl Pool {
    /// A block of at least `bytes`. Work queued before may still use it: the device runs work in order.
    pub(super) fn take(&mut self, driver: &dyn Driver, bytes: usize) -> Result<Address> {
        let size = class(bytes)?;
        if let Some(at) = self.free.get_mut(&size).and_then(Vec::pop) {
            self.used.insert(at, size);
            return Ok(at);
        }
        self.asked += 1;
        let mut found = driver.allocate(size)?;
        if found.is_none() {
            self.trim(driver);
            found = driver.allocate(size)?;
        }
        let at = found.ok_or_else(|| {
            let used: usize = self.used.values().sum();
            Error::Device(format!(
                "out of memory: no room for {bytes} bytes beside the {used} bytes of buffers in use"
            ))
        })?;
        self.used.insert(at, size);
        Ok(at)
    }

    /// Takes a block back.
    pub(super) fn give(&mut self, at: Address) {
        if let Some(size) = self.used.remove(&at) {
            self.free.entry(size).or_default().push(at);
        }
    }

    /// Gives free blocks back to the device.
    pub(super) fn trim(&mut self, driver: &dyn Driver) {
        for at in std::mem::take(&mut self.free).into_values().flatten() {
            // SAFETY: the pool's own, and no buffer's
            unsafe { driver.free(at) };
        }
    }

    /// Gives all blocks back to the device.
    ///
    /// # Safety
    /// No buffer is left, and no work uses one.
    pub(super) unsafe fn clear(&mut self, driver: &dyn Driver) {
        self.trim(driver);
        for (at, _) in self.used.drain() {
            // SAFETY: the pool's own, and nobody uses it, as the caller says
            unsafe { driver.free(at) };
        }
    }

    pub(super) fn asked(&self) -> usize {
        self.asked
    }
}

/// Sizes that blocks have: four to each power of two, so that at most a fifth is lost, from 256 bytes on.
fn class(bytes: usize) -> Result<usize> {
    const SMALLEST: usize = 256;
    if bytes <= SMALLEST {
        return Ok(SMALLEST);
    }
    let overflow = || Error::Overflow {
        what: "a buffer on the device",
    };
    let step = (bytes.checked_next_power_of_two().ok_or_else(overflow)? / 8).max(SMALLEST);
    bytes.checked_next_multiple_of(step).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::super::driver::Emulator;
    use super::*;

    #[test]
    fn a_block_is_used_again_by_what_is_about_as_large() {
        let (driver, mut pool) = (Emulator::default(), Pool::default());
        let first = pool.take(&driver, 1000).expect("room");
        pool.give(first);
        assert_eq!(pool.take(&driver, 1010).expect("room"), first);
        let second = pool.take(&driver, 1000).expect("room");
        assert_ne!(second, first);
        assert_eq!(pool.asked(), 2);
        // SAFETY: nothing uses the blocks
        unsafe { pool.clear(&driver) };
    }

    #[test]
    fn classes_waste_little() {
        for bytes in (1..100_000).chain([1 << 30, (1 << 30) + 1]) {
            let size = class(bytes).expect("small");
            assert!(
                size >= bytes && size - bytes < (bytes / 4).max(256),
                "{bytes}: {size}"
            );
        }
        assert!(class(usize::MAX).is_err());
    }
}
