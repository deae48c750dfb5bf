//! Caches whose formats are no number types: entries encoded and decoded on the device.

use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::missing;
use crate::backend::Strided;
use crate::cache::{ByteFormat, EntryShape};
use crate::error::Result;

pub(super) fn encode<T: CudaElement, F: ByteFormat>(
    _: &CudaDevice,
    _: &CudaBuffer<u8>,
    _: EntryShape,
    _: &[Option<usize>],
    _: &Strided<'_, Cuda<T>, T>,
    _: &Strided<'_, Cuda<T>, T>,
) -> Result<()> {
    missing(std::any::type_name::<F>())
}

pub(super) fn decode<T: CudaElement, F: ByteFormat>(
    _: &CudaDevice,
    _: &CudaBuffer<u8>,
    _: EntryShape,
    _: &[usize],
) -> Result<[CudaBuffer<T>; 2]> {
    missing(std::any::type_name::<F>())
}
