//! Prefill over a latent cache against plain loops.

use std::ptr;

use super::super::Step;
use super::operations::{SCALE, attended, near, run};
use super::*;

const HEADS: usize = 2;
const NOPE: usize = 6;
const ROPE: usize = 4;
const VALUE: usize = 5;
const LATENT: usize = 8;
const ENTRY: usize = LATENT + ROPE;

#[test]
fn prefill_over_a_cache_in_one_chunk_and_in_several() {
    const PAGE: usize = 4;
    let (new, cached, pages) = (3, 10, 6);
    let device = Device::open();
    let q = numbers(new * HEADS * (NOPE + ROPE), 1);
    let cache = numbers(pages * PAGE * ENTRY, 2);
    let (latents, k_rope) = (numbers(new * LATENT, 3), numbers(new * ROPE, 4));
    let w_kv = numbers(HEADS * (NOPE + VALUE) * LATENT, 5);
    let blocks = [5_u32, 0, 3];
    let held = [&q, &cache, &latents, &k_rope, &w_kv].map(|values| device.put(values));
    let out = device.put(&vec![f32::NAN; new * HEADS * VALUE]);
    let shapes: [&[usize]; 5] = [
        &[new, HEADS, NOPE + ROPE],
        &[pages, PAGE, ENTRY],
        &[new, LATENT],
        &[new, ROPE],
        &[HEADS * (NOPE + VALUE), LATENT],
    ];
    let given: Vec<Described> = held
        .iter()
        .zip(shapes)
        .map(|(at, shape)| tight(at, shape))
        .collect();
    let result = tight(&out, &[new, HEADS, VALUE]);
    let attend = |cached: i64, chunk: i64, step: &mut *const Step| {
        // SAFETY: everything is as it is described
        unsafe {
            mla_step_attend_chunked(
                device.0,
                &given[0].tensor,
                &given[1].tensor,
                blocks.as_ptr(),
                3,
                cached,
                &given[2].tensor,
                &given[3].tensor,
                &given[4].tensor,
                chunk,
                SCALE,
                &result.tensor,
                step,
            )
        }
    };
    let entry = |cached: usize, token: usize| -> Vec<f32> {
        match token.checked_sub(cached) {
            None => {
                let slot = blocks[token / PAGE] as usize * PAGE + token % PAGE;
                cache[slot * ENTRY..][..ENTRY].to_vec()
            }
            Some(own) => [
                &latents[own * LATENT..][..LATENT],
                &k_rope[own * ROPE..][..ROPE],
            ]
            .concat(),
        }
    };
    // A head's key and value
    let expanded = |entry: &[f32], head: usize| -> (Vec<f32>, Vec<f32>) {
        let row = |row: usize| -> f32 {
            let weights = &w_kv[(head * (NOPE + VALUE) + row) * LATENT..][..LATENT];
            weights.iter().zip(entry).map(|(a, b)| a * b).sum()
        };
        let key = (0..NOPE).map(row).chain(entry[LATENT..].iter().copied());
        (key.collect(), (NOPE..NOPE + VALUE).map(row).collect())
    };
    let mut step = ptr::null();
    for (cached, chunk) in [
        (cached, 100),
        (cached, 10),
        (cached, 4),
        (cached, 1),
        (0, 1),
    ] {
        device.overwrite(&out, &vec![f32::NAN; new * HEADS * VALUE]);
        worked(attend(cached as i64, chunk, &mut step));
        run(step);
        let mut wanted = Vec::new();
        for (line, q) in q.chunks_exact(NOPE + ROPE).enumerate() {
            let (row, head) = (line / HEADS, line % HEADS);
            let seen: Vec<_> = (0..cached + row + 1)
                .map(|token| expanded(&entry(cached, token), head))
                .collect();
            wanted.extend(attended(q, seen.iter().map(|(k, v)| (&k[..], &v[..]))));
        }
        near(&device.get(&out), &wanted);
    }
    refused(attend(10, 0, &mut step), &["at least one token"]);
    refused(attend(13, 4, &mut step), &["needs room for 13 tokens"]);
    refused(attend(-1, 4, &mut step), &["`cached`"]);
}
