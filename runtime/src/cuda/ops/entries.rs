//! Between rows and caches of plain numbers.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{Window, blocks, bytes, len};
use crate::backend::{Place, Strided};
use crate::element::Scalar;
use crate::error::Result;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Scatter {
    x: Window,
    cache: Address,
    slots: Address,
    slot_count: i64,
    stride: i64,
    offset: i64,
    head_stride: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gather {
    cache: Address,
    slots: Address,
    out: Address,
    rows: i64,
    width: i64,
    slot_count: i64,
    stride: i64,
    offset: i64,
    quads: i64,
}

/// What a thread moves at once, in bytes.
const QUAD: usize = 16;
/// Threads of a warp, which has a row.
const WARP: usize = 32;

fn kernel<T: CudaElement, E: Scalar>(entry: &'static str) -> Kernel<'static> {
    Kernel::of::<T>("entries", entry, &[]).reading::<E>()
}

/// Slots as kernels read them: -1 is none.
pub(super) fn signed(slots: &[Option<usize>]) -> Vec<i64> {
    let signed = slots.iter().map(|slot| slot.map_or(-1, |slot| slot as i64));
    signed.collect()
}

/// Slots that a buffer of entries has.
fn slot_count<E>(cache: &CudaBuffer<E>, stride: usize) -> i64 {
    cache.len().checked_div(stride).unwrap_or(0) as i64
}

/// Copies row `i` of `x` to slot `slots[i]`, converted.
pub(super) fn scatter<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    cache: &CudaBuffer<E>,
    slots: &[Option<usize>],
    place: Place,
) -> Result<()> {
    let slots = device.upload(&signed(slots))?;
    let args = Scatter {
        x: x.into(),
        cache: cache.at(),
        slots: slots.at(),
        slot_count: slot_count(cache, place.stride),
        stride: place.stride as i64,
        offset: place.offset as i64,
        head_stride: place.head_stride as i64,
    };
    let work = Work::moving(bytes(x) + len(x) * size_of::<E>());
    device.launch(&kernel::<T, E>("scatter"), blocks(len(x)), work, &args)
}

/// What slots hold, side by side, converted.
pub(super) fn gather<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    cache: &CudaBuffer<E>,
    slots: &[usize],
    place: Place,
    width: usize,
) -> Result<CudaBuffer<T>> {
    let out: CudaBuffer<T> = device.room(slots.len() * width)?;
    let rows = slots.len();
    let slots: Vec<i64> = slots.iter().map(|&slot| slot as i64).collect();
    let slots = device.upload(&slots)?;
    let are_quads = |elements: usize| (elements * size_of::<E>()).is_multiple_of(QUAD);
    let quads = T::NAME == E::NAME
        && [place.stride, place.offset, width]
            .into_iter()
            .all(are_quads)
        && cache.at().is_multiple_of(QUAD as u64);
    let args = Gather {
        cache: cache.at(),
        slots: slots.at(),
        out: out.at(),
        rows: rows as i64,
        width: width as i64,
        slot_count: slot_count(cache, place.stride),
        stride: place.stride as i64,
        offset: place.offset as i64,
        quads: i64::from(quads),
    };
    let work = Work::moving(out.bytes() + out.len() * size_of::<E>());
    device.launch(&kernel::<T, E>("gather"), blocks(rows * WARP), work, &args)?;
    Ok(out)
}
