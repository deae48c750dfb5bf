//! Caches of codes that kernels of absorbed attention read as they stand.

use bytemuck::Zeroable;

use super::super::super::CudaBuffer;
use super::super::super::CudaDevice;
use super::super::super::driver::{Address, Axis, NumberType, Swizzle, TensorMap, Tiling};
use crate::cache::{Coding, EntryShape};
use crate::error::Result;

/// Bytes that a tile of the copy engine has of a key: codes, a rotated part in codes or in bf16, scales.
const LINE: usize = 128;
const ROPE_LINE: usize = 64;
const SCALES: usize = 16;
/// Values of bf16 of a rotated part that a tile has.
const ROPE_VALUES: usize = 64;

/// The codes, by the numbers that `decode_codes.cuh` knows them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A code for each value, latents and rotated part.
    E4m3 = 1,
    /// The same.
    E5m2 = 2,
    /// e4m3 with a scale for each 128 latents behind them, then the rotated part in bf16.
    DsMla = 3,
}

/// A cache of codes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Codes {
    pub(super) kind: Kind,
    /// Where the first entry stands; entries stand side by side.
    pub(super) at: Address,
    pub(super) shape: EntryShape,
    /// Of all entries.
    pub(super) k_scale: f32,
}

/// What the copy engine is told of a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps {
    pub(super) k: TensorMap,
    pub(super) k_rope: TensorMap,
    pub(super) k_scales: TensorMap,
}

impl Codes {
    /// Those of a cache; `None` where it stores something else.
    pub(in super::super) fn of(
        coding: Coding,
        bytes: &CudaBuffer<u8>,
        shape: EntryShape,
    ) -> Option<Self> {
        let (kind, k_scale) = match coding {
            Coding::FlatE4m3 { k_scale } => (Kind::E4m3, k_scale),
            Coding::FlatE5m2 { k_scale } => (Kind::E5m2, k_scale),
            Coding::DsMla { .. } => (Kind::DsMla, 1.0),
            Coding::Model1 | Coding::Mxfp8 | Coding::IndexFp8 { .. } | Coding::IndexMxfp4 => {
                return None;
            }
        };
        Some(Self {
            kind,
            at: bytes.at(),
            shape,
            k_scale,
        })
    }

    /// Bytes of an entry.
    pub(super) fn entry(&self) -> usize {
        let EntryShape { latent, rope, .. } = self.shape;
        match self.kind {
            Kind::E4m3 | Kind::E5m2 => latent + rope,
            // A layer without a rotated part keeps zeros in its place
            Kind::DsMla => self.rope_at() + 2 * if rope == 0 { ROPE_VALUES } else { rope },
        }
    }

    /// Where in an entry the rotated part begins.
    fn rope_at(&self) -> usize {
        match self.kind {
            Kind::E4m3 | Kind::E5m2 => self.shape.latent,
            Kind::DsMla => self.shape.latent + SCALES,
        }
    }

    /// Where the first entry stands, and its rotated part.
    pub(super) fn parts(&self) -> [Address; 2] {
        [self.at, self.at + self.rope_at() as Address]
    }

    /// Whether the copy engine can read it.
    pub(super) fn aligned(&self) -> bool {
        self.at.is_multiple_of(16) && self.entry().is_multiple_of(16)
    }

    /// `keys` entries at a time, and of their latents `lines` lines of codes.
    pub(super) fn maps(&self, device: &CudaDevice, keys: usize, lines: usize) -> Result<Maps> {
        let EntryShape { latent, rope, .. } = self.shape;
        let part = |offset: usize, number: NumberType, len, tile, swizzle| {
            let columns = Axis {
                len,
                stride: 1,
                tile,
            };
            self.map(device, offset, number, [columns].as_slice(), keys, swizzle)
        };
        let bytes = NumberType::E4m3;
        let is_scaled = self.kind == Kind::DsMla;
        let k_rope = if is_scaled {
            part(
                self.rope_at(),
                NumberType::Bf16,
                rope,
                ROPE_VALUES,
                Swizzle::Rows128,
            )
        } else {
            part(self.rope_at(), bytes, rope, ROPE_LINE, Swizzle::Rows64)
        };
        let of_line = Axis {
            len: LINE,
            stride: 1,
            tile: LINE,
        };
        let of_lines = Axis {
            len: latent / LINE,
            stride: LINE,
            tile: lines,
        };
        let scales = if is_scaled { SCALES } else { 0 };
        Ok(Maps {
            k: self.map(
                device,
                0,
                bytes,
                &[of_line, of_lines],
                keys,
                Swizzle::Rows128,
            )?,
            k_rope: k_rope?,
            k_scales: part(latent, bytes, scales, SCALES, Swizzle::None)?,
        })
    }

    /// A part of entries, from `offset` on: the first of its axes, then entries, of which `keys` are brought at a time, then its others.
    fn map(
        &self,
        device: &CudaDevice,
        offset: usize,
        number: NumberType,
        columns: &[Axis],
        keys: usize,
        swizzle: Swizzle,
    ) -> Result<TensorMap> {
        let entries = Axis {
            len: self.shape.slots(),
            stride: self.entry() / number.bytes(),
            tile: keys,
        };
        let mut axes = columns.to_vec();
        axes.insert(1, entries);
        if axes.iter().any(|axis| axis.len == 0) {
            return Ok(TensorMap::zeroed());
        }
        device.tensor_map(&Tiling {
            at: self.at + offset as Address,
            number,
            axes: &axes,
            swizzle,
        })
    }
}
