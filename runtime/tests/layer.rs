//! A whole layer in the look of generated code: against a plain `f64` computation, and every phase against every other.

mod oracle;
mod sample;

use mla_runtime::{
    Batch, CacheFormat, Cpu, CpuDevice, CpuElement, KvCache, Mask, Rows, Scalar, Sequence, Weights,
    bf16, f16,
};
use sample::{Cache, HIDDEN_SIZE, SampleAttention, TENSORS};

const DEVICE: CpuDevice = CpuDevice::new();

fn hidden<T: CpuElement>(rows: usize) -> Vec<T> {
    (0..rows * HIDDEN_SIZE)
        .map(|i| T::from_f64((i as f64 * 0.7391).sin()))
        .collect()
}

fn layer<T: CpuElement>() -> SampleAttention<Cpu<T>> {
    let weights = Weights::random("l", &TENSORS, 7).expect("weights");
    SampleAttention::load(&weights, "l", &DEVICE).expect("layer")
}

fn widened<T: CpuElement>(rows: &Rows<Cpu<T>, HIDDEN_SIZE>) -> Vec<f64> {
    rows.to_vec()
        .expect("values")
        .into_iter()
        .map(Scalar::to_f64)
        .collect()
}

fn assert_close(found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    let rms = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len().max(1) as f64).sqrt();
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (x - y).abs() <= tolerance * (rms + y.abs()),
            "at {i}: {x} is not {y} (rms {rms})"
        );
    }
}

/// Two requests, 9 and 4 tokens, fed in ragged pieces through decode or prefill, pages out of order, garbage in the free pages.
fn stepwise<T: CpuElement, E: CacheFormat>(
    pieces: &[(usize, usize)],
    absorbed: bool,
) -> (Vec<f64>, Vec<f64>) {
    let layer = layer::<T>();
    let all = hidden::<T>(13);
    let mut cache: Cache<Cpu<T>, E> = Cache::paged(&DEVICE, 6).expect("cache");
    cache.fill(f64::NAN).expect("filled");
    let (mut first, mut second) = (0, 0);
    let (mut out_first, mut out_second) = (Vec::new(), Vec::new());
    for &(a, b) in pieces {
        let batch = Batch::new(&[
            Sequence {
                cached: first,
                new: a,
                blocks: &[5, 2],
            },
            Sequence {
                cached: 0,
                new: 0,
                blocks: &[],
            },
            Sequence {
                cached: second,
                new: b,
                blocks: &[0],
            },
        ])
        .expect("batch");
        let mut rows = all[first * HIDDEN_SIZE..(first + a) * HIDDEN_SIZE].to_vec();
        rows.extend(&all[(9 + second) * HIDDEN_SIZE..(9 + second + b) * HIDDEN_SIZE]);
        let rows = Rows::from_vec(&DEVICE, rows).expect("rows");
        let out = if absorbed {
            layer.decode(&mut cache, &batch, &rows)
        } else {
            layer.prefill(&mut cache, &batch, &rows)
        };
        let out = widened(&out.expect("output"));
        out_first.extend(&out[..a * HIDDEN_SIZE]);
        out_second.extend(&out[a * HIDDEN_SIZE..]);
        first += a;
        second += b;
    }
    (out_first, out_second)
}

fn whole<T: CpuElement>() -> (Vec<f64>, Vec<f64>) {
    let positions: Vec<u32> = (0..9).chain(0..4).collect();
    let rows = Rows::from_vec(&DEVICE, hidden::<T>(13)).expect("rows");
    let out = layer::<T>()
        .forward(&rows, &positions, &Mask::cu_seqlens(&[0, 9, 13]))
        .expect("output");
    let mut first = widened(&out);
    let second = first.split_off(9 * HIDDEN_SIZE);
    (first, second)
}

const PIECES: [&[(usize, usize)]; 4] = [
    &[(9, 4)],
    &[(4, 0), (3, 3), (1, 0), (1, 1)],
    &[(6, 1), (3, 3)],
    &[(0, 4), (8, 0), (1, 0)],
];

#[test]
fn forward_agrees_with_plain_loops() {
    let weights = Weights::random("l", &TENSORS, 7).expect("weights");
    let wanted = oracle::forward(&weights, &hidden::<f64>(13), &[0..9, 9..13]);
    let (first, second) = whole::<f64>();
    assert_close(&[first, second].concat(), &wanted, 1e-12);
    let (first, second) = whole::<f32>();
    assert_close(&[first, second].concat(), &wanted, 3e-6);
    let (first, second) = whole::<bf16>();
    assert_close(&[first, second].concat(), &wanted, 6e-2);
}

#[test]
fn absorbed_is_expanded() {
    let positions: Vec<u32> = (0..13).collect();
    let rows = Rows::from_vec(&DEVICE, hidden::<f64>(13)).expect("rows");
    let layer = layer::<f64>();
    for mask in [
        Mask::dense(1, 13),
        Mask::cu_seqlens(&[0, 2, 2, 13]),
        Mask::segment_ids(1, 13, &[0, 3, 3, 3, 1, 1, 0, 0, 2, 2, 2, 2, 0]),
    ] {
        let expanded = layer.forward(&rows, &positions, &mask).expect("output");
        let absorbed = layer
            .forward_absorbed(&rows, &positions, &mask)
            .expect("output");
        assert_close(&widened(&absorbed), &widened(&expanded), 1e-12);
    }
}

#[test]
fn steps_are_the_whole_in_both_forms() {
    let (first, second) = whole::<f64>();
    for pieces in PIECES {
        for absorbed in [false, true] {
            let (a, b) = stepwise::<f64, f64>(pieces, absorbed);
            assert_close(&a, &first, 1e-12);
            assert_close(&b, &second, 1e-12);
        }
    }
}

#[test]
fn narrower_caches_lose_only_their_rounding() {
    let (first, second) = whole::<f64>();
    for absorbed in [false, true] {
        for (found, tolerance) in [
            (stepwise::<f32, f32>(PIECES[1], absorbed), 5e-6),
            (stepwise::<f32, bf16>(PIECES[1], absorbed), 3e-2),
            (stepwise::<f32, f16>(PIECES[1], absorbed), 4e-3),
            (stepwise::<bf16, f32>(PIECES[1], absorbed), 8e-2),
            (stepwise::<f64, f32>(PIECES[1], absorbed), 2e-6),
        ] {
            assert_close(&found.0, &first, tolerance);
            assert_close(&found.1, &second, tolerance);
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    for absorbed in [false, true] {
        assert_eq!(
            stepwise::<f32, f32>(PIECES[2], absorbed),
            stepwise::<f32, f32>(PIECES[2], absorbed)
        );
    }
}
