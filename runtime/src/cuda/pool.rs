//! Memory that is used again: the device is asked only for what no earlier buffer left.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// Bytes of blocks in use, of all pools of the device.
    in_use: Arc<AtomicUsize>,
}

impl Pool {
    /// An empty pool on the same device.
    pub(super) fn beside(&self) -> Self {
        Self {
            in_use: Arc::clone(&self.in_use),
            ..Self::default()
        }
    }

    /// A block of at least `bytes`; `None` where there is no room even without this pool's free blocks. Work queued before may still use it:
    /// the device runs work in order.
    pub(super) fn take(&mut self, driver: &dyn Driver, bytes: usize) -> Result<Option<Address>> {
        let size = class(bytes)?;
        if let Some(at) = self.free.get_mut(&size).and_then(Vec::pop) {
            self.hold(at, size);
            return Ok(Some(at));
        }
        self.asked += 1;
        let mut found = driver.allocate(size)?;
        if found.is_none() {
            self.trim(driver);
            found = driver.allocate(size)?;
        }
        if let Some(at) = found {
            self.hold(at, size);
        }
        Ok(found)
    }

    fn hold(&mut self, at: Address, size: usize) {
        self.used.insert(at, size);
        self.in_use.fetch_add(size, Ordering::Relaxed);
    }

    /// What to say where there is no room for `bytes`.
    pub(super) fn out_of_memory(&self, bytes: usize) -> Error {
        let used = self.in_use.load(Ordering::Relaxed);
        Error::Device(format!(
            "out of memory: no room for {bytes} bytes beside the {used} bytes of buffers in use"
        ))
    }

    /// Takes a block back.
    pub(super) fn give(&mut self, at: Address) {
        if let Some(size) = self.used.remove(&at) {
            self.in_use.fetch_sub(size, Ordering::Relaxed);
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
        for (at, size) in self.used.drain() {
            self.in_use.fetch_sub(size, Ordering::Relaxed);
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

    fn taken(pool: &mut Pool, driver: &Emulator, bytes: usize) -> Address {
        pool.take(driver, bytes).expect("no error").expect("room")
    }

    #[test]
    fn a_block_is_used_again_by_what_is_about_as_large() {
        let (driver, mut pool) = (Emulator::default(), Pool::default());
        let first = taken(&mut pool, &driver, 1000);
        pool.give(first);
        assert_eq!(taken(&mut pool, &driver, 1010), first);
        let second = taken(&mut pool, &driver, 1000);
        assert_ne!(second, first);
        assert_eq!(pool.asked(), 2);
        // SAFETY: nothing uses the blocks
        unsafe { pool.clear(&driver) };
    }

    #[test]
    fn all_pools_of_a_device_count_what_is_in_use() {
        let (driver, mut pool) = (Emulator::default(), Pool::default());
        let mut other = pool.beside();
        taken(&mut pool, &driver, 1024);
        let given = taken(&mut other, &driver, 2048);
        let told = |pool: &Pool| pool.out_of_memory(7).to_string();
        assert!(
            told(&pool).contains("7 bytes beside the 3072 bytes"),
            "{}",
            told(&pool)
        );
        other.give(given);
        assert!(
            told(&other).contains("beside the 1024 bytes"),
            "{}",
            told(&other)
        );
        // SAFETY: nothing uses the blocks
        unsafe {
            pool.clear(&driver);
            other.clear(&driver);
        }
        assert!(
            told(&other).contains("beside the 0 bytes"),
            "{}",
            told(&other)
        );
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
