//! Gradients of attention over rows against plain loops.

use std::ptr;

use super::super::Step;
use super::operations::{near, run};
use super::*;

const HEADS: usize = 3;
const WIDTH: usize = 11;
const VALUE: usize = 6;
const ROWS: usize = 8;
/// Where sequences begin, and the last one ends.
const ENDS: [u32; 3] = [0, 5, 8];
const SCALE: f64 = 0.3;

/// Operands, each `[rows, heads, ..]`; the last columns of keys of all heads are one part, perhaps of width 0.
struct Operands {
    shared: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    second: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
}

/// What they give, in f64: `d_k` and `d_v` as columns of one tensor.
struct Wanted {
    out: Vec<f64>,
    lse: Vec<f64>,
    d_q: Vec<f64>,
    d_kv: Vec<f64>,
    d_second: Vec<f64>,
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add(to: &mut [f64], by: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += by * x);
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

impl Operands {
    fn new(shared: usize) -> Self {
        let lines = ROWS * HEADS;
        Self {
            shared,
            q: numbers(lines * WIDTH, 1),
            k: numbers(lines * (WIDTH - shared), 2),
            second: numbers(ROWS * shared.max(1), 3),
            v: numbers(lines * VALUE, 4),
            d_out: numbers(lines * VALUE, 5),
        }
    }

    fn key(&self, row: usize, head: usize) -> Vec<f64> {
        let own = WIDTH - self.shared;
        let own = &self.k[(row * HEADS + head) * own..][..own];
        wide(&[own, &self.second[row * self.shared..][..self.shared]].concat())
    }

    fn wanted(&self) -> Wanted {
        let (own, lines) = (WIDTH - self.shared, ROWS * HEADS);
        let mut all = Wanted {
            out: Vec::new(),
            lse: Vec::new(),
            d_q: vec![0.0; lines * WIDTH],
            d_kv: vec![0.0; lines * (own + VALUE)],
            d_second: vec![0.0; ROWS * self.shared],
        };
        for line in 0..lines {
            let (row, head) = (line / HEADS, line % HEADS);
            let first = if row < 5 { 0 } else { 5 };
            let q = wide(&self.q[line * WIDTH..][..WIDTH]);
            let d_out = wide(&self.d_out[line * VALUE..][..VALUE]);
            let value = |row: usize| wide(&self.v[(row * HEADS + head) * VALUE..][..VALUE]);
            let weight = |key: usize| (SCALE * dot(&q, &self.key(key, head))).exp();
            let sum: f64 = (first..=row).map(weight).sum();
            let mut out = vec![0.0; VALUE];
            (first..=row).for_each(|key| add(&mut out, weight(key) / sum, &value(key)));
            let delta = dot(&out, &d_out);
            for key in first..=row {
                let p = weight(key) / sum;
                let d_s = SCALE * p * (dot(&d_out, &value(key)) - delta);
                let d_kv = &mut all.d_kv[(key * HEADS + head) * (own + VALUE)..];
                add(
                    &mut all.d_q[line * WIDTH..][..WIDTH],
                    d_s,
                    &self.key(key, head),
                );
                add(&mut d_kv[..own], d_s, &q);
                add(&mut d_kv[own..][..VALUE], p, &d_out);
                let d_second = &mut all.d_second[key * self.shared..][..self.shared];
                add(d_second, d_s, &q[own..]);
            }
            all.out.extend(out);
            all.lse.push(sum.ln());
        }
        all
    }
}

#[test]
fn gradients_of_attention_over_rows() {
    for shared in [0, 3] {
        let device = Device::open();
        let operands = Operands::new(shared);
        let wanted = operands.wanted();
        let (own, lines) = (WIDTH - shared, ROWS * HEADS);
        let nothing = |len: usize| device.put(&vec![f32::NAN; len]);
        let [q, k, second, v, d_out] = [
            &operands.q,
            &operands.k,
            &operands.second,
            &operands.v,
            &operands.d_out,
        ]
        .map(|values| device.put(values));
        let (out, lse, d_q) = (
            nothing(lines * VALUE),
            nothing(lines),
            nothing(lines * WIDTH),
        );
        let (d_kv, d_second) = (
            nothing(lines * (own + VALUE)),
            nothing(ROWS * shared.max(1)),
        );
        let of_heads = |buffer, width| tight(buffer, &[1, ROWS, HEADS, width]);
        let of_rows = |buffer| tight(buffer, &[1, ROWS, 1, shared.max(1)]);
        // Columns of a tensor of both
        let columns = |first: usize, width: usize| {
            let line = own + VALUE;
            let mut window = described(
                &d_kv,
                "f32",
                &[ROWS, HEADS, width],
                &[HEADS * line, line, 1],
            );
            window.tensor.data = window
                .tensor
                .data
                .wrapping_byte_add(first * size_of::<f32>());
            window
        };
        let [queries, keys] = [of_heads(&q, WIDTH), of_heads(&k, own)];
        let [values, result, d_result] = [&v, &out, &d_out].map(|buffer| of_heads(buffer, VALUE));
        let [seconds, d_seconds] = [&second, &d_second].map(of_rows);
        let sums = tight(&lse, &[1, ROWS, HEADS]);
        let (d_queries, d_keys, d_values) =
            (of_heads(&d_q, WIDTH), columns(0, own), columns(own, VALUE));
        let or_none = |given: &Described| match shared {
            0 => ptr::null(),
            _ => &raw const given.tensor,
        };
        let mut step: *const Step = ptr::null();
        // SAFETY: everything is as it is described
        worked(unsafe {
            mla_step_attend_rows_lse(
                device.0,
                &queries.tensor,
                &keys.tensor,
                or_none(&seconds),
                &values.tensor,
                ENDS.as_ptr(),
                2,
                SCALE,
                1,
                &result.tensor,
                &sums.tensor,
                &mut step,
            )
        });
        run(step);
        near(&device.get(&out), &wanted.out);
        near(&device.get(&lse), &wanted.lse);
        let backward = |d_keys: &Described, ends: &[u32], step: &mut *const Step| {
            // SAFETY: as above
            unsafe {
                mla_step_attend_rows_backward(
                    device.0,
                    &queries.tensor,
                    &keys.tensor,
                    or_none(&seconds),
                    &values.tensor,
                    ends.as_ptr(),
                    2,
                    SCALE,
                    1,
                    &result.tensor,
                    &sums.tensor,
                    &d_result.tensor,
                    1,
                    &d_queries.tensor,
                    &d_keys.tensor,
                    or_none(&d_seconds),
                    &d_values.tensor,
                    step,
                )
            }
        };
        worked(backward(&d_keys, &ENDS, &mut step));
        // What is added up begins anew in each run
        for _ in 0..2 {
            // SAFETY: it was made, and what it names is there
            worked(unsafe { mla_step_run(step, STREAM) });
            near(&device.get(&d_q), &wanted.d_q);
            near(&device.get(&d_kv), &wanted.d_kv);
            if shared > 0 {
                near(&device.get(&d_second), &wanted.d_second);
            }
        }
        // SAFETY: as above
        worked(unsafe { mla_step_free(step) });
        refused(
            backward(&d_values, &ENDS, &mut step),
            &["`d_k`", "wanted that of what it is the gradient of"],
        );
        let short = [0, 5, 7];
        assert_ne!(backward(&d_keys, &short, &mut step), 0, "a row is nobody's");
    }
}
