//! Code on the device.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::{
    self, CUdevice_attribute, CUfunction, CUfunction_attribute, CUmodule, CUresult,
};

use super::super::{Address, Function, Module};
use super::machine::{Machine, OrFail};
use crate::error::{Error, Result};

/// A cubin that is loaded.
pub(super) struct GpuModule {
    machine: Arc<Machine>,
    handle: CUmodule,
    /// The source's name.
    name: String,
}

// SAFETY: the driver's functions may be called from any thread, and a handle is a mere name of what the driver holds
unsafe impl Send for GpuModule {}
// SAFETY: as above
unsafe impl Sync for GpuModule {}

impl GpuModule {
    /// Loads a cubin.
    pub(super) fn load(machine: Arc<Machine>, name: &str, cubin: &[u8]) -> Result<Self> {
        machine.enter()?;
        // SAFETY: a whole cubin: the compiler's, or one whose digest is that of the compiler's
        let handle = unsafe { result::module::load_data(cubin.as_ptr().cast()) }
            .or_fail(|| format!("loading {name}"))?;
        Ok(Self {
            machine,
            handle,
            name: name.into(),
        })
    }
}

impl Module for GpuModule {
    fn function(self: Arc<Self>, name: &str) -> Result<Function> {
        self.machine.enter()?;
        let what = || format!("looking for the kernel {name} in {}", self.name);
        let symbol = CString::new(name).map_err(|_| Error::Device(what()))?;
        // SAFETY: the module is loaded as long as `self` lives
        let function =
            unsafe { result::module::get_function(self.handle, symbol) }.or_fail(what)?;
        // Else its code would be fetched by its first launch, which may stand in a graph
        // SAFETY: the function is the module's
        unsafe { sys::cuFuncLoad(function) }
            .result()
            .or_fail(|| format!("loading the kernel {name} of {}", self.name))?;
        // SAFETY: as above
        let (threads, parameter) = unsafe {
            allow_shared_memory(&self.machine, function)?;
            (threads(function)?, parameter_bytes(function)?)
        };
        Ok(Function {
            handle: function.expose_provenance(),
            name: name.into(),
            threads,
            parameter,
            module: self,
        })
    }

    fn variable(&self, name: &str) -> Option<(Address, usize)> {
        self.machine.enter().ok()?;
        let symbol = CString::new(name).ok()?;
        // SAFETY: the module is loaded as long as `self` lives
        unsafe { result::module::get_global(self.handle, symbol) }.ok()
    }
}

impl Drop for GpuModule {
    fn drop(&mut self) {
        // Its kernels may still be running. What fails here has failed for whoever waits for results, too
        let _ = self.machine.synchronize();
        // SAFETY: loaded in `load`, unloaded only here
        let _ = unsafe { result::module::unload(self.handle) };
    }
}

/// What the driver knows a function by.
pub(super) fn handle(function: &Function) -> CUfunction {
    std::ptr::with_exposed_provenance_mut(function.handle)
}

/// Lets a kernel's launches ask for as much shared memory as a block can have beside what the kernel declares.
///
/// # Safety
/// The function is one of a module that is loaded.
unsafe fn allow_shared_memory(machine: &Machine, function: CUfunction) -> Result<()> {
    use CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as MOST;
    use CUfunction_attribute::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as ALLOWED,
        CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as DECLARED,
    };
    // SAFETY: this function's contract
    let declared = unsafe { result::function::get_function_attribute(function, DECLARED) }
        .or_fail(|| "asking for a kernel's shared memory")?;
    let left = machine.attribute(MOST)? - declared;
    // SAFETY: as above
    unsafe { result::function::set_function_attribute(function, ALLOWED, left.max(0)) }
        .or_fail(|| "allowing a kernel shared memory")
}

/// Threads of a kernel's blocks: as many as its launch bounds allow.
///
/// # Safety
/// The function is one of a module that is loaded.
unsafe fn threads(function: CUfunction) -> Result<u32> {
    use CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK as MOST;
    // SAFETY: this function's contract
    unsafe { result::function::get_function_attribute(function, MOST) }
        .map(i32::unsigned_abs)
        .or_fail(|| "asking for the size of a kernel's blocks")
}

/// How many bytes a kernel's only parameter has; 0 where it takes none.
///
/// # Safety
/// The function is one of a module that is loaded.
unsafe fn parameter_bytes(function: CUfunction) -> Result<usize> {
    let (mut offset, mut bytes) = (0, 0);
    // SAFETY: it writes two numbers
    match unsafe { sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut bytes) } {
        CUresult::CUDA_ERROR_INVALID_VALUE => Ok(0),
        status => status
            .result()
            .map(|()| bytes)
            .or_fail(|| "asking for a kernel's parameter"),
    }
}
