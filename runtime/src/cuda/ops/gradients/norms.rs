//! Gradients of norms: a kernel for each line's `dx`, and one for the columns' sums over lines.

use bytemuck::{Pod, Zeroable};

use super::super::super::driver::Address;
use super::super::super::kernels::Kernel;
use super::super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::args::{Window, bytes, len};
use super::{Accum, Cut, add_partials};
use crate::backend::{Gamma, Strided};
use crate::error::Result;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormBackward {
    x: Window,
    dy: Window,
    gamma: Address,
    dx: Address,
    means: Address,
    factors: Address,
    eps: f64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormColumns {
    x: Window,
    dy: Window,
    means: Address,
    factors: Address,
    gammas: Address,
    betas: Address,
    lines: i64,
}

/// A norm's operands.
struct Norm<'a, T: CudaElement> {
    x: &'a Strided<'a, Cuda<T>, T>,
    dy: &'a Strided<'a, Cuda<T>, T>,
    gamma: Option<&'a CudaBuffer<T>>,
    eps: f64,
}

/// What was done to each line.
struct Lines<T: CudaElement> {
    means: CudaBuffer<Accum<T>>,
    factors: CudaBuffer<Accum<T>>,
}

impl<T: CudaElement> Norm<'_, T> {
    fn launch<A: Pod>(
        &self,
        device: &CudaDevice,
        entry: &'static str,
        grid: [usize; 3],
        work: Work,
        args: &A,
    ) -> Result<()> {
        let dims = [self.x.width];
        let kernel = Kernel::of::<T>("norm_backward", entry, &dims);
        device.launch(&kernel, grid, work, args)
    }

    /// `dx`, and what else sums over lines need; `None` for those where there is no value.
    fn lines(
        &self,
        device: &CudaDevice,
        entry: &'static str,
    ) -> Result<(CudaBuffer<T>, Option<Lines<T>>)> {
        let dx = device.room(len(self.x))?;
        if dx.is_empty() {
            return Ok((dx, None));
        }
        let count = self.x.rows * self.x.heads;
        let lines = Lines {
            means: device.room(count)?,
            factors: device.room(count)?,
        };
        let args = NormBackward {
            x: self.x.into(),
            dy: self.dy.into(),
            gamma: self.gamma.map_or(0, CudaBuffer::at),
            dx: dx.at(),
            means: lines.means.at(),
            factors: lines.factors.at(),
            eps: self.eps,
        };
        self.launch(
            device,
            entry,
            [count, 1, 1],
            Work::moving(3 * bytes(self.x)),
            &args,
        )?;
        Ok((dx, Some(lines)))
    }

    /// `d_gamma += Σ dy · n` and `d_beta += Σ dy`.
    fn columns(
        &self,
        device: &CudaDevice,
        lines: &Lines<T>,
        d_gamma: &CudaBuffer<Accum<T>>,
        d_beta: Option<&CudaBuffer<Accum<T>>>,
    ) -> Result<()> {
        let width = self.x.width;
        let cut = Cut::of(self.x.rows * self.x.heads);
        let gammas = device.room(cut.partials * width)?;
        let betas = match d_beta {
            Some(into) => Some((device.room(cut.partials * width)?, into)),
            None => None,
        };
        let args = NormColumns {
            x: self.x.into(),
            dy: self.dy.into(),
            means: lines.means.at(),
            factors: lines.factors.at(),
            gammas: gammas.at(),
            betas: betas.as_ref().map_or(0, |(betas, _)| betas.at()),
            lines: cut.lines as i64,
        };
        let work = Work::moving(2 * bytes(self.x));
        self.launch(device, "norm_columns", cut.grid(width), work, &args)?;
        add_partials::<T>(device, &gammas, d_gamma, width)?;
        match betas {
            Some((betas, into)) => add_partials::<T>(device, &betas, into, width),
            None => Ok(()),
        }
    }
}

/// The gradients of an RMSNorm.
pub(super) fn rms_norm_backward<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    dy: &Strided<'_, Cuda<T>, T>,
    gamma: Option<Gamma<'_, Cuda<T>>>,
    eps: f64,
) -> Result<CudaBuffer<T>> {
    let norm = Norm {
        x,
        dy,
        gamma: gamma.as_ref().map(|gamma| gamma.values),
        eps,
    };
    let (dx, lines) = norm.lines(device, "rms_norm_backward")?;
    if let (Some(lines), Some(gamma)) = (&lines, &gamma) {
        norm.columns(device, lines, gamma.gradient, None)?;
    }
    Ok(dx)
}

/// The gradients of a LayerNorm; those of γ and β are added to `parameters`.
pub(super) fn layer_norm_backward<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    dy: &Strided<'_, Cuda<T>, T>,
    gamma: &CudaBuffer<T>,
    eps: f64,
    [d_gamma, d_beta]: [&mut CudaBuffer<Accum<T>>; 2],
) -> Result<CudaBuffer<T>> {
    let norm = Norm {
        x,
        dy,
        gamma: Some(gamma),
        eps,
    };
    let (dx, lines) = norm.lines(device, "layer_norm_backward")?;
    if let Some(lines) = &lines {
        norm.columns(device, lines, d_gamma, Some(d_beta))?;
    }
    Ok(dx)
}
