//! Random values, made where they are wanted.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::blocks;
use crate::error::Result;
use crate::weights::generator::Recipe;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Drawing {
    out: Address,
    len: i64,
    key: u64,
    base: f64,
    amplitude: f64,
}

/// [`Recipe::values`], bit for bit.
pub(super) fn generated<T: CudaElement>(
    device: &CudaDevice,
    recipe: &Recipe,
    name: &str,
    len: usize,
) -> Result<CudaBuffer<T>> {
    let out = device.room(len)?;
    let args = Drawing {
        out: out.at(),
        len: len as i64,
        key: recipe.key(name),
        base: recipe.base,
        amplitude: recipe.amplitude,
    };
    let kernel = Kernel::of::<T>("random", "uniform", &[]);
    device.launch(&kernel, blocks(len), Work::moving(out.bytes()), &args)?;
    Ok(out)
}
