//! Memory on a device.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;

use super::device::{CudaDevice, lock};
use super::driver::Address;
use super::graph::Arena;

/// Values on a device.
pub struct CudaBuffer<S> {
    device: CudaDevice,
    at: Address,
    home: Home,
    len: usize,
    values: PhantomData<fn() -> S>,
}

/// Where a buffer's memory goes when it is dropped.
#[derive(Debug, Clone)]
pub(super) enum Home {
    /// To the device's pool.
    Pool,
    /// To the graph that it was made for.
    Graph(Arc<Arena>),
    /// Nowhere: it stays the buffer's for as long as there is the graph.
    #[allow(dead_code, reason = "the graph's memory lives as long as its buffers")]
    Kept(Arc<Arena>),
    /// Nowhere: it is somebody else's.
    Foreign,
}

impl<S> CudaBuffer<S> {
    pub(super) fn new(device: CudaDevice, at: Address, home: Home, len: usize) -> Self {
        Self {
            device,
            at,
            home,
            len,
            values: PhantomData,
        }
    }

    /// A view of memory that somebody else has.
    ///
    /// # Safety
    /// There are `len` values at `at`, in memory that the device can reach, for as long as work names the buffer.
    pub(crate) unsafe fn borrowed(device: &CudaDevice, at: Address, len: usize) -> Self {
        Self::new(device.clone(), at, Home::Foreign, len)
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first value's place.
    pub(crate) fn at(&self) -> Address {
        self.at
    }

    /// The place of a value.
    pub(super) fn place(&self, index: usize) -> Address {
        self.at + (index * size_of::<S>()) as Address
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<S>()
    }
}

/// A buffer that its device keeps, and that therefore does not hold the device. Its memory is given back by way of [`back`](Self::back).
#[derive(Debug)]
pub(super) struct Parked<S> {
    at: Address,
    home: Home,
    len: usize,
    values: PhantomData<fn() -> S>,
}

impl<S> CudaBuffer<S> {
    /// The same memory, for the device to keep.
    pub(super) fn parked(mut self) -> Parked<S> {
        Parked {
            at: self.at,
            // What is dropped here gives nothing back
            home: std::mem::replace(&mut self.home, Home::Foreign),
            len: self.len,
            values: PhantomData,
        }
    }
}

impl<S> Parked<S> {
    /// The buffer that it was, of the same device.
    pub(super) fn back(self, device: &CudaDevice) -> CudaBuffer<S> {
        CudaBuffer::new(device.clone(), self.at, self.home, self.len)
    }
}

impl<S> Debug for CudaBuffer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values on {:?}", self.len, self.device)
    }
}

impl<S> Drop for CudaBuffer<S> {
    fn drop(&mut self) {
        match &self.home {
            Home::Pool => lock(&self.device.shared.pool).give(self.at),
            Home::Graph(arena) => arena.give(self.at),
            Home::Kept(_) | Home::Foreign => {}
        }
    }
}
