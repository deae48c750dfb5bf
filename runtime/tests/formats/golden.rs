//! Against fixtures that `make_fixtures.py` wrote.

use std::path::Path;

use mla_runtime::narrow::{E4m3, E5m2};
use mla_runtime::{
    CacheFormat, Fp8DsMla, Fp8E4m3, Fp8E5m2, Fp8Model1, IndexCache, IndexFp8, IndexMxfp4,
    LatentCache, Mxfp8, Paged, PowerOfTwo, Unrotated, bf16,
};

use super::{B, DEVICE, batch, key, rows};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/fixtures");
    std::fs::read(folder.join(name)).expect(name)
}

/// The script's `values`.
fn values(token: u64, width: usize) -> Vec<f32> {
    let value = |i: u64| {
        let k = token * 1000 + i;
        let exponent = ((k * 13 + token) % 12) as i32 - 23;
        let size = (128 + (k * 37 + 11) % 128) as f32 * 1025.0 * 2f32.powi(exponent);
        let run = match (token, i) {
            (1, 0..128) => 0.0,
            (1, 128..192) => 2f32.powi(-20),
            (2, 0..128) => 2f32.powi(12),
            _ => 1.0,
        };
        // Python's zeros have no sign
        match (run, k * 7 % 5 < 2) {
            (0.0, _) => 0.0,
            (run, true) => -size * run,
            (run, false) => size * run,
        }
    };
    (0..width as u64).map(value).collect()
}

/// Tokens in the order of the batch: 0 and 2 in slots 2 and 3, 1 in slot 0.
const ORDER: [u64; 3] = [0, 2, 1];
const WRITTEN: [(usize, usize, &[u32]); 2] = [(0, 2, &[1]), (0, 1, &[0])];

/// Decoded entries, request by request, as the script adds them up.
fn check_sums(name: &str, decoded: [Vec<Vec<f32>>; 2]) {
    let text = String::from_utf8(fixture("decoded.txt")).expect("text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let wanted = line.expect(name).split(' ').map(|sum| sum.parse::<f64>());
    let [a, b] = decoded;
    let found = [&a[0], &b[0], &a[1]].map(|values| {
        let weighted = values.iter().enumerate();
        weighted.fold(0.0, |sum, (i, &value)| {
            sum + (i + 1) as f64 * f64::from(value)
        })
    });
    for (found, wanted) in found.into_iter().zip(wanted) {
        assert_eq!(found, wanted.expect("a number"), "{name}");
    }
}

type Latent<F, const C: usize, const R: usize> = LatentCache<B, F, Unrotated, Paged<2>, C, R>;

fn latents<F: CacheFormat, const C: usize, const R: usize>(name: &str, mut cache: Latent<F, C, R>) {
    let tokens = ORDER.map(|token| values(token, C + R));
    let latent = tokens.iter().flat_map(|values| &values[..C]);
    let rope = tokens.iter().flat_map(|values| &values[C..]);
    let latent = rows::<C>(latent.copied().collect());
    cache
        .write(
            &batch(&WRITTEN),
            &latent,
            &key::<R>(rope.copied().collect(), 3),
        )
        .expect("written");
    assert!(
        cache.to_bytes().expect("bytes") == fixture(&format!("{name}.bin")),
        "{name}: other bytes"
    );
    let read = |block, tokens| {
        let (latent, k_rope) = cache.entries(&[block], tokens).expect("entries");
        let (latent, k_rope) = (
            latent.to_vec().expect("values"),
            k_rope.to_vec().expect("values"),
        );
        let entry = |i: usize| [&latent[i * C..(i + 1) * C], &k_rope[i * R..(i + 1) * R]].concat();
        (0..tokens).map(entry).collect()
    };
    check_sums(name, [read(1, 2), read(0, 1)]);
}

fn paged<F: CacheFormat, const C: usize, const R: usize>() -> Latent<F, C, R> {
    Latent::<F, C, R>::paged(&DEVICE, 2).expect("cache")
}

#[test]
fn latents_are_stored_bit_for_bit() {
    latents("plain_bf16", paged::<bf16, 512, 64>());
    let scaled = paged::<Fp8E4m3, 512, 64>().with_k_scale(0.25);
    latents("fp8_e4m3", scaled.expect("a scale"));
    let scaled = paged::<Fp8E5m2, 512, 64>().with_k_scale(0.25);
    latents("fp8_e5m2", scaled.expect("a scale"));
    latents("fp8_ds_mla", paged::<Fp8DsMla, 512, 64>());
    latents("fp8_ds_mla_ue8m0", paged::<Fp8DsMla<PowerOfTwo>, 512, 64>());
    latents("fp8_ds_mla_nope", paged::<Fp8DsMla, 512, 0>());
    latents("fp8_model1", paged::<Fp8Model1, 448, 64>());
    latents("mxfp8", paged::<Mxfp8, 448, 64>());
}

fn keys<F: CacheFormat>(name: &str) {
    let mut cache = IndexCache::<B, F, Paged<2>, 128>::paged(&DEVICE, 2).expect("cache");
    let tokens = ORDER.map(|token| values(token, 128)).concat();
    cache
        .write(&batch(&WRITTEN), &rows::<128>(tokens))
        .expect("written");
    assert!(
        cache.to_bytes().expect("bytes") == fixture(&format!("{name}.bin")),
        "{name}: other bytes"
    );
    let read = |block, tokens| {
        let rows = cache.entries(&[block], tokens).expect("entries");
        let values = rows.to_vec().expect("values");
        values.chunks(128).map(<[f32]>::to_vec).collect()
    };
    check_sums(name, [read(1, 2), read(0, 1)]);
}

#[test]
fn index_keys_are_stored_bit_for_bit() {
    keys::<IndexFp8>("index_fp8");
    keys::<IndexFp8<PowerOfTwo>>("index_fp8_ue8m0");
    keys::<IndexMxfp4>("index_mxfp4");
}

/// The script's `numbers`.
fn numbers() -> impl Iterator<Item = f32> {
    (0..4096_u64).map(|i| {
        let k = (i * 2_654_435_761) % (1 << 32);
        let bits = (k >> 31 << 31) | (((k >> 23) % 40 + 107) << 23) | (k % (1 << 23));
        f32::from_bits(bits as u32)
    })
}

#[test]
fn numbers_are_encoded_as_pytorch_does_after_a_clamp() {
    let wanted = fixture("codes.bin");
    let (e4m3, e5m2) = wanted.split_at(4096);
    for ((value, &e4m3), &e5m2) in numbers().zip(e4m3).zip(e5m2) {
        assert_eq!(
            (E4m3::encode(value).0, E5m2::encode(value).0),
            (e4m3, e5m2),
            "{value:e}"
        );
    }
}

#[test]
fn every_code_has_pytorchs_value() {
    let wanted = fixture("values.bin");
    let wanted: Vec<u32> = wanted
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect();
    for code in 0..=255_u8 {
        let found = [E4m3(code).decode(), E5m2(code).decode()];
        for (found, wanted) in found
            .into_iter()
            .zip([wanted[code as usize], wanted[256 + code as usize]])
        {
            let wanted = f32::from_bits(wanted);
            assert!(
                found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
                "code {code:#x}: {found} is not {wanted}"
            );
        }
    }
}
