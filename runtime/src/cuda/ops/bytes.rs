//! Caches whose formats are no number types: entries encoded and decoded on the device.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::Window;
use super::entries::signed;
use crate::backend::Strided;
use crate::cache::{ByteFormat, ByteLayout, Coding, EntryShape};
use crate::error::Result;

/// `Places` of `coding.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Places {
    slots: Address,
    slot_count: i64,
    page: i64,
    block_bytes: i64,
    data: i64,
    scales: i64,
}

impl Places {
    /// Where the bytes of some slots stand.
    pub(super) fn new(slots: &CudaBuffer<i64>, shape: EntryShape, layout: ByteLayout) -> Self {
        Self {
            slots: slots.at(),
            slot_count: shape.slots() as i64,
            page: shape.page as i64,
            block_bytes: layout.block_bytes(shape.page) as i64,
            data: layout.data as i64,
            scales: layout.scales as i64,
        }
    }

    /// Where entries of numbers stand, `bytes` each.
    pub(super) fn of_numbers(slots: &CudaBuffer<i64>, shape: EntryShape, bytes: usize) -> Self {
        Self {
            slots: slots.at(),
            slot_count: shape.slots() as i64,
            page: 1,
            block_bytes: bytes as i64,
            data: bytes as i64,
            scales: 0,
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Encode {
    latent: Window,
    rope: Window,
    places: Places,
    bytes: Address,
    scale: f64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Decode {
    places: Places,
    bytes: Address,
    latent: Address,
    rope: Address,
    rows: i64,
    scale: f64,
}

/// The kernels of a format, for entries of some widths.
struct Kernels {
    unit: &'static str,
    encode: &'static str,
    decode: &'static str,
    dims: Vec<usize>,
    /// The scale of a format that has one for the whole cache.
    scale: f64,
}

impl Kernels {
    fn of(coding: Coding, shape: EntryShape) -> Self {
        let both = vec![shape.latent, shape.rope];
        let flat = |encode, decode, k_scale| Self {
            unit: "fp8_flat",
            encode,
            decode,
            dims: both.clone(),
            scale: f64::from(k_scale),
        };
        let scaled = |unit, encode, decode, dims| Self {
            unit,
            encode,
            decode,
            dims,
            scale: 1.0,
        };
        match coding {
            Coding::FlatE4m3 { k_scale } => flat("encode_fp8_e4m3", "decode_fp8_e4m3", k_scale),
            Coding::FlatE5m2 { k_scale } => flat("encode_fp8_e5m2", "decode_fp8_e5m2", k_scale),
            Coding::DsMla { power_of_two } => scaled(
                "fp8_ds_mla",
                "encode_fp8_ds_mla",
                "decode_fp8_ds_mla",
                vec![shape.latent, shape.rope, usize::from(power_of_two)],
            ),
            Coding::Model1 => scaled("fp8_model1", "encode_fp8_model1", "decode_fp8_model1", both),
            Coding::Mxfp8 => scaled("mxfp8", "encode_mxfp8", "decode_mxfp8", both),
            Coding::IndexFp8 { power_of_two } => scaled(
                "index_fp8",
                "encode_index_fp8",
                "decode_index_fp8",
                vec![shape.latent, usize::from(power_of_two)],
            ),
            Coding::IndexMxfp4 => scaled(
                "index_mxfp4",
                "encode_index_mxfp4",
                "decode_index_mxfp4",
                vec![shape.latent],
            ),
        }
    }

    fn launch<T: CudaElement, A: Pod>(
        &self,
        device: &CudaDevice,
        entry: &'static str,
        rows: usize,
        work: Work,
        args: &A,
    ) -> Result<()> {
        let kernel = Kernel::of::<T>(self.unit, entry, &self.dims);
        device.launch(&kernel, [rows, 1, 1], work, args)
    }
}

/// Entries as values on one side, as bytes on the other.
fn moved<T: CudaElement, F: ByteFormat>(rows: usize, shape: EntryShape) -> Work {
    let stored = F::layout(shape.latent, shape.rope).block_bytes(shape.page) / shape.page.max(1);
    Work::moving(rows * (shape.width() * size_of::<T>() + stored))
}

/// Writes one entry per slot.
pub(super) fn encode<T: CudaElement, F: ByteFormat>(
    device: &CudaDevice,
    format: F,
    bytes: &CudaBuffer<u8>,
    shape: EntryShape,
    slots: &[Option<usize>],
    [latent, rope]: [&Strided<'_, Cuda<T>, T>; 2],
) -> Result<()> {
    let rows = slots.len();
    let slots = device.upload(&signed(slots))?;
    let kernels = Kernels::of(format.coding(), shape);
    let args = Encode {
        latent: latent.into(),
        rope: rope.into(),
        places: Places::new(&slots, shape, F::layout(shape.latent, shape.rope)),
        bytes: bytes.at(),
        scale: kernels.scale,
    };
    let work = moved::<T, F>(rows, shape);
    kernels.launch::<T, _>(device, kernels.encode, rows, work, &args)
}

/// Whether the device has the kernels of a format, for entries of these widths.
pub(super) fn has_kernels(device: &CudaDevice, coding: Coding, shape: EntryShape) -> bool {
    let Kernels { unit, dims, .. } = Kernels::of(coding, shape);
    device.shared.kernels.has(unit, &dims)
}

/// The latents and the rotated parts of `slots`.
pub(super) fn decode<T: CudaElement, F: ByteFormat>(
    device: &CudaDevice,
    format: F,
    bytes: &CudaBuffer<u8>,
    shape: EntryShape,
    slots: &[usize],
) -> Result<[CudaBuffer<T>; 2]> {
    let latent = device.room(slots.len() * shape.latent)?;
    let rope = device.room(slots.len() * shape.rope)?;
    decode_to(device, format, bytes, shape, slots, [&latent, &rope])?;
    Ok([latent, rope])
}

/// The same, to where they are wanted.
pub(super) fn decode_to<T: CudaElement, F: ByteFormat>(
    device: &CudaDevice,
    format: F,
    bytes: &CudaBuffer<u8>,
    shape: EntryShape,
    slots: &[usize],
    [latent, rope]: [&CudaBuffer<T>; 2],
) -> Result<()> {
    let rows = slots.len();
    let slots: Vec<i64> = slots.iter().map(|&slot| slot as i64).collect();
    let slots = device.upload(&slots)?;
    let kernels = Kernels::of(format.coding(), shape);
    let args = Decode {
        places: Places::new(&slots, shape, F::layout(shape.latent, shape.rope)),
        bytes: bytes.at(),
        latent: latent.at(),
        rope: rope.at(),
        rows: rows as i64,
        scale: kernels.scale,
    };
    let work = moved::<T, F>(rows, shape);
    kernels.launch::<T, _>(device, kernels.decode, rows, work, &args)
}
