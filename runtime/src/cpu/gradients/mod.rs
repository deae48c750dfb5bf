//! Kernels of the backward pass, compiled in this crate once per number type, as [`compiled`](super::compiled) says.

mod elementwise;
mod norm;
mod products;
mod sums;
mod window;

use half::bf16;

use super::{Cpu, CpuDevice, CpuElement, rounded, same_vec};
use crate::backend::{GradientOps, HeadMatrices, Place, Strided};
use crate::element::{Element, Scalar};
use crate::error::{Error, Result};

pub(super) use window::Window;

impl<T: CpuElement> GradientOps<Self> for Cpu<T> {
    fn add(_: &CpuDevice, x: Strided<'_, Self, T>, into: &mut Vec<T>, place: Place) -> Result<()> {
        T::add_window(x.into(), into, place);
        Ok(())
    }

    fn outer_products<S: Scalar>(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, S>,
        into: &mut Vec<T::Accum>,
        matrices: HeadMatrices,
    ) -> Result<()> {
        let (x, dy) = (x.into(), Window::from(dy));
        if let Some(dy) = dy.over() {
            T::outer_products(x, dy, into, matrices);
        } else {
            T::accum_outer_products(x, accumulators(dy)?, into, matrices);
        }
        Ok(())
    }

    fn column_sums<S: Scalar>(
        _: &CpuDevice,
        x: Strided<'_, Self, S>,
        into: &mut Vec<T::Accum>,
    ) -> Result<()> {
        let x = Window::from(x);
        if let Some(x) = x.over() {
            T::column_sums(x, into);
        } else {
            T::accum_column_sums(accumulators(x)?, into);
        }
        Ok(())
    }

    fn accum_linear_backward(
        _: &CpuDevice,
        dy: &Vec<T::Accum>,
        weight: &Vec<T::Accum>,
        sizes: (usize, usize, usize),
    ) -> Result<Vec<T>> {
        T::accum_linear_backward(dy, weight, sizes)
    }

    fn rms_norm_backward(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, T>,
        weight: Option<(&Vec<T>, &mut Vec<T::Accum>)>,
        eps: f64,
    ) -> Result<Vec<T>> {
        let (gamma, d_gamma) = weight.unzip();
        let gamma = gamma.map(Vec::as_slice);
        let d_gamma = d_gamma.map(Vec::as_mut_slice);
        T::norm_backward(x.into(), dy.into(), gamma, eps, d_gamma, None)
    }

    fn layer_norm_backward(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        dy: Strided<'_, Self, T>,
        gamma: &Vec<T>,
        eps: f64,
        d_gamma: &mut Vec<T::Accum>,
        d_beta: &mut Vec<T::Accum>,
    ) -> Result<Vec<T>> {
        let (d_gamma, d_beta) = (Some(d_gamma.as_mut_slice()), Some(d_beta.as_mut_slice()));
        T::norm_backward(x.into(), dy.into(), Some(gamma), eps, d_gamma, d_beta)
    }

    fn gate_backward<S: Scalar>(
        _: &CpuDevice,
        x: &Vec<T>,
        dy: &Vec<T>,
        gates: Strided<'_, Self, S>,
    ) -> Result<(Vec<T>, Vec<S>)> {
        let gates = Window::from(gates);
        let (dx, d_gates) = if let Some(gates) = gates.over() {
            let (dx, d_gates) = T::gate_backward(x, dy, gates)?;
            (dx, same_vec(d_gates).ok())
        } else {
            let (dx, d_gates) = T::accum_gate_backward(x, dy, accumulators(gates)?)?;
            (dx, same_vec(d_gates).ok())
        };
        Ok((dx, d_gates.ok_or_else(wrong_type::<S>)?))
    }

    fn silu_backward(_: &CpuDevice, x: &Vec<T>, dy: &mut Vec<T>) -> Result<()> {
        T::silu_backward(x, dy);
        Ok(())
    }

    fn dots(
        _: &CpuDevice,
        x: Strided<'_, Self, T>,
        y: Strided<'_, Self, T>,
    ) -> Result<Vec<T::Accum>> {
        Ok(T::dots(x.into(), y.into()))
    }
}

/// A window that is over accumulators if it is not over elements.
fn accumulators<S: Scalar, A: Scalar>(x: Window<'_, S>) -> Result<Window<'_, A>> {
    x.over().ok_or_else(wrong_type::<S>)
}

fn wrong_type<S: Scalar>() -> Error {
    Error::Device(format!("no gradients of type {} here", S::NAME))
}

/// The kernels of a number type. The functions are [`GradientOps`]'s.
pub trait CpuGradients: Element {
    #[doc(hidden)]
    fn add_window(x: Window<'_, Self>, into: &mut [Self], place: Place);

    #[doc(hidden)]
    fn outer_products(
        x: Window<'_, Self>,
        dy: Window<'_, Self>,
        into: &mut [Self::Accum],
        matrices: HeadMatrices,
    );

    #[doc(hidden)]
    fn accum_outer_products(
        x: Window<'_, Self>,
        dy: Window<'_, Self::Accum>,
        into: &mut [Self::Accum],
        matrices: HeadMatrices,
    );

    #[doc(hidden)]
    fn column_sums(x: Window<'_, Self>, into: &mut [Self::Accum]);

    #[doc(hidden)]
    fn accum_column_sums(x: Window<'_, Self::Accum>, into: &mut [Self::Accum]);

    #[doc(hidden)]
    fn accum_linear_backward(
        dy: &[Self::Accum],
        weight: &[Self::Accum],
        sizes: (usize, usize, usize),
    ) -> Result<Vec<Self>>;

    #[doc(hidden)]
    fn norm_backward(
        x: Window<'_, Self>,
        dy: Window<'_, Self>,
        gamma: Option<&[Self]>,
        eps: f64,
        d_gamma: Option<&mut [Self::Accum]>,
        d_beta: Option<&mut [Self::Accum]>,
    ) -> Result<Vec<Self>>;

    #[doc(hidden)]
    fn gate_backward(
        x: &[Self],
        dy: &[Self],
        gates: Window<'_, Self>,
    ) -> Result<(Vec<Self>, Vec<Self>)>;

    #[doc(hidden)]
    fn accum_gate_backward(
        x: &[Self],
        dy: &[Self],
        gates: Window<'_, Self::Accum>,
    ) -> Result<(Vec<Self>, Vec<Self::Accum>)>;

    #[doc(hidden)]
    fn silu_backward(x: &[Self], dy: &mut [Self]);

    #[doc(hidden)]
    fn dots(x: Window<'_, Self>, y: Window<'_, Self>) -> Vec<Self::Accum>;
}

macro_rules! compiled {
    ($($type:ty),*) => {$(
        impl CpuGradients for $type {
            fn add_window(x: Window<'_, Self>, into: &mut [Self], place: Place) {
                elementwise::add(x, into, place);
            }

            fn outer_products(
                x: Window<'_, Self>,
                dy: Window<'_, Self>,
                into: &mut [Self::Accum],
                matrices: HeadMatrices,
            ) {
                products::outer_products(x, dy, into, matrices);
            }

            fn accum_outer_products(
                x: Window<'_, Self>,
                dy: Window<'_, Self::Accum>,
                into: &mut [Self::Accum],
                matrices: HeadMatrices,
            ) {
                products::outer_products(x, dy, into, matrices);
            }

            fn column_sums(x: Window<'_, Self>, into: &mut [Self::Accum]) {
                sums::column_sums(x, into);
            }

            fn accum_column_sums(x: Window<'_, Self::Accum>, into: &mut [Self::Accum]) {
                sums::column_sums(x, into);
            }

            fn accum_linear_backward(
                dy: &[Self::Accum],
                weight: &[Self::Accum],
                sizes: (usize, usize, usize),
            ) -> Result<Vec<Self>> {
                Ok(rounded(products::by_rows(dy, weight, sizes)?))
            }

            fn norm_backward(
                x: Window<'_, Self>,
                dy: Window<'_, Self>,
                gamma: Option<&[Self]>,
                eps: f64,
                d_gamma: Option<&mut [Self::Accum]>,
                d_beta: Option<&mut [Self::Accum]>,
            ) -> Result<Vec<Self>> {
                norm::norm(x, dy, gamma, eps, d_gamma, d_beta)
            }

            fn gate_backward(
                x: &[Self],
                dy: &[Self],
                gates: Window<'_, Self>,
            ) -> Result<(Vec<Self>, Vec<Self>)> {
                elementwise::gate(x, dy, gates)
            }

            fn accum_gate_backward(
                x: &[Self],
                dy: &[Self],
                gates: Window<'_, Self::Accum>,
            ) -> Result<(Vec<Self>, Vec<Self::Accum>)> {
                elementwise::gate(x, dy, gates)
            }

            fn silu_backward(x: &[Self], dy: &mut [Self]) {
                elementwise::silu(x, dy);
            }

            fn dots(x: Window<'_, Self>, y: Window<'_, Self>) -> Vec<Self::Accum> {
                sums::dots(x, y)
            }
        }
    )*};
}

compiled!(f32, f64, bf16);
