//! Latents with a scale for each run of neighbours: J-03, J-04, J-05.

use std::marker::PhantomData;

use super::{
    AnyScale, ScaleKind, decode_bf16, decode_e4m3, encode_bf16, encode_e4m3, largest, power_scale,
};
use crate::cache::bytes::{ByteFormat, ByteLayout, Coding, byte_format};
use crate::narrow::{E4m3, E8m0};

/// `fp8_ds_mla` of FlashMLA and vLLM (J-03). Per token: `C` bytes e4m3, `C / 128` f32 scales, `R` bf16 of rotated part, not
/// quantised. A layer without a rotated part keeps 64 zeros in its place: 656 bytes for `C` = 512 either way.
///
/// A scale is `max(amax / 448, 2⁻¹²⁶)`, or with [`PowerOfTwo`](super::PowerOfTwo), as DeepSeek's own writer has it,
/// `2^ceil(log2(max(amax / 448, 10⁻⁴)))`. Readers multiply by whatever stands there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fp8DsMla<S = AnyScale>(PhantomData<S>);

/// Values per scale of [`Fp8DsMla`].
const DS_MLA_GROUP: usize = 128;
/// Rotated values that stand in an entry of a layer that has none.
const DS_MLA_ROPE: usize = 64;

byte_format!(impl<S> Fp8DsMla<S>, if S::POWER_OF_TWO { "fp8_ds_mla_ue8m0" } else { "fp8_ds_mla" }, Latent, latent 128, rope 1);

impl<S: ScaleKind> ByteFormat for Fp8DsMla<S> {
    fn layout(latent: usize, rope: usize) -> ByteLayout {
        let rope = if rope == 0 { DS_MLA_ROPE } else { rope };
        ByteLayout::beside(latent + latent / DS_MLA_GROUP * 4 + 2 * rope)
    }

    fn encode(self, latent: &[f32], rope: &[f32], data: &mut [u8], _: &mut [u8]) {
        encode_ds_mla(latent, rope, data, S::POWER_OF_TWO);
    }

    fn decode(self, data: &[u8], _: &[u8], latent: &mut [f32], rope: &mut [f32]) {
        decode_ds_mla(data, latent, rope);
    }

    fn coding(self) -> Coding {
        Coding::DsMla {
            power_of_two: S::POWER_OF_TWO,
        }
    }
}

fn encode_ds_mla(latent: &[f32], rope: &[f32], data: &mut [u8], power_of_two: bool) {
    let (codes, rest) = data.split_at_mut(latent.len());
    let (scales, tail) = rest.split_at_mut(latent.len() / DS_MLA_GROUP * 4);
    let groups = latent
        .chunks(DS_MLA_GROUP)
        .zip(codes.chunks_mut(DS_MLA_GROUP));
    for ((values, codes), scale_bytes) in groups.zip(scales.as_chunks_mut::<4>().0) {
        let scale = if power_of_two {
            power_scale(values).decode()
        } else {
            (largest(values) / E4m3::MAX).max(f32::MIN_POSITIVE)
        };
        encode_e4m3(values, scale, codes);
        *scale_bytes = scale.to_le_bytes();
    }
    tail.fill(0);
    encode_bf16(rope, tail);
}

fn decode_ds_mla(data: &[u8], latent: &mut [f32], rope: &mut [f32]) {
    let (codes, rest) = data.split_at(latent.len());
    let (scales, tail) = rest.split_at(latent.len() / DS_MLA_GROUP * 4);
    let groups = latent
        .chunks_mut(DS_MLA_GROUP)
        .zip(codes.chunks(DS_MLA_GROUP));
    for ((values, codes), scale) in groups.zip(scales.as_chunks::<4>().0) {
        decode_e4m3(codes, f32::from_le_bytes(*scale), values);
    }
    decode_bf16(tail, rope);
}

/// MODEL1 of FlashMLA, DeepSeek V4 in vLLM (J-04). Per token `C` bytes e4m3 and `R` bf16 of rotated part; behind a block's data,
/// per token `C / 64` power-of-two scales, padded with zeros to a multiple of 8. A block is padded to a multiple of one token's
/// data: for `C` = 448 and `R` = 64, 576 + 8 bytes per token, blocks in multiples of 576.
///
/// A scale is `2^ceil(log2(max(amax / 448, 10⁻⁴)))`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fp8Model1;

/// Values per scale of [`Fp8Model1`].
const MODEL1_GROUP: usize = 64;

byte_format!(impl<> Fp8Model1, "fp8_model1", Latent, latent 64, rope 1);

impl ByteFormat for Fp8Model1 {
    fn layout(latent: usize, rope: usize) -> ByteLayout {
        let data = latent + 2 * rope;
        ByteLayout {
            data,
            scales: (latent / MODEL1_GROUP).next_multiple_of(8),
            block_multiple: data.max(1),
        }
    }

    fn encode(self, latent: &[f32], rope: &[f32], data: &mut [u8], scales: &mut [u8]) {
        let (codes, tail) = data.split_at_mut(latent.len());
        scales.fill(0);
        encode_powers(latent, MODEL1_GROUP, codes, scales);
        encode_bf16(rope, tail);
    }

    fn decode(self, data: &[u8], scales: &[u8], latent: &mut [f32], rope: &mut [f32]) {
        let (codes, tail) = data.split_at(latent.len());
        decode_powers(codes, scales, MODEL1_GROUP, latent);
        decode_bf16(tail, rope);
    }

    fn coding(self) -> Coding {
        Coding::Model1
    }
}

/// MXFP8 (J-05), the rotated part quantised as well. Per token `C + R` bytes e4m3, then `(C + R) / 32` power-of-two scales: 528
/// bytes for `C` = 448 and `R` = 64. No group of 32 has latents and rotated values.
///
/// A scale is `2^ceil(log2(max(amax / 448, 10⁻⁴)))`: unlike the MX standard's, which is `2^(floor(log2(amax)) - 8)`, it never
/// makes the largest value of a group saturate. Readers multiply by whatever stands there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mxfp8;

/// Values per scale of [`Mxfp8`].
const MX_GROUP: usize = 32;

byte_format!(impl<> Mxfp8, "mxfp8", Latent, latent 32, rope 32);

impl ByteFormat for Mxfp8 {
    fn layout(latent: usize, rope: usize) -> ByteLayout {
        ByteLayout::beside(latent + rope + (latent + rope) / MX_GROUP)
    }

    fn encode(self, latent: &[f32], rope: &[f32], data: &mut [u8], _: &mut [u8]) {
        let (codes, scales) = data.split_at_mut(latent.len() + rope.len());
        let (first, last) = codes.split_at_mut(latent.len());
        let (first_scales, last_scales) = scales.split_at_mut(latent.len() / MX_GROUP);
        encode_powers(latent, MX_GROUP, first, first_scales);
        encode_powers(rope, MX_GROUP, last, last_scales);
    }

    fn decode(self, data: &[u8], _: &[u8], latent: &mut [f32], rope: &mut [f32]) {
        let (codes, scales) = data.split_at(latent.len() + rope.len());
        let (first, last) = codes.split_at(latent.len());
        let (first_scales, last_scales) = scales.split_at(latent.len() / MX_GROUP);
        decode_powers(first, first_scales, MX_GROUP, latent);
        decode_powers(last, last_scales, MX_GROUP, rope);
    }

    fn coding(self) -> Coding {
        Coding::Mxfp8
    }
}

/// e4m3 with a power of two per `group` values.
fn encode_powers(values: &[f32], group: usize, codes: &mut [u8], scales: &mut [u8]) {
    let groups = values.chunks(group).zip(codes.chunks_mut(group));
    for ((values, codes), code) in groups.zip(scales) {
        let scale = power_scale(values);
        encode_e4m3(values, scale.decode(), codes);
        *code = scale.0;
    }
}

fn decode_powers(codes: &[u8], scales: &[u8], group: usize, values: &mut [f32]) {
    let groups = values.chunks_mut(group).zip(codes.chunks(group));
    for ((values, codes), &scale) in groups.zip(scales) {
        decode_e4m3(codes, E8m0(scale).decode(), values);
    }
}
