//! Entries of caches, to bytes and back.

use rayon::prelude::*;

use super::{Cpu, CpuElement, part, zeros as zeros_of};
use crate::backend::Strided;
use crate::cache::{ByteFormat, EntryShape};
use crate::element::Scalar;
use crate::error::{Error, Result};

/// `len` zeros, or an error where there is no room for them.
pub(super) fn zeros(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| Error::Device(format!("no room for {len} bytes")))?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Writes one entry per slot.
pub(super) fn encode<T: CpuElement, F: ByteFormat>(
    format: F,
    bytes: &mut [u8],
    shape: EntryShape,
    slots: &[Option<usize>],
    latent: Strided<'_, Cpu<T>, T>,
    rope: Strided<'_, Cpu<T>, T>,
) {
    let layout = F::layout(shape.latent, shape.rope);
    let mut values = vec![0.0; shape.width()];
    let (mut data, mut scales) = (vec![0; layout.data], vec![0; layout.scales]);
    for (row, slot) in slots.iter().enumerate() {
        let Some(slot) = slot else { continue };
        let parts = part(&latent, row, 0).iter().chain(part(&rope, row, 0));
        for (to, from) in values.iter_mut().zip(parts) {
            *to = from.to_f32();
        }
        let (first, last) = values.split_at(shape.latent);
        format.encode(first, last, &mut data, &mut scales);
        let (data_at, scales_at) = layout.place(*slot, shape.page);
        bytes[data_at].copy_from_slice(&data);
        bytes[scales_at].copy_from_slice(&scales);
    }
}

/// Slots that one task decodes.
const SLOTS_PER_TASK: usize = 64;

/// The latents and the rotated parts of `slots`.
pub(super) fn decode<T: CpuElement, F: ByteFormat>(
    format: F,
    bytes: &[u8],
    shape: EntryShape,
    slots: &[usize],
) -> Result<[Vec<T>; 2]> {
    let layout = F::layout(shape.latent, shape.rope);
    let mut latents = zeros_of::<T>(slots.len() * shape.latent)?;
    let mut ropes = zeros_of::<T>(slots.len() * shape.rope)?;
    slots
        .par_chunks(SLOTS_PER_TASK)
        .zip(pieces(&mut latents, shape.latent, slots.len()))
        .zip(pieces(&mut ropes, shape.rope, slots.len()))
        .for_each(|((slots, latents), ropes)| {
            let mut values = vec![0.0; shape.width()];
            for (i, &slot) in slots.iter().enumerate() {
                let (data, scales) = layout.place(slot, shape.page);
                let (first, last) = values.split_at_mut(shape.latent);
                format.decode(&bytes[data], &bytes[scales], first, last);
                store(first, &mut latents[i * shape.latent..][..shape.latent]);
                store(last, &mut ropes[i * shape.rope..][..shape.rope]);
            }
        });
    Ok([latents, ropes])
}

/// The rows of each task, empty ones where rows are.
fn pieces<T>(mut values: &mut [T], width: usize, rows: usize) -> Vec<&mut [T]> {
    let mut pieces = Vec::with_capacity(rows.div_ceil(SLOTS_PER_TASK));
    for first in (0..rows).step_by(SLOTS_PER_TASK) {
        let len = SLOTS_PER_TASK.min(rows - first) * width;
        let (piece, rest) = values.split_at_mut(len);
        pieces.push(piece);
        values = rest;
    }
    pieces
}

fn store<T: Scalar>(from: &[f32], to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::from_f32(from);
    }
}
