//! Bytes per token and per block, and where they stand.

use mla_runtime::{
    ByteFormat, CacheFormat, Fp8DsMla, Fp8E4m3, Fp8E5m2, Fp8Model1, IndexCache, IndexFp8,
    IndexMxfp4, KvCache, LatentCache, Mxfp8, Paged, PowerOfTwo, Unrotated, bf16,
};

use super::{B, DEVICE, batch, rows};

#[test]
fn entries_take_the_documented_bytes() {
    assert_eq!(bf16::bytes_per_token(512, 64), 1152);
    assert_eq!(Fp8E4m3::bytes_per_token(512, 64), 576);
    assert_eq!(Fp8E5m2::bytes_per_token(512, 64), 576);
    assert_eq!(<Fp8DsMla>::bytes_per_token(512, 64), 656);
    assert_eq!(Fp8DsMla::<PowerOfTwo>::bytes_per_token(512, 64), 656);
    assert_eq!(<Fp8DsMla>::bytes_per_token(512, 0), 656);
    assert_eq!(Fp8Model1::bytes_per_token(448, 64), 584);
    assert_eq!(Mxfp8::bytes_per_token(448, 64), 528);
    assert_eq!(<IndexFp8>::bytes_per_token(128, 0), 132);
    assert_eq!(IndexFp8::<PowerOfTwo>::bytes_per_token(128, 0), 132);
    assert_eq!(IndexMxfp4::bytes_per_token(128, 0), 68);
}

#[test]
fn entries_of_other_widths() {
    assert_eq!(<Fp8DsMla>::bytes_per_token(1024, 64), 1024 + 32 + 128);
    assert_eq!(<Fp8DsMla>::bytes_per_token(256, 32), 256 + 8 + 64);
    assert_eq!(Fp8Model1::bytes_per_token(512, 64), 512 + 128 + 8);
    assert_eq!(Mxfp8::bytes_per_token(512, 64), 512 + 64 + 18);
    assert_eq!(<IndexFp8>::bytes_per_token(64, 0), 68);
    assert_eq!(<IndexFp8>::bytes_per_token(256, 0), 264);
}

#[test]
fn blocks_put_scales_behind_data() {
    let model1 = Fp8Model1::layout(448, 64);
    assert_eq!(model1.block_bytes(64), 65 * 576);
    assert_eq!(model1.place(0, 64), (0..576, 64 * 576..64 * 576 + 8));
    let start = 2 * 65 * 576;
    let (data, scales) = model1.place(2 * 64 + 3, 64);
    assert_eq!(data, start + 3 * 576..start + 4 * 576);
    assert_eq!(scales, start + 64 * 576 + 24..start + 64 * 576 + 32);
    let index = IndexFp8::<PowerOfTwo>::layout(128, 0);
    assert_eq!(index.block_bytes(64), 64 * 132);
    let (data, scales) = index.place(64 + 1, 64);
    assert_eq!(data, 8448 + 128..8448 + 256);
    assert_eq!(scales, 8448 + 8192 + 4..8448 + 8192 + 8);
    let beside = <Fp8DsMla>::layout(512, 64);
    assert_eq!(
        beside.place(70, 64),
        (70 * 656..71 * 656, 128 * 656..128 * 656)
    );
}

#[test]
fn a_cache_says_what_it_takes() {
    type Cache<F> = LatentCache<B, F, Unrotated, Paged<64>, 512, 64>;
    assert_eq!(<Cache<Fp8DsMla> as KvCache<B>>::bytes_per_token(), 656);
    assert_eq!(<Cache<Fp8DsMla> as KvCache<B>>::ELEMENTS_PER_TOKEN, 576);
    let cache = Cache::<Fp8DsMla>::paged(&DEVICE, 3).expect("cache");
    assert_eq!(cache.to_bytes().expect("bytes").len(), 3 * 64 * 656);
}

#[test]
fn a_scale_has_to_be_a_positive_number() {
    for k_scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let cache = LatentCache::<B, Fp8E4m3, Unrotated, Paged<2>, 4, 2>::paged(&DEVICE, 1);
        let refused = cache.expect("cache").with_k_scale(k_scale).map(drop);
        let message = refused.expect_err("a refusal").to_string();
        assert!(message.contains("k_scale"), "{message}");
    }
}

/// What a proof fills a cache with comes out again: NaN is no number in any format.
#[test]
fn a_nan_stays_a_nan() {
    fn check<F: CacheFormat>() {
        let mut cache = LatentCache::<B, F, Unrotated, Paged<2>, 128, 32>::paged(&DEVICE, 2);
        let cache = cache.as_mut().expect("cache");
        KvCache::<B>::fill(cache, f64::NAN).expect("filled");
        let (latent, k_rope) = cache.entries(&[1, 0], 4).expect("entries");
        let all = [
            latent.to_vec().expect("values"),
            k_rope.to_vec().expect("values"),
        ]
        .concat();
        assert_eq!(all.len(), 4 * 160);
        assert!(all.iter().all(|value| value.is_nan()), "{}", F::NAME);
    }
    check::<Fp8E4m3>();
    check::<Fp8E5m2>();
    check::<Fp8DsMla>();
    check::<Fp8DsMla<PowerOfTwo>>();
    check::<Fp8Model1>();
    check::<Mxfp8>();
    let mut keys = IndexCache::<B, IndexMxfp4, Paged<2>, 64>::paged(&DEVICE, 1).expect("cache");
    let mut values = vec![1.0; 64];
    values[40] = f32::NAN;
    keys.write(&batch(&[(0, 1, &[0])]), &rows::<64>(values))
        .expect("written");
    let found = keys
        .entries(&[0], 1)
        .expect("entries")
        .to_vec()
        .expect("values");
    assert!(found[..32].iter().all(|&value| value == 1.0));
    assert!(found[32..].iter().all(|value| value.is_nan()));
}
