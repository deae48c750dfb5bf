//! Looking at intermediate values. Ordinary generated code has no probes; code emitted for `run` and `verify` has.

use crate::attended::{Attended, PerHead};
use crate::backend::Backend;
use crate::element::Scalar;
use crate::error::Result;
use crate::heads::{Heads, HeadsView};
use crate::indexer::Scores;
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::{Rows, RowsView};
use crate::selection::Selection;
use crate::tensor::Tensor;

/// Receives intermediate values.
pub trait Probe {
    /// Takes a tensor: its name in the plan, its shape, its values row-major.
    fn record(&mut self, name: &'static str, shape: &[usize], values: Vec<f64>);

    /// Whether values are wanted at all; where not, none are copied.
    fn is_recording(&self) -> bool {
        true
    }
}

/// Records nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    fn record(&mut self, _name: &'static str, _shape: &[usize], _values: Vec<f64>) {}

    fn is_recording(&self) -> bool {
        false
    }
}

/// A tensor that can be recorded.
pub trait Probed {
    /// Its shape.
    fn shape(&self) -> Vec<usize>;
    /// Its values, row-major.
    ///
    /// # Errors
    /// When the device refuses the copy.
    fn values(&self) -> Result<Vec<f64>>;
}

/// Hands a tensor to a probe.
///
/// # Errors
/// When the device refuses the copy.
pub fn record(probe: &mut dyn Probe, name: &'static str, value: &impl Probed) -> Result<()> {
    if probe.is_recording() {
        probe.record(name, &value.shape(), value.values()?);
    }
    Ok(())
}

fn widened<S: Scalar>(values: Vec<S>) -> Vec<f64> {
    values.into_iter().map(Scalar::to_f64).collect()
}

macro_rules! probed {
    ([$($generics:tt)*] $type:ty, |$value:ident| $shape:expr) => {
        impl<$($generics)*> Probed for $type {
            fn shape(&self) -> Vec<usize> {
                let $value = self;
                $shape
            }
            fn values(&self) -> Result<Vec<f64>> {
                Ok(widened(self.to_vec()?))
            }
        }
    };
}

probed!([B: Backend, const W: usize] Rows<B, W>, |x| vec![x.rows(), W]);
probed!([B: Backend, const W: usize] RowsView<'_, B, W>, |x| vec![x.rows(), W]);
probed!([B: Backend, const H: usize, const D: usize] Heads<B, H, D>, |x| vec![x.rows(), H, D]);
probed!([B: Backend, const H: usize, const D: usize] HeadsView<'_, B, H, D>, |x| vec![x.rows(), H, D]);
probed!([B: Backend, const H: usize, const D: usize] Attended<B, H, D>, |x| vec![x.rows(), H, D]);
probed!([B: Backend, const H: usize] PerHead<B, H>, |x| vec![x.rows(), H]);
probed!([B: Backend, L: RopeLayout, const R: usize] RopeKey<B, L, R>, |x| vec![x.rows(), R]);
probed!([B: Backend] Scores<B>, |x| vec![x.rows(), x.width()]);
probed!([B: Backend] Tensor<B>, |x| vec![x.rows(), x.width()]);

/// Positions, -1 where there is none.
impl<B: Backend, const K: usize> Probed for Selection<B, K> {
    fn shape(&self) -> Vec<usize> {
        vec![self.rows(), K]
    }

    fn values(&self) -> Result<Vec<f64>> {
        Ok(self.to_vec()?.into_iter().map(f64::from).collect())
    }
}
