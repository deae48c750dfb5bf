//! J-09: an indexer's keys. Behind a block's data stand its scales.

use std::marker::PhantomData;

use super::{AnyScale, ScaleKind, decode_e4m3, encode_e4m3, largest};
use crate::cache::bytes::{ByteFormat, ByteLayout, Coding, byte_format};
use crate::narrow::{E2m1, E4m3, E8m0};

/// e4m3 with one f32 scale per 128 values of a key, or for the whole key where it is shorter: 132 bytes for a key of 128.
///
/// A scale is `max(amax, 10⁻⁴) / 448`, or with [`PowerOfTwo`](super::PowerOfTwo) `2^ceil(log2(max(amax, 10⁻¹⁰) / 448))` (features
/// L-06).
#[derive(Debug, Clone, Copy, Default)]
pub struct IndexFp8<S = AnyScale>(PhantomData<S>);

/// Values per scale of [`IndexFp8`].
const FP8_GROUP: usize = 128;

byte_format!(impl<S> IndexFp8<S>, if S::POWER_OF_TWO { "fp8_ue8m0" } else { "fp8" }, Key, latent 1, rope 1);

impl<S: ScaleKind> ByteFormat for IndexFp8<S> {
    fn layout(key: usize, _: usize) -> ByteLayout {
        ByteLayout::behind(key, key.div_ceil(FP8_GROUP) * 4)
    }

    fn encode(self, key: &[f32], _: &[f32], data: &mut [u8], scales: &mut [u8]) {
        encode_fp8(key, data, scales, S::POWER_OF_TWO);
    }

    fn decode(self, data: &[u8], scales: &[u8], key: &mut [f32], _: &mut [f32]) {
        let groups = key.chunks_mut(FP8_GROUP).zip(data.chunks(FP8_GROUP));
        for ((values, codes), scale) in groups.zip(scales.as_chunks::<4>().0) {
            decode_e4m3(codes, f32::from_le_bytes(*scale), values);
        }
    }

    fn coding(self) -> Coding {
        Coding::IndexFp8 {
            power_of_two: S::POWER_OF_TWO,
        }
    }
}

fn encode_fp8(key: &[f32], data: &mut [u8], scales: &mut [u8], power_of_two: bool) {
    let groups = key.chunks(FP8_GROUP).zip(data.chunks_mut(FP8_GROUP));
    for ((values, codes), scale_bytes) in groups.zip(scales.as_chunks_mut::<4>().0) {
        let scale = if power_of_two {
            E8m0::at_least(largest(values).max(1e-10) / E4m3::MAX).decode()
        } else {
            largest(values).max(1e-4) / E4m3::MAX
        };
        encode_e4m3(values, scale, codes);
        *scale_bytes = scale.to_le_bytes();
    }
}

/// MXFP4: e2m1, two values to a byte, the even one in the low bits, with one power-of-two scale per 32: 68 bytes for a key of 128.
///
/// A scale is `2^ceil(log2(max(amax, 10⁻⁴) / 6))`. e2m1 has no NaN: a group with one gets the scale NaN.
#[derive(Debug, Clone, Copy, Default)]
pub struct IndexMxfp4;

/// Values per scale of [`IndexMxfp4`].
const FP4_GROUP: usize = 32;

byte_format!(impl<> IndexMxfp4, "mxfp4", Key, latent 32, rope 1);

impl ByteFormat for IndexMxfp4 {
    fn layout(key: usize, _: usize) -> ByteLayout {
        ByteLayout::behind(key / 2, key / FP4_GROUP)
    }

    fn encode(self, key: &[f32], _: &[f32], data: &mut [u8], scales: &mut [u8]) {
        let groups = key.chunks(FP4_GROUP).zip(data.chunks_mut(FP4_GROUP / 2));
        for ((values, codes), scale) in groups.zip(scales) {
            let power = if values.iter().any(|value| value.is_nan()) {
                E8m0(255)
            } else {
                E8m0::at_least(largest(values).max(1e-4) / E2m1::MAX)
            };
            let code = |value: f32| E2m1::encode(value / power.decode()).0;
            for (byte, pair) in codes.iter_mut().zip(values.as_chunks::<2>().0) {
                *byte = code(pair[0]) | code(pair[1]) << 4;
            }
            *scale = power.0;
        }
    }

    fn decode(self, data: &[u8], scales: &[u8], key: &mut [f32], _: &mut [f32]) {
        let groups = key.chunks_mut(FP4_GROUP).zip(data.chunks(FP4_GROUP / 2));
        for ((values, codes), &scale) in groups.zip(scales) {
            let scale = E8m0(scale).decode();
            for (pair, &byte) in values.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                *pair = [
                    E2m1(byte).decode() * scale,
                    E2m1(byte >> 4).decode() * scale,
                ];
            }
        }
    }

    fn coding(self) -> Coding {
        Coding::IndexMxfp4
    }
}
