//! Attention over rows of keys and values with Hopper's tensor cores against the CPU in f64, on the same inputs in bf16.

use half::bf16;

use super::super::driver::Command;
use super::super::{CudaGraph, attend_to};
use super::near::{assert_lines_near, assert_near};
use super::{Backend, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, Dice, Strided, hopper, segment};
use crate::backend::{Attention, AttentionParts, Pages};
use crate::element::Scalar;
use crate::segments::Segments;
use crate::softmax::Softmax;
use crate::visibility::Visibility;

/// What is asked, before there are any values.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Of queries, of keys, of their second part, of values.
    pub(super) heads: [usize; 4],
    /// Widths of both parts of keys, and of values.
    pub(super) widths: [usize; 3],
    pub(super) page: Option<usize>,
    pub(super) visibility: Visibility,
    pub(super) cap: Option<f64>,
    /// Queries and keys of each segment.
    pub(super) segments: Vec<[usize; 2]>,
}

/// Heads and widths as MLA has them: the second part of keys is shared by all heads.
pub(super) const fn latent(heads: usize, widths: [usize; 3]) -> ([usize; 4], [usize; 3]) {
    ([heads, heads, 1, heads], widths)
}

/// As grouped-query attention has them.
pub(super) const fn grouped(heads: usize, keys: usize, width: usize) -> ([usize; 4], [usize; 3]) {
    ([heads, keys, 1, keys], [width, 0, width])
}

impl Case {
    pub(super) fn new((heads, widths): ([usize; 4], [usize; 3]), segments: &[[usize; 2]]) -> Self {
        Self {
            heads,
            widths,
            page: None,
            visibility: Visibility::CAUSAL,
            cap: None,
            segments: segments.into(),
        }
    }

    fn softmax<B: Backend>(&self) -> Softmax<'_, B> {
        let [key, rope, _] = self.widths;
        let softmax = Softmax::scaled(1.0 / ((key + rope) as f64).sqrt());
        match self.cap {
            Some(cap) => softmax.soft_cap(cap),
            None => softmax,
        }
    }
}

/// Queries `[rows, heads, key + rope]`, keys and values `[rows, heads, key + value]` as one projection makes them, and keys' second part beside
/// them. Rows before, between and behind those of segments are nobody's, and no numbers.
pub(super) struct Question {
    pub(super) case: Case,
    pub(super) values: [Vec<bf16>; 3],
    pub(super) segments: Segments,
    pages: Option<Pages>,
}

impl Question {
    pub(super) fn new(dice: &mut Dice, case: Case) -> Self {
        let page = case.page.unwrap_or(1);
        let blocks: usize = case
            .segments
            .iter()
            .map(|[_, keys]| keys.div_ceil(page) + 1)
            .sum();
        let slots = (blocks + 3) * page;
        let mut free: Vec<u32> = (0..(blocks + 3) as u32).collect();
        let (mut row, mut key) = (1, 2);
        let (mut list, mut tables, mut live) = (Vec::new(), Vec::new(), vec![false; slots]);
        for (sequence, &[new, keys]) in case.segments.iter().enumerate() {
            let mut table: Vec<u32> = (0..keys.div_ceil(page))
                .map(|_| free.swap_remove(dice.below(free.len())))
                .collect();
            let own = match case.page {
                Some(_) => 0..keys,
                None => key..key + keys,
            };
            for i in 0..keys {
                let slot = match case.page {
                    Some(page) => table[i / page] as usize * page + i % page,
                    None => own.start + i,
                };
                live[slot] = true;
            }
            table.push(u32::MAX);
            tables.push(table);
            list.push(segment(sequence, row..row + new, own));
            (row, key) = (row + new + 1, key + keys + 1);
        }
        let rows = row + 1;
        let [heads, key_heads, rope_heads, _] = case.heads;
        let [key, rope, value] = case.widths;
        let mut asks = vec![false; rows];
        list.iter()
            .for_each(|segment| asks[segment.queries.clone()].fill(true));
        let mut tensor = |live: &[bool], width: usize| -> Vec<bf16> {
            let row = |&live: &bool| match live {
                true => dice.values::<bf16>(width),
                false => vec![bf16::NAN; width],
            };
            live.iter().flat_map(row).collect()
        };
        let values = [
            tensor(&asks, heads * (key + rope)),
            tensor(&live, key_heads * (key + value)),
            tensor(&live, rope_heads * rope),
        ];
        Self {
            values,
            segments: Segments::new(list, case.visibility, rows, slots),
            pages: case.page.map(|page| Pages::new(page, tables)),
            case,
        }
    }

    /// The first parts of some rows of keys, `times` as long.
    fn longer(mut self, keys: std::ops::Range<usize>, times: f32) -> Self {
        let [_, key_heads, ..] = self.case.heads;
        let [key, _, value] = self.case.widths;
        for row in self.values[1]
            .chunks_mut(key_heads * (key + value))
            .skip(keys.start)
            .take(keys.len())
        {
            for head in row.chunks_mut(key + value) {
                head[..key]
                    .iter_mut()
                    .for_each(|x| *x = bf16::from_f32(x.to_f32() * times));
            }
        }
        self
    }

    pub(super) fn asked<'a, B: Backend<Elem = S>, S: Scalar>(
        &'a self,
        [q, kv, k_rope]: [&'a B::Buffer<S>; 3],
    ) -> Attention<'a, B, S> {
        let [heads, key_heads, rope_heads, value_heads] = self.case.heads;
        let [key, rope, value] = self.case.widths;
        let (rows, slots) = (self.segments.queries(), self.segments.keys());
        // A window of `[rows, heads, stride]`
        let part = |buffer, rows, heads, stride, offset, width| Strided {
            buffer,
            offset,
            rows,
            heads,
            width,
            row_stride: heads * stride,
            head_stride: stride,
        };
        Attention {
            q: part(q, rows, heads, key + rope, 0, key),
            q_rope: part(q, rows, heads, key + rope, key, rope),
            k: part(kv, slots, key_heads, key + value, 0, key),
            k_rope: part(k_rope, slots, rope_heads, rope, 0, rope),
            v: part(kv, slots, value_heads, key + value, key, value),
            segments: &self.segments,
            pages: self.pages.as_ref(),
            selection: None,
            softmax: self.case.softmax(),
        }
    }

    /// The values in f64.
    pub(super) fn widened(&self) -> [Vec<f64>; 3] {
        let widened = |values: &Vec<bf16>| values.iter().map(|x| x.to_f64()).collect();
        self.values.each_ref().map(widened)
    }

    /// The answer in f64.
    fn wanted(&self) -> AttentionParts<Cpu<f64>> {
        let values = self.widened();
        Cpu::attend(&CPU, &self.asked::<Cpu<f64>, f64>(values.each_ref())).expect("runs")
    }

    pub(super) fn upload(&self, device: &CudaDevice) -> [CudaBuffer<bf16>; 3] {
        let upload = |values: &Vec<bf16>| device.upload(values).expect("room");
        self.values.each_ref().map(upload)
    }

    /// The answer, and the names of the kernels that gave it.
    fn found(&self, device: &CudaDevice) -> (AttentionParts<Cuda<bf16>>, Vec<String>) {
        let values = self.upload(device);
        let asked = self.asked::<Cuda<bf16>, bf16>(values.each_ref());
        let (parts, commands) = device
            .time_commands(|| Cuda::attend(device, &asked))
            .expect("runs");
        (parts, commands.into_iter().map(|one| one.name).collect())
    }

    /// The answer without what comes beside it, rounded to bf16, and the names of the kernels that gave it.
    fn found_rounded(&self, device: &CudaDevice) -> (Vec<f64>, Vec<String>) {
        let values = self.upload(device);
        let asked = self.asked::<Cuda<bf16>, bf16>(values.each_ref());
        let (out, commands) = device
            .time_commands(|| Cuda::attend_rounded(device, &asked))
            .expect("runs");
        let out = device.download(&out).expect("values");
        (
            out.into_iter().map(bf16::to_f64).collect(),
            commands.into_iter().map(|one| one.name).collect(),
        )
    }

    /// Asks a device, which takes its new kernel, and compares; the same where only the output is asked for.
    #[track_caller]
    fn check(&self, device: &CudaDevice) {
        let flashes = |names: &[String]| {
            let flashes = names.iter().any(|name| name.starts_with("flash_forward"));
            assert!(flashes, "{names:?} of {:?}", self.case);
        };
        let (wanted, what) = (self.wanted(), format!("{:?}", self.case));
        let (out, names) = self.found_rounded(device);
        flashes(&names);
        let width = self.case.widths[2];
        assert_lines_near(&wanted.out, &out, width, 8e-3, &format!("rounded, {what}"));
        let (parts, names) = self.found(device);
        flashes(&names);
        assert_near(device, &wanted, &parts, width, [6e-3, 1e-3], &what);
    }
}

/// DeepSeek's widths.
pub(super) const V3: [usize; 3] = [128, 64, 128];

#[test]
fn flash_is_right_for_every_width() {
    let device = hopper();
    let dice = &mut Dice::new();
    for sizes in [
        latent(2, V3),
        latent(3, [64, 32, 64]),
        latent(1, [64, 0, 64]),
        latent(2, [128, 0, 128]),
        latent(1, [256, 0, 256]),
        latent(1, [192, 64, 256]),
        latent(2, [192, 64, 128]),
        latent(2, [96, 16, 96]),
        latent(1, [96, 0, 64]),
        latent(1, [128, 64, 192]),
        grouped(2, 1, 192),
        grouped(4, 2, 64),
        grouped(6, 1, 128),
        grouped(2, 2, 80),
    ] {
        Question::new(dice, Case::new(sizes, &[[200, 300], [16, 16]])).check(&device);
    }
}

#[test]
fn flash_is_right_for_every_length() {
    let device = hopper();
    let dice = &mut Dice::new();
    let lengths = [
        [1, 1],
        [0, 40],
        [64, 64],
        [65, 65],
        [127, 127],
        [128, 128],
        [129, 129],
        [20, 400],
        [256, 256],
        [5, 0],
        [300, 17],
        [3, 129],
    ];
    Question::new(dice, Case::new(latent(2, V3), &lengths)).check(&device);
    Question::new(dice, Case::new(grouped(2, 1, 256), &lengths)).check(&device);
}

#[test]
fn flash_sees_what_visibilities_show() {
    let device = hopper();
    let dice = &mut Dice::new();
    for visibility in [
        Visibility::FULL,
        Visibility::CAUSAL.window(Some(100), None),
        Visibility::CAUSAL.window(Some(3), Some(0)),
        Visibility::FULL.window(Some(70), Some(40)),
        Visibility::CAUSAL.chunk(96),
    ] {
        for sizes in [latent(1, V3), grouped(2, 1, 256)] {
            let mut case = Case::new(sizes, &[[150, 420], [260, 260]]);
            case.visibility = visibility;
            Question::new(dice, case).check(&device);
        }
    }
}

/// Exponents count from the logits of the last tile's keys. These are of earlier ones, and so much larger that sums get large, or infinite.
#[test]
fn logits_may_be_far_beyond_those_that_exponents_count_from() {
    let device = hopper();
    let dice = &mut Dice::new();
    for (times, sizes) in [
        (32.0, latent(2, V3)),
        (300.0, latent(2, V3)),
        (300.0, grouped(2, 1, 256)),
    ] {
        let question = Question::new(dice, Case::new(sizes, &[[140, 300], [20, 20], [200, 400]]));
        question.longer(10..20, times).check(&device);
    }
}

#[test]
fn flash_caps_logits() {
    let device = hopper();
    let dice = &mut Dice::new();
    for cap in [0.5, 30.0] {
        let mut case = Case::new(latent(1, V3), &[[140, 200]]);
        case.cap = Some(cap);
        Question::new(dice, case).check(&device);
    }
}

#[test]
fn flash_reads_pages() {
    let device = hopper();
    let dice = &mut Dice::new();
    for page in [1, 16, 64, 96, 128, 512] {
        for sizes in [grouped(2, 1, 128), grouped(1, 1, 256), grouped(2, 2, 96)] {
            let mut case = Case::new(sizes, &[[20, 150], [40, 40], [0, 9]]);
            case.page = Some(page);
            Question::new(dice, case).check(&device);
        }
    }
}

#[test]
fn a_request_of_flash_does_not_depend_on_those_beside_it() {
    let device = hopper();
    let dice = &mut Dice::new();
    let mut question = Question::new(dice, Case::new(latent(2, V3), &[[33, 300], [200, 333]]));
    let (whole, _) = question.found(&device);
    let own = question.segments.list()[1].clone();
    let rows = own.queries.clone();
    let (queries, keys) = (question.segments.queries(), question.segments.keys());
    question.segments = Segments::new(vec![own], Visibility::CAUSAL, queries, keys);
    let (alone, _) = question.found(&device);
    let bits = |parts: &AttentionParts<Cuda<bf16>>| -> Vec<u32> {
        let out = device.download(&parts.out).expect("values");
        let line = out.len() / queries;
        let own = &out[rows.start * line..rows.end * line];
        own.iter().copied().map(f32::to_bits).collect()
    };
    assert_eq!(bits(&whole), bits(&alone));
}

#[test]
fn flash_rounds_what_it_writes_and_is_all_that_runs() {
    let device = hopper();
    let dice = &mut Dice::new();
    let question = Question::new(dice, Case::new(latent(2, V3), &[[33, 33], [200, 200]]));
    let values = question.upload(&device);
    let asked = question.asked::<Cuda<bf16>, bf16>(values.each_ref());
    let parts = Cuda::attend(&device, &asked).expect("runs");
    let wanted = device.download(&parts.out).expect("values");
    let out = device.upload(&vec![bf16::NAN; wanted.len()]).expect("room");
    let mut step = CudaGraph::new(&device);
    // The second run finds the counters of works as the first one left them
    for _ in 0..2 {
        step.run(|| attend_to(&device, &asked, &out)).expect("runs");
        let found = device.download(&out).expect("values");
        let rounded = wanted.iter().map(|&x| bf16::from_f32(x));
        assert!(rounded.eq(found));
    }
    let launched = |command: &Command| match command {
        Command::Launch(launch) => Some(launch.function.name.to_string()),
        _ => None,
    };
    let names: Vec<String> = step
        .commands()
        .expect("a recorded step")
        .iter()
        .filter_map(launched)
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}
