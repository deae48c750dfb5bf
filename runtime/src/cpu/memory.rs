//! The host's memory is the CPU's own: nothing moves.

use super::CpuDevice;
use super::{Cpu, CpuElement};
use crate::backend::HostMemory;
use crate::element::Scalar;
use crate::error::Result;

impl<T: CpuElement> HostMemory<Self> for Cpu<T> {
    type Kept<S: Scalar> = Vec<S>;

    fn put<S: Scalar>(_: &CpuDevice, buffer: Vec<S>) -> Result<Vec<S>> {
        Ok(buffer)
    }

    fn take<S: Scalar>(_: &CpuDevice, kept: Vec<S>) -> Result<Vec<S>> {
        Ok(kept)
    }
}
