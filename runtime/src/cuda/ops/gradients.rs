//! Gradients of norms, gates, activations and biases.

mod norms;

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{THREADS, Window, blocks, bytes, len};
use super::{pointwise, products};
use crate::backend::{Gamma, GateGradients, GradientOps, HeadMatrices, Place, Strided};
use crate::element::Scalar;
use crate::error::Result;

impl<T: CudaElement> GradientOps<Self> for Cuda<T> {
    fn add(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        into: &mut CudaBuffer<T>,
        place: Place,
    ) -> Result<()> {
        pointwise::add_window(device, &x, into, place)
    }

    fn outer_products<S: Scalar>(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, S>,
        into: &mut CudaBuffer<Accum<T>>,
        matrices: HeadMatrices,
    ) -> Result<()> {
        products::outer_products(device, &x, &dy, into, matrices)
    }

    fn column_sums<S: Scalar>(
        device: &CudaDevice,
        x: Strided<'_, Self, S>,
        into: &mut CudaBuffer<Accum<T>>,
    ) -> Result<()> {
        column_sums(device, &x, into)
    }

    fn accum_linear_backward(
        device: &CudaDevice,
        dy: &CudaBuffer<Accum<T>>,
        weight: &CudaBuffer<Accum<T>>,
        sizes: (usize, usize, usize),
    ) -> Result<CudaBuffer<T>> {
        products::accum_linear_backward::<T>(device, dy, weight, sizes)
    }

    fn rms_norm_backward(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, T>,
        gamma: Option<Gamma<'_, Self>>,
        eps: f64,
    ) -> Result<CudaBuffer<T>> {
        norms::rms_norm_backward(device, &x, &dy, gamma, eps)
    }

    fn layer_norm_backward(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, T>,
        gamma: &CudaBuffer<T>,
        eps: f64,
        d_gamma: &mut CudaBuffer<Accum<T>>,
        d_beta: &mut CudaBuffer<Accum<T>>,
    ) -> Result<CudaBuffer<T>> {
        norms::layer_norm_backward(device, &x, &dy, gamma, eps, [d_gamma, d_beta])
    }

    fn gate_backward<S: Scalar>(
        device: &CudaDevice,
        x: &CudaBuffer<T>,
        dy: &CudaBuffer<T>,
        gates: Strided<'_, Self, S>,
    ) -> Result<GateGradients<Self, S>> {
        gate_backward(device, x, dy, &gates)
    }

    fn silu_backward(device: &CudaDevice, x: &CudaBuffer<T>, dy: &mut CudaBuffer<T>) -> Result<()> {
        let args = SiluBackward {
            x: x.at(),
            dy: dy.at(),
            len: x.len() as i64,
        };
        let work = Work::moving(3 * x.bytes());
        let kernel = kernel::<T, T>("silu_backward");
        device.launch(&kernel, blocks(x.len()), work, &args)
    }

    fn dots(
        device: &CudaDevice,
        x: Strided<'_, Self, T>,
        y: Strided<'_, Self, T>,
    ) -> Result<CudaBuffer<Accum<T>>> {
        let lines = x.rows * x.heads;
        let out = device.room(lines)?;
        let args = Dots {
            x: (&x).into(),
            y: (&y).into(),
            out: out.at(),
        };
        let work = Work::moving(bytes(&x) + bytes(&y));
        device.launch(&kernel::<T, T>("dots"), warps(lines), work, &args)?;
        Ok(out)
    }
}

fn kernel<T: CudaElement, S: Scalar>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("gradients", entry, &[]).reading::<S>()
}

/// Blocks for a loop in which a warp does each of so many things.
fn warps(things: usize) -> [usize; 3] {
    const LANES: usize = 32;
    blocks(things * LANES)
}

/// How sums over lines are cut: a function of sizes alone, so that the result is too.
struct Cut {
    /// Lines that share a partial sum.
    lines: usize,
    /// Partial sums of a column.
    partials: usize,
}

impl Cut {
    /// Few enough partial sums that one thread adds a column's, and enough to keep a device busy.
    fn of(lines: usize) -> Self {
        const SHORTEST: usize = 64;
        const MOST_PARTIALS: usize = 512;
        let each = lines.div_ceil(MOST_PARTIALS).max(SHORTEST);
        Self {
            lines: each,
            partials: lines.div_ceil(each),
        }
    }

    /// A block for each partial sum of each run of columns.
    fn grid(&self, columns: usize) -> [usize; 3] {
        [self.partials, columns.div_ceil(THREADS), 1]
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Columns {
    x: Window,
    sums: Address,
    lines: i64,
}

/// `into[i] += Σ_r x[r, i]`.
fn column_sums<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, S>,
    into: &CudaBuffer<Accum<T>>,
) -> Result<()> {
    let cut = Cut::of(x.rows * x.heads);
    let sums = device.room(cut.partials * x.width)?;
    let args = Columns {
        x: x.into(),
        sums: sums.at(),
        lines: cut.lines as i64,
    };
    let kernel = kernel::<T, S>("partial_column_sums");
    device.launch(&kernel, cut.grid(x.width), Work::moving(bytes(x)), &args)?;
    add_partials::<T>(device, &sums, into, x.width)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Partials {
    partials: Address,
    into: Address,
    count: i64,
    width: i64,
}

/// `into += Σ partials`, the first one first; each has `width` values.
fn add_partials<T: CudaElement>(
    device: &CudaDevice,
    partials: &CudaBuffer<Accum<T>>,
    into: &CudaBuffer<Accum<T>>,
    width: usize,
) -> Result<()> {
    if partials.is_empty() {
        return Ok(());
    }
    let args = Partials {
        partials: partials.at(),
        into: into.at(),
        count: (partials.len() / width) as i64,
        width: width as i64,
    };
    let work = Work::moving(partials.bytes() + 2 * width * size_of::<Accum<T>>());
    device.launch(&kernel::<T, T>("add_partials"), blocks(width), work, &args)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateBackward {
    x: Address,
    dy: Address,
    gates: Window,
    dx: Address,
    d_gates: Address,
    shared: i64,
}

/// The gradients of `y[i] = x[i] · σ(gates[i / n])`.
fn gate_backward<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &CudaBuffer<T>,
    dy: &CudaBuffer<T>,
    gates: &Strided<'_, Cuda<T>, S>,
) -> Result<GateGradients<Cuda<T>, S>> {
    let count = len(gates);
    let shared = x.len().checked_div(count).unwrap_or(0);
    if shared == 0 {
        return Ok(GateGradients {
            x: device.zeros(x.len())?,
            gates: device.zeros(count)?,
        });
    }
    let gradients = GateGradients::<Cuda<T>, S> {
        x: device.room(x.len())?,
        gates: device.room(count)?,
    };
    let args = GateBackward {
        x: x.at(),
        dy: dy.at(),
        gates: gates.into(),
        dx: gradients.x.at(),
        d_gates: gradients.gates.at(),
        shared: shared as i64,
    };
    let (entry, grid) = if shared == 1 {
        ("gate_backward", blocks(count))
    } else {
        ("shared_gate_backward", warps(count))
    };
    let work = Work::moving(3 * x.bytes() + 2 * bytes(gates));
    device.launch(&kernel::<T, S>(entry), grid, work, &args)?;
    Ok(gradients)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SiluBackward {
    x: Address,
    dy: Address,
    len: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Dots {
    x: Window,
    y: Window,
    out: Address,
}
