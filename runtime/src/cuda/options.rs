//! How a device is taken into use.

use std::sync::OnceLock;

use super::device::CudaDevice;
use super::driver::{Emulator, Gpu};
use crate::error::Result;

/// How a device is used; the default is the fastest of what gives the same bits in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CudaOptions {
    /// For hunting mistakes: kernels check every index that comes from a table, and each launch is waited for.
    pub checked: bool,
    /// A row's results are the same bits whatever other rows and requests are in the call, and whatever the cache has room for.
    ///
    /// It holds for `forward`, `prefill` and `decode`, not for gradients, and within one kind of call: a token's row of a prefill need not be
    /// that of a decode step. Every product's algorithm then suits any number of rows instead of the one at hand, and what few rows see is
    /// shared among fewer blocks.
    pub batch_invariant: bool,
    /// Gradients of attention may be added up in whatever order they are there first. That is faster, but the last bits of a gradient are then
    /// others in every run. It concerns the kernels written for Hopper alone; all others add in a fixed order either way.
    pub fast_gradients: bool,
}

impl CudaDevice {
    /// A GPU with the usual options: the `ordinal`th of those that the driver sees, counted from 0.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or it can't be used; the message says what to do about it.
    pub fn gpu(ordinal: usize) -> Result<Self> {
        Self::open(ordinal, CudaOptions::default())
    }

    /// A GPU: the `ordinal`th of those that the driver sees, counted from 0.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or it can't be used; the message says what to do about it.
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Self> {
        let gpu = Gpu::open(ordinal, options.batch_invariant)?;
        Ok(Self::over(Box::new(gpu), options))
    }

    /// How many GPUs the driver sees.
    ///
    /// # Errors
    /// There is no driver, or none that can be used; the message says what to do about it.
    pub fn count() -> Result<usize> {
        Gpu::count()
    }

    /// The host, emulating a GPU: for tests of kernels where there is none. It compiles kernels with the host's C++ compiler, and always
    /// checks them.
    pub fn emulated(options: CudaOptions) -> Self {
        let options = CudaOptions {
            checked: true,
            ..options
        };
        Self::over(Box::new(Emulator::default()), options)
    }

    /// The same for kernels that are written for Hopper, which take the place of others there as on a Hopper GPU. Nothing checks indices, as
    /// those kernels have nothing that does.
    ///
    /// It shows what kernels compute, and where their threads wait for each other forever. It shows no race and no missing wait: threads run in order,
    /// and copies and products are done at once.
    pub fn emulated_hopper(options: CudaOptions) -> Self {
        Self::over(Box::new(Emulator::of_hopper()), options)
    }

    /// The first GPU where there is one that can be used, otherwise the host emulating one.
    pub fn any(options: CudaOptions) -> Self {
        Self::open(0, options).unwrap_or_else(|_| Self::emulated(options))
    }

    /// The process's own device, with the usual options.
    pub fn shared() -> Self {
        static DEVICE: OnceLock<CudaDevice> = OnceLock::new();
        DEVICE
            .get_or_init(|| Self::any(CudaOptions::default()))
            .clone()
    }
}
