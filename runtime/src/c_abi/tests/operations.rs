//! Single operations against plain loops.

use std::ptr;

use super::super::Step;
use super::*;

const LATENT: usize = 7;
const ROPE: usize = 4;
const WIDTH: usize = LATENT + ROPE;
const HEADS: usize = 3;
pub(super) const SCALE: f64 = 0.3;

/// Softmax attention of one query over some keys and their values.
pub(super) fn attended<'a>(
    q: &[f32],
    seen: impl Iterator<Item = (&'a [f32], &'a [f32])>,
) -> Vec<f64> {
    let dot = |k: &[f32]| -> f64 {
        let products = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b));
        SCALE * products.sum::<f64>()
    };
    let (mut sum, mut out) = (0.0, Vec::new());
    for (k, v) in seen {
        let weight = dot(k).exp();
        out.resize(v.len(), 0.0);
        sum += weight;
        for (out, &v) in out.iter_mut().zip(v) {
            *out += weight * f64::from(v);
        }
    }
    out.iter().map(|x| x / sum).collect()
}

#[track_caller]
pub(super) fn near(found: &[f32], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (i, (&found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (f64::from(found) - wanted).abs() < 1e-4,
            "{i}: {found}, wanted {wanted}"
        );
    }
}

/// Runs a step, then forgets it.
pub(super) fn run(step: *const Step) {
    // SAFETY: it was made, and what it names is there
    unsafe {
        worked(mla_step_run(step, STREAM));
        worked(mla_step_free(step));
    }
}

#[test]
fn attention_over_pages() {
    const PAGE: usize = 4;
    let (requests, new, pages) = (2, 2, 5);
    let device = Device::open();
    let (q, cache) = (
        numbers(requests * new * HEADS * WIDTH, 1),
        numbers(pages * PAGE * WIDTH, 2),
    );
    let blocks = [3_u32, 0, 4, 1];
    let lengths = [6_i64, 3];
    let (q_at, cache_at) = (device.put(&q), device.put(&cache));
    let out = device.put(&vec![f32::NAN; requests * new * HEADS * LATENT]);
    let given = tight(&q_at, &[requests, new, HEADS, WIDTH]);
    let entries = tight(&cache_at, &[pages, PAGE, 1, WIDTH]);
    let result = tight(&out, &[requests, new, HEADS, LATENT]);
    let attend = |blocks: &[u32], lengths: &[i64], step: &mut *const Step| {
        // SAFETY: everything is as it is described
        unsafe {
            mla_step_attend_paged(
                device.0,
                &given.tensor,
                &entries.tensor,
                LATENT as i64,
                blocks.as_ptr(),
                2,
                lengths.as_ptr(),
                SCALE,
                1,
                &result.tensor,
                step,
            )
        }
    };
    let mut step = ptr::null();
    worked(attend(&blocks, &lengths, &mut step));
    run(step);
    let mut wanted = Vec::new();
    for (line, q) in q.chunks_exact(WIDTH).enumerate() {
        let (request, i) = (line / HEADS / new, line / HEADS % new);
        let seen = (0..lengths[request] as usize - new + i + 1).map(|token| {
            let block = blocks[request * 2 + token / PAGE] as usize;
            let entry = &cache[(block * PAGE + token % PAGE) * WIDTH..][..WIDTH];
            (entry, &entry[..LATENT])
        });
        wanted.extend(attended(q, seen));
    }
    near(&device.get(&out), &wanted);

    refused(
        attend(&[3, 9, 4, 1], &lengths, &mut step),
        &["`blocks`", "block 9, the cache has 5"],
    );
    refused(
        attend(&blocks, &[6, 9], &mut step),
        &["`lengths[1]`: is 9", "at most the 8"],
    );
    refused(
        attend(&blocks, &[1, 3], &mut step),
        &["`lengths[0]`: is 1", "at least the 2"],
    );
}

#[test]
fn attention_over_chosen_entries() {
    let (rows, keys, most) = (3, 9, 4);
    let device = Device::open();
    let (q, entries) = (numbers(rows * HEADS * WIDTH, 3), numbers(keys * WIDTH, 4));
    // In no order, and one list shorter than there is room
    let indices = [5_i32, 0, 8, 2, 1, 3, -1, -1, 7, 6, 4, 0];
    let (q_at, entries_at, indices_at) =
        (device.put(&q), device.put(&entries), device.put(&indices));
    let out = device.put(&vec![f32::NAN; rows * HEADS * LATENT]);
    let given = tight(&q_at, &[rows, HEADS, WIDTH]);
    let all = tight(&entries_at, &[keys, 1, WIDTH]);
    let chosen = described(&indices_at, "i32", &[rows, 1, most], &[]);
    let result = tight(&out, &[rows, HEADS, LATENT]);
    let attend = |counts: *const CTensor, step: &mut *const Step| {
        // SAFETY: everything is as it is described
        unsafe {
            mla_step_attend_selected(
                device.0,
                &given.tensor,
                &all.tensor,
                LATENT as i64,
                &chosen.tensor,
                counts,
                SCALE,
                &result.tensor,
                step,
            )
        }
    };
    let wanted = |counts: [usize; 3]| {
        let mut wanted = Vec::new();
        for (line, q) in q.chunks_exact(WIDTH).enumerate() {
            let row = line / HEADS;
            let list = indices[row * most..][..counts[row]].iter();
            let seen = list.filter(|&&key| key >= 0).map(|&key| {
                let entry = &entries[key as usize * WIDTH..][..WIDTH];
                (entry, &entry[..LATENT])
            });
            let mut out = attended(q, seen);
            // Where nothing is attended to
            out.resize(LATENT, 0.0);
            wanted.extend(out);
        }
        wanted
    };
    let mut step = ptr::null();
    worked(attend(ptr::null(), &mut step));
    run(step);
    near(&device.get(&out), &wanted([most; 3]));

    // No more than a list has, and no fewer than none
    let counts_at = device.put(&[9_i32, 1, -3]);
    let counts = described(&counts_at, "i32", &[rows, 1], &[]);
    worked(attend(&counts.tensor, &mut step));
    run(step);
    near(&device.get(&out), &wanted([most, 1, 0]));

    let counts = described(&counts_at, "i32", &[rows - 1], &[]);
    let few = attend(&counts.tensor, &mut step);
    refused(few, &["`counts`", "a count for each of 3 queries"]);

    // Entries of bytes: latents without scales, since they are so few, and the rotated part in two bytes each
    let of_bytes = |width: usize| {
        let bytes = device.put(&vec![0_u8; keys * width]);
        let entries = described(&bytes, "u8", &[keys, 1, width], &[]);
        let mut step = ptr::null();
        // SAFETY: everything is as it is described
        unsafe {
            mla_step_attend_selected(
                device.0,
                &given.tensor,
                &entries.tensor,
                LATENT as i64,
                &chosen.tensor,
                ptr::null(),
                SCALE,
                &result.tensor,
                &mut step,
            )
        }
    };
    refused(
        of_bytes(WIDTH),
        &["`entries`", "of u8, wanted entries of 15"],
    );
    refused(of_bytes(15), &["`entries`", "a library in bf16"]);
}

#[test]
fn attention_over_rows() {
    const VALUE: usize = 6;
    let rows = 8;
    let ends = [0_u32, 5, 8];
    let device = Device::open();
    let (q, v) = (
        numbers(rows * HEADS * WIDTH, 5),
        numbers(rows * HEADS * VALUE, 7),
    );
    let (q_at, v_at) = (device.put(&q), device.put(&v));
    let queries = tight(&q_at, &[1, rows, HEADS, WIDTH]);
    let values = tight(&v_at, &[1, rows, HEADS, VALUE]);
    // Keys of each head; then the last columns of all of them in one
    for shared in [0, 3] {
        let key = WIDTH - shared;
        let (k, second) = (
            numbers(rows * HEADS * key, 6),
            numbers(rows * shared.max(1), 8),
        );
        let (k_at, second_at) = (device.put(&k), device.put(&second));
        let out = device.put(&vec![f32::NAN; rows * HEADS * VALUE]);
        let result = tight(&out, &[1, rows, HEADS, VALUE]);
        let keys = tight(&k_at, &[1, rows, HEADS, key]);
        let second_keys = tight(&second_at, &[1, rows, 1, shared.max(1)]);
        let attend = |second: *const CTensor, step: &mut *const Step| {
            // SAFETY: everything is as it is described
            unsafe {
                mla_step_attend_rows(
                    device.0,
                    &queries.tensor,
                    &keys.tensor,
                    second,
                    &values.tensor,
                    ends.as_ptr(),
                    2,
                    SCALE,
                    1,
                    &result.tensor,
                    step,
                )
            }
        };
        let mut step = ptr::null();
        worked(match shared {
            0 => attend(ptr::null(), &mut step),
            _ => attend(&second_keys.tensor, &mut step),
        });
        run(step);
        let whole = |row: usize, head: usize| -> Vec<f32> {
            let own = &k[(row * HEADS + head) * key..][..key];
            [own, &second[row * shared..][..shared]].concat()
        };
        let mut wanted = Vec::new();
        for (line, q) in q.chunks_exact(WIDTH).enumerate() {
            let (row, head) = (line / HEADS, line % HEADS);
            let first = if row < 5 { 0 } else { 5 };
            let seen: Vec<_> = (first..row + 1)
                .map(|row| {
                    (
                        whole(row, head),
                        &v[(row * HEADS + head) * VALUE..][..VALUE],
                    )
                })
                .collect();
            wanted.extend(attended(q, seen.iter().map(|(k, v)| (&k[..], *v))));
        }
        near(&device.get(&out), &wanted);
        if shared > 0 {
            refused(
                attend(ptr::null(), &mut step),
                &["`k`", "as wide as `q`", "`k_shared` included"],
            );
        }
    }
}

#[test]
fn the_best_scores_of_rows_with_gaps() {
    let (rows, width, stride, most) = (3, 40, 44, 5);
    let device = Device::open();
    let scores = numbers(rows * stride, 9);
    let ends = [40_i64, 3, 17];
    let scores_at = device.put(&scores);
    let out = device.put(&vec![7_i32; rows * most]);
    let given = described(&scores_at, "f32", &[rows, width], &[stride, 1]);
    let result = described(&out, "i32", &[rows, most], &[]);
    let mut step = ptr::null();
    // SAFETY: everything is as it is described
    worked(unsafe {
        mla_step_topk(
            device.0,
            &given.tensor,
            ends.as_ptr(),
            ptr::null(),
            0,
            0,
            &result.tensor,
            &mut step,
        )
    });
    run(step);
    let mut wanted = Vec::new();
    for (row, &end) in ends.iter().enumerate() {
        let of = |key: &usize| scores[row * stride + key];
        let mut best: Vec<usize> = (0..end as usize).collect();
        best.sort_by(|a, b| of(b).total_cmp(&of(a)).then(a.cmp(b)));
        best.truncate(most);
        best.sort_unstable();
        let mut best: Vec<i32> = best.into_iter().map(|key| key as i32).collect();
        best.resize(most, -1);
        wanted.extend(best);
    }
    assert_eq!(device.get(&out), wanted);
    let too_far = [41_i64, 3, 17];
    // SAFETY: as above
    refused(
        unsafe {
            mla_step_topk(
                device.0,
                &given.tensor,
                too_far.as_ptr(),
                ptr::null(),
                0,
                0,
                &result.tensor,
                &mut step,
            )
        },
        &["`ends[0]`: is 41", "the 40 scores"],
    );
}

#[test]
fn the_best_scores_as_slots_of_a_paged_cache() {
    const PAGE: usize = 6;
    let (rows, width, most, each) = (2, 30, 4, 5);
    let device = Device::open();
    let scores = numbers(rows * width, 3);
    let ends = [30_i64, 3];
    let blocks = [9_u32, 2, 7, 0, 4, 1, 1, 1, 1, 1];
    let scores_at = device.put(&scores);
    let out = device.put(&vec![7_i32; rows * most]);
    let given = described(&scores_at, "f32", &[rows, width], &[]);
    let result = described(&out, "i32", &[rows, most], &[]);
    let choose = |blocks: &[u32], page: usize, step: &mut *const Step| {
        // SAFETY: everything is as it is described
        unsafe {
            mla_step_topk(
                device.0,
                &given.tensor,
                ends.as_ptr(),
                blocks.as_ptr(),
                each as i64,
                page as i64,
                &result.tensor,
                step,
            )
        }
    };
    let mut step = ptr::null();
    worked(choose(&blocks, PAGE, &mut step));
    run(step);
    let slot =
        |row: usize, key: usize| blocks[row * each + key / PAGE] as usize * PAGE + key % PAGE;
    let mut best: Vec<usize> = (0..width).collect();
    best.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    best.truncate(most);
    best.sort_unstable();
    let mut wanted: Vec<i32> = best.into_iter().map(|key| slot(0, key) as i32).collect();
    wanted.extend((0..3).map(|key| slot(1, key) as i32));
    wanted.push(-1);
    assert_eq!(device.get(&out), wanted);

    refused(
        choose(&blocks, 5, &mut step),
        &["`ends[0]`: is 30", "at most the 25 that 5 blocks of 5 hold"],
    );
    let mut far = blocks;
    far[4] = u32::MAX;
    refused(
        choose(&far, PAGE, &mut step),
        &["`blocks`", "row 0 names block 4294967295"],
    );
}
