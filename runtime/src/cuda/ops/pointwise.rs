//! Loops over single values, and copies.

use bytemuck::{Pod, Zeroable};

use super::super::driver::{Address, Command};
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{Window, blocks, bytes, len};
use crate::backend::{Chosen, Place, Strided};
use crate::element::Scalar;
use crate::error::Result;

fn kernel<T: CudaElement>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("pointwise", entry, &[])
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Copying {
    x: Window,
    out: Address,
}

/// A contiguous copy of a window.
pub(super) fn copy<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, S>,
) -> Result<CudaBuffer<S>> {
    let out: CudaBuffer<S> = device.room(len(x))?;
    let lines_touch = x.heads == 1 || x.head_stride == x.width;
    if lines_touch && (x.rows <= 1 || x.row_stride == x.heads * x.width) {
        if !out.is_empty() {
            device.queue(Command::Copy {
                from: x.buffer.place(x.offset),
                to: out.at(),
                bytes: out.bytes(),
            })?;
        }
        return Ok(out);
    }
    let kernel = Kernel::of::<T>("copy", "copy", &[]).reading::<S>();
    let args = Copying {
        x: x.into(),
        out: out.at(),
    };
    let work = Work::moving(2 * out.bytes());
    device.launch(&kernel, blocks(len(x)), work, &args)?;
    Ok(out)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Side {
    left: Window,
    right: Window,
    out: Address,
}

/// The rows of two windows side by side.
pub(super) fn concat<T: CudaElement>(
    device: &CudaDevice,
    left: &Strided<'_, Cuda<T>, T>,
    right: &Strided<'_, Cuda<T>, T>,
) -> Result<CudaBuffer<T>> {
    let values = left.rows * (left.width + right.width);
    let out: CudaBuffer<T> = device.room(values)?;
    let args = Side {
        left: left.into(),
        right: right.into(),
        out: out.at(),
    };
    let work = Work::moving(2 * out.bytes());
    device.launch(&kernel::<T>("concat"), blocks(values), work, &args)?;
    Ok(out)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Widening {
    x: Window,
    out: Address,
}

/// The values of a window in the accumulation type.
pub(super) fn widened<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
) -> Result<CudaBuffer<Accum<T>>> {
    let out: CudaBuffer<Accum<T>> = device.room(len(x))?;
    let args = Widening {
        x: x.into(),
        out: out.at(),
    };
    let work = Work::moving(bytes(x) + out.bytes());
    device.launch(&kernel::<T>("widened"), blocks(len(x)), work, &args)?;
    Ok(out)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Rounding {
    x: Address,
    out: Address,
    len: i64,
}

/// Accumulators rounded to elements.
pub(super) fn narrowed<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<Accum<T>>,
) -> Result<CudaBuffer<T>> {
    let out = device.room(x.len())?;
    narrow_to::<T>(device, x, &out)?;
    Ok(out)
}

/// Accumulators rounded to elements that there are.
pub(crate) fn narrow_to<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<Accum<T>>,
    out: &CudaBuffer<T>,
) -> Result<()> {
    let args = Rounding {
        x: x.at(),
        out: out.at(),
        len: x.len() as i64,
    };
    let work = Work::moving(x.bytes() + out.bytes());
    device.launch(&kernel::<T>("narrowed"), blocks(x.len()), work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Placing {
    x: Address,
    out: Window,
}

/// Accumulators rounded to where a window has them.
pub(super) fn place<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<Accum<T>>,
    out: &Strided<'_, Cuda<T>, T>,
) -> Result<()> {
    let args = Placing {
        x: x.at(),
        out: out.into(),
    };
    let work = Work::moving(x.bytes() + bytes(out));
    device.launch(&kernel::<T>("placed"), blocks(len(out)), work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Scaling {
    x: Address,
    len: i64,
    by: f64,
}

fn changed<T: CudaElement, S>(
    device: &CudaDevice,
    entry: &'static str,
    x: &CudaBuffer<S>,
    by: f64,
) -> Result<()> {
    let args = Scaling {
        x: x.at(),
        len: x.len() as i64,
        by,
    };
    let work = Work::moving(2 * x.bytes());
    device.launch(&kernel::<T>(entry), blocks(x.len()), work, &args)
}

/// `x ← x · by`.
pub(super) fn scale<T: CudaElement>(device: &CudaDevice, x: &CudaBuffer<T>, by: f64) -> Result<()> {
    changed::<T, T>(device, "scale", x, by)
}

/// `x ← x · by`, of accumulators.
pub(super) fn scale_accum<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<Accum<T>>,
    by: f64,
) -> Result<()> {
    changed::<T, Accum<T>>(device, "scale_accum", x, by)
}

/// `x ← x · σ(x)`.
pub(super) fn silu<T: CudaElement>(device: &CudaDevice, x: &CudaBuffer<T>) -> Result<()> {
    changed::<T, T>(device, "silu", x, 1.0)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Parts {
    x: Address,
    factors: Address,
    len: i64,
    width: i64,
}

/// `x[i] ← x[i] · f(factors[i / width])`, `f` what `entry` says.
pub(super) fn parts<T: CudaElement>(
    device: &CudaDevice,
    entry: &'static str,
    x: &CudaBuffer<T>,
    factors: &CudaBuffer<Accum<T>>,
    width: usize,
) -> Result<()> {
    let args = Parts {
        x: x.at(),
        factors: factors.at(),
        len: x.len() as i64,
        width: width as i64,
    };
    let work = Work::moving(2 * x.bytes() + factors.bytes());
    device.launch(&kernel::<T>(entry), blocks(x.len()), work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gating {
    x: Address,
    gates: Window,
}

/// `x[i] ← x[i] · σ(gates[i])`.
pub(super) fn gate<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<T>,
    gates: &Strided<'_, Cuda<T>, T>,
) -> Result<()> {
    let args = Gating {
        x: x.at(),
        gates: gates.into(),
    };
    let work = Work::moving(2 * x.bytes() + bytes(gates));
    device.launch(&kernel::<T>("gate"), blocks(len(gates)), work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Adding {
    x: Window,
    into: Address,
    stride: i64,
    offset: i64,
    head_stride: i64,
}

/// `into[row · stride + offset + head · head_stride ..] += x[row, head, :]`.
pub(super) fn add_window<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    into: &CudaBuffer<T>,
    place: Place,
) -> Result<()> {
    let args = Adding {
        x: x.into(),
        into: into.at(),
        stride: place.stride as i64,
        offset: place.offset as i64,
        head_stride: place.head_stride as i64,
    };
    let work = Work::moving(3 * bytes(x));
    device.launch(&kernel::<T>("add_window"), blocks(len(x)), work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Splitting {
    x: Address,
    out: Address,
    len: i64,
}

/// Accumulators as sums of three elements each, `[3, len]`: in bf16 nothing is lost of finite numbers that it has room for.
pub(super) fn split_in_three<T: CudaElement>(
    device: &CudaDevice,
    x: Address,
    len: usize,
) -> Result<CudaBuffer<T>> {
    let out: CudaBuffer<T> = device.room(3 * len)?;
    let args = Splitting {
        x,
        out: out.at(),
        len: len as i64,
    };
    let work = Work::moving(len * size_of::<Accum<T>>() + out.bytes());
    device.launch(&kernel::<T>("split_in_three"), blocks(len), work, &args)?;
    Ok(out)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Joining {
    x: Address,
    out: Address,
    rows: i64,
    width: i64,
}

/// What came of three parts, `[rows, 3, width]`, added to where it is wanted.
pub(super) fn join_three<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<Accum<T>>,
    out: Address,
    [rows, width]: [usize; 2],
) -> Result<()> {
    let args = Joining {
        x: x.at(),
        out,
        rows: rows as i64,
        width: width as i64,
    };
    let work = Work::moving(x.bytes() / 3 * 4);
    device.launch(
        &kernel::<T>("join_three"),
        blocks(rows * width),
        work,
        &args,
    )
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ending {
    lists: Address,
    counts: Address,
    out: Address,
    queries: i64,
    width: i64,
}

/// Lists of chosen keys that end behind the entries that count, of each so many.
pub(super) fn end_lists<T: CudaElement>(
    device: &CudaDevice,
    chosen: Chosen<'_, Cuda<T>>,
    counts: &CudaBuffer<i32>,
) -> Result<CudaBuffer<i32>> {
    let entries = counts.len() * chosen.width;
    let out: CudaBuffer<i32> = device.room(entries)?;
    let args = Ending {
        lists: chosen.indices.at(),
        counts: counts.at(),
        out: out.at(),
        queries: counts.len() as i64,
        width: chosen.width as i64,
    };
    let work = Work::moving(2 * out.bytes());
    device.launch(&kernel::<T>("end_lists"), blocks(entries), work, &args)?;
    Ok(out)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Transform {
    x: Address,
}

/// `x ← H x / sqrt(width)` for each run of `width` values.
pub(super) fn hadamard<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<T>,
    width: usize,
) -> Result<()> {
    let dims = [width];
    let kernel = Kernel::of::<T>("hadamard", "hadamard", &dims);
    let runs = x.len().checked_div(width).unwrap_or(0);
    let work = Work::moving(2 * x.bytes());
    device.launch(&kernel, [runs, 1, 1], work, &Transform { x: x.at() })
}
