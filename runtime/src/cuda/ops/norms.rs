//! Norms, a block for each row and head, and rotations.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{THREADS, Window, bytes, len};
use crate::backend::{Rotation, Strided};
use crate::error::Result;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Norm {
    x: Window,
    gamma: Address,
    beta: Address,
    y: Address,
    eps: f64,
}

/// RMSNorm, or LayerNorm where there is a `beta`.
pub(super) fn norm<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    gamma: Option<&CudaBuffer<T>>,
    beta: Option<&CudaBuffer<T>>,
    eps: f64,
) -> Result<CudaBuffer<T>> {
    let y: CudaBuffer<T> = device.room(len(x))?;
    if x.width == 0 {
        return Ok(y);
    }
    let dims = [x.width];
    let kernel = Kernel::of::<T>(
        "norm",
        if beta.is_some() {
            "layer_norm"
        } else {
            "rms_norm"
        },
        &dims,
    );
    let args = Norm {
        x: x.into(),
        gamma: gamma.map_or(0, CudaBuffer::at),
        beta: beta.map_or(0, CudaBuffer::at),
        y: y.at(),
        eps,
    };
    let work = Work::moving(bytes(x) + y.bytes());
    device.launch(&kernel, [x.rows * x.heads, 1, 1], work, &args)?;
    Ok(y)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Turning {
    x: Address,
    cos: Address,
    sin: Address,
    lines: i64,
    heads: i64,
    backward: i64,
}

/// Rotates some values of each head of a contiguous `[rows, heads, width]` buffer.
pub(super) fn rotate<T: CudaElement>(
    device: &CudaDevice,
    x: &CudaBuffer<T>,
    heads: usize,
    width: usize,
    rotation: &Rotation<'_, Cuda<T>>,
) -> Result<()> {
    let lines = x.len().checked_div(width).unwrap_or(0);
    if rotation.pairs == 0 || heads == 0 {
        return Ok(());
    }
    let dims = [
        width,
        rotation.start,
        rotation.pairs,
        usize::from(rotation.half_in),
        usize::from(rotation.half_out),
    ];
    let kernel = Kernel::of::<T>("rotate", "rotate", &dims);
    let args = Turning {
        x: x.at(),
        cos: rotation.cos.at(),
        sin: rotation.sin.at(),
        lines: lines as i64,
        heads: heads as i64,
        backward: i64::from(rotation.backward),
    };
    let turned = lines * 2 * rotation.pairs * size_of::<T>();
    let blocks = match lanes_of_line(rotation.pairs) {
        None => lines,
        Some(lanes) => (lines * lanes).div_ceil(THREADS),
    };
    device.launch(&kernel, [blocks, 1, 1], Work::moving(2 * turned), &args)
}

/// Threads that turn a line, as `rotate.cuh` shares a warp's out; `None`: a block does.
fn lanes_of_line(pairs: usize) -> Option<usize> {
    const WARP: usize = 32;
    const PAIRS: usize = 4;
    (pairs.is_multiple_of(PAIRS) && (WARP * PAIRS).is_multiple_of(pairs)).then_some(pairs / PAIRS)
}
