//! What a device does to parameters, and what waits in the host's memory.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::blocks;
use super::pointwise;
use crate::element::Scalar;
use crate::error::Result;
use crate::offload::HostMemory;
use crate::parameters::ParameterOps;

fn kernel<T: CudaElement>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("parameters", entry, &[])
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Exact {
    from: Address,
    to: Address,
    len: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sum {
    x: Address,
    y: Address,
    len: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RowScaling {
    x: Address,
    factors: Address,
    len: i64,
    width: i64,
}

/// `Squares` and `Finding`: a result for each block.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Reduction {
    x: Address,
    results: Address,
    len: i64,
}

/// What each block makes of the values that its threads come by. How many blocks there are depends on their count alone.
fn reduced<T: CudaElement, R: Pod>(
    device: &CudaDevice,
    entry: &'static str,
    x: &CudaBuffer<Accum<T>>,
) -> Result<Vec<R>> {
    let grid = blocks(x.len());
    let results = device.room::<R>(grid[0])?;
    let args = Reduction {
        x: x.at(),
        results: results.at(),
        len: x.len() as i64,
    };
    device.launch(&kernel::<T>(entry), grid, Work::moving(x.bytes()), &args)?;
    device.download(&results)
}

impl<T: CudaElement> ParameterOps<Self> for Cuda<T> {
    fn widen(
        device: &CudaDevice,
        from: &CudaBuffer<T>,
        to: &mut CudaBuffer<Accum<T>>,
    ) -> Result<()> {
        let args = Exact {
            from: from.at(),
            to: to.at(),
            len: from.len() as i64,
        };
        let work = Work::moving(from.bytes() + to.bytes());
        let kernel = kernel::<T>("widen_parameters");
        device.launch(&kernel, blocks(from.len()), work, &args)
    }

    fn narrow(
        device: &CudaDevice,
        from: &CudaBuffer<Accum<T>>,
        to: &mut CudaBuffer<T>,
    ) -> Result<()> {
        pointwise::narrow_to(device, from, to)
    }

    fn on_host<const N: usize, const M: usize, R>(
        device: &CudaDevice,
        changed: [&mut CudaBuffer<Accum<T>>; N],
        read: [&CudaBuffer<Accum<T>>; M],
        work: impl FnOnce([&mut [Accum<T>]; N], [&[Accum<T>]; M]) -> R,
    ) -> Result<R> {
        let mut of_changed = [const { Vec::new() }; N];
        for (values, buffer) in of_changed.iter_mut().zip(&changed) {
            *values = device.download(buffer)?;
        }
        let mut of_read = [const { Vec::new() }; M];
        for (values, buffer) in of_read.iter_mut().zip(read) {
            *values = device.download(buffer)?;
        }
        let outcome = work(
            of_changed.each_mut().map(Vec::as_mut_slice),
            of_read.each_ref().map(Vec::as_slice),
        );
        for (values, buffer) in of_changed.iter().zip(changed) {
            device.send(buffer.at(), bytemuck::cast_slice(values))?;
        }
        Ok(outcome)
    }

    fn add(
        device: &CudaDevice,
        x: &mut CudaBuffer<Accum<T>>,
        y: &CudaBuffer<Accum<T>>,
    ) -> Result<()> {
        let args = Sum {
            x: x.at(),
            y: y.at(),
            len: x.len() as i64,
        };
        let work = Work::moving(3 * x.bytes());
        let kernel = kernel::<T>("add_parameters");
        device.launch(&kernel, blocks(x.len()), work, &args)
    }

    fn scale_rows(
        device: &CudaDevice,
        x: &mut CudaBuffer<Accum<T>>,
        factors: &CudaBuffer<Accum<T>>,
        width: usize,
    ) -> Result<()> {
        // A row that lacks a factor keeps its values
        let len = x.len().min(factors.len() * width);
        let args = RowScaling {
            x: x.at(),
            factors: factors.at(),
            len: len as i64,
            width: width as i64,
        };
        let work = Work::moving(2 * len * size_of::<Accum<T>>());
        device.launch(&kernel::<T>("scale_rows"), blocks(len), work, &args)
    }

    fn square_norm(device: &CudaDevice, x: &CudaBuffer<Accum<T>>) -> Result<f64> {
        let sums = reduced::<T, f64>(device, "square_sums", x)?;
        Ok(sums.iter().sum())
    }

    fn is_finite(device: &CudaDevice, x: &CudaBuffer<Accum<T>>) -> Result<bool> {
        let found = reduced::<T, i32>(device, "find_not_finite", x)?;
        Ok(found.iter().all(|&found| found == 0))
    }
}

impl<T: CudaElement> HostMemory<Self> for Cuda<T> {
    type Kept<S: Scalar> = Vec<S>;

    fn put<S: Scalar>(device: &CudaDevice, buffer: CudaBuffer<S>) -> Result<Vec<S>> {
        device.download(&buffer)
    }

    fn take<S: Scalar>(device: &CudaDevice, kept: Vec<S>) -> Result<CudaBuffer<S>> {
        device.upload(&kept)
    }
}
