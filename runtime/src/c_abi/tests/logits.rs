//! Logits of an indexer: over a GPU that has kernels for them, otherwise what is refused.

use std::ptr;

use half::bf16;

use super::operations::run;
use super::*;

const HEADS: usize = 64;
const WIDTH: usize = 128;
const SCALE: f64 = 0.25;

/// Whether the device has them; otherwise it says so.
fn is_there(device: &Device, status: i32) -> bool {
    if device.own().is_hopper() {
        worked(status);
        return true;
    }
    refused(status, &["no kernel for these logits", "Hopper"]);
    false
}

/// Of queries and keys that are all ones, but for a factor of each key.
fn wanted(weights: &[f32], factor: f32) -> f32 {
    let sum: f32 = weights.iter().sum();
    SCALE as f32 * WIDTH as f32 * sum * factor
}

#[track_caller]
fn near(found: f32, wanted: f32) {
    assert!(
        (found - wanted).abs() <= 1e-3 * wanted.abs(),
        "{found} for {wanted}"
    );
}

/// 1 in e4m3.
const ONE: u8 = 0x38;

#[test]
fn logits_of_rows_of_codes() {
    let (rows, keys, columns) = (3, 70, 80);
    let device = Device::open();
    let q = device.put(&vec![ONE; rows * HEADS * WIDTH]);
    let k = device.put(&vec![ONE; keys * WIDTH]);
    let scales: Vec<f32> = (0..keys).map(|key| 1.0 + key as f32).collect();
    let scales_at = device.put(&scales);
    let weights = vec![0.5_f32; rows * HEADS];
    let weights_at = device.put(&weights);
    let out = device.put(&vec![-1.0_f32; rows * columns]);
    let (starts, ends) = ([0_i64, 5, 70], [70_i64, 69, 70]);
    let q = described(&q, "e4m3", &[rows, HEADS, WIDTH], &[]);
    let k = described(&k, "e4m3", &[keys, WIDTH], &[]);
    let k_scale = tight(&scales_at, &[keys]);
    let weighing = tight(&weights_at, &[rows, HEADS]);
    let result = tight(&out, &[rows, columns]);
    let mut step = ptr::null();
    let mut ask = |k_scale: *const CTensor, ends: &[i64]| {
        // SAFETY: everything is as it is described
        unsafe {
            mla_step_index_logits(
                device.0,
                &q.tensor,
                &k.tensor,
                k_scale,
                &weighing.tensor,
                starts.as_ptr(),
                ends.as_ptr(),
                SCALE,
                &result.tensor,
                &mut step,
            )
        }
    };
    refused(ask(ptr::null(), &ends), &["`k_scale`", "null"]);
    refused(
        ask(&k_scale.tensor, &[70, 69, 71]),
        &["`ends[2]`: is 71", "the 70 keys"],
    );
    refused(ask(&k_scale.tensor, &[70, 4, 70]), &["`ends[1]`: is 4"]);
    let status = ask(&k_scale.tensor, &ends);
    if !is_there(&device, status) {
        return;
    }
    run(step);
    for (row, found) in device.get(&out).chunks(columns).enumerate() {
        for (key, &found) in found.iter().enumerate() {
            if (starts[row]..ends[row]).contains(&(key as i64)) {
                near(found, wanted(&weights[..HEADS], scales[key]));
            } else {
                assert_eq!(found, -1.0, "row {row}, key {key}");
            }
        }
    }
}

#[test]
fn logits_of_pages() {
    const PAGE: usize = 64;
    let (requests, new, pages, columns) = (2, 2, 4, 130);
    let device = Device::open();
    let weights = vec![0.5_f32; requests * new * HEADS];
    let weights_at = device.put(&weights);
    let weighing = tight(&weights_at, &[requests, new, HEADS]);
    let out = device.put(&vec![-1.0_f32; requests * new * columns]);
    let result = tight(&out, &[requests, new, columns]);
    let (blocks, lengths) = ([3_u32, 1, 2, 0], [100_i64, 64]);
    let codes = vec![ONE; PAGE * WIDTH];
    let factor = |page: usize| 1.0 + page as f32;
    let page = |page: usize| [&codes[..], bytemuck::cast_slice(&[factor(page); PAGE])].concat();
    let bytes: Vec<u8> = (0..pages).flat_map(page).collect();
    let numbers = vec![bf16::ONE; pages * PAGE * WIDTH];
    let (q_codes, q_numbers) = (
        device.put(&vec![ONE; requests * new * HEADS * WIDTH]),
        device.put(&vec![bf16::ONE; requests * new * HEADS * WIDTH]),
    );
    let (bytes, numbers) = (device.put(&bytes), device.put(&numbers));
    let shape = [requests, new, HEADS, WIDTH];
    for (q, cache, in_codes) in [
        (
            described(&q_codes, "e4m3", &shape, &[]),
            described(&bytes, "u8", &[pages, PAGE, 1, WIDTH + 4], &[]),
            true,
        ),
        (
            tight(&q_numbers, &shape),
            tight(&numbers, &[pages, PAGE, WIDTH]),
            false,
        ),
    ] {
        let mut step = ptr::null();
        let mut ask = |cache: &Described, lengths: &[i64]| {
            // SAFETY: everything is as it is described
            unsafe {
                mla_step_index_logits_paged(
                    device.0,
                    &q.tensor,
                    &cache.tensor,
                    &weighing.tensor,
                    blocks.as_ptr(),
                    2,
                    lengths.as_ptr(),
                    SCALE,
                    &result.tensor,
                    &mut step,
                )
            }
        };
        refused(ask(&cache, &[129, 64]), &["`lengths[0]`: is 129"]);
        refused(ask(&cache, &[1, 64]), &["`lengths[0]`: is 1"]);
        refused(ask(&weighing, &lengths), &["`cache`"]);
        let status = ask(&cache, &lengths);
        if !is_there(&device, status) {
            continue;
        }
        run(step);
        for (row, found) in device.get(&out).chunks(columns).enumerate() {
            let (request, token) = (row / new, row % new);
            let end = lengths[request] as usize - new + 1 + token;
            for (key, &found) in found[..end].iter().enumerate() {
                let page = blocks[request * 2 + key / PAGE] as usize;
                let factor = if in_codes { factor(page) } else { 1.0 };
                near(found, wanted(&weights[..HEADS], factor));
            }
            assert!(found[end..].iter().all(|&x| x == -1.0), "row {row}");
        }
    }
}
