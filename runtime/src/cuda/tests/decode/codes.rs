//! The same over caches of codes: what a code says counts, not what was encoded.

use half::bf16;

use super::super::near::assert_rounded;
use super::super::{Backend, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, Dice, hopper, hopper_for};
use super::{Case, Question, V3, first};
use crate::backend::{AttentionParts, BytesAttention};
use crate::cache::{AnyScale, ByteFormat, EntryShape, Fp8DsMla, Fp8E4m3, Fp8E5m2, PowerOfTwo};
use crate::visibility::Visibility;

/// How much lines and logits may be off: the wide kernel rounds products of codes and scales to bf16.
pub(super) const OFF: [f64; 2] = [1e-2, 2e-2];

/// A question's entries, encoded.
pub(super) struct Encoded<'a, F: ByteFormat> {
    question: &'a Question,
    pub(super) format: F,
    pub(super) bytes: Vec<u8>,
    /// What the codes say.
    pub(super) entries: Vec<f64>,
}

impl<'a, F: ByteFormat> Encoded<'a, F> {
    /// Slots of nobody are codes that are no numbers.
    pub(super) fn new(question: &'a Question, format: F) -> Self {
        let Case { latent, rope, .. } = question.case;
        let width = latent + rope;
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for entry in question.entries.chunks_exact(width) {
            let mut data = vec![0; F::layout(latent, rope).data];
            if entry[0].is_nan() {
                let codes = [0x7f, 0xff].into_iter().cycle();
                data.iter_mut()
                    .zip(codes)
                    .for_each(|(byte, code)| *byte = code);
                entries.extend(vec![f64::NAN; width]);
            } else {
                let values: Vec<f32> = entry.iter().map(|x| x.to_f32()).collect();
                format.encode(&values[..latent], &values[latent..], &mut data, &mut []);
                let mut said = vec![0.0; width];
                let (first, last) = said.split_at_mut(latent);
                format.decode(&data, &[], first, last);
                entries.extend(said.into_iter().map(f64::from));
            }
            bytes.extend(data);
        }
        Self {
            question,
            format,
            bytes,
            entries,
        }
    }

    pub(super) fn shape(&self) -> EntryShape {
        let Case {
            latent, rope, page, ..
        } = self.question.case;
        // Where keys are rows, all are one page
        let page = page.unwrap_or(self.question.segments.keys());
        EntryShape {
            latent,
            rope,
            blocks: self.question.segments.keys() / page,
            page,
        }
    }

    fn wanted(&self) -> AttentionParts<Cpu<f64>> {
        let q: Vec<f64> = self.question.q.iter().map(|x| x.to_f64()).collect();
        let asked = self.question.asked::<Cpu<f64>, f64>(&q, &self.entries);
        Cpu::attend(&CPU, &asked).expect("runs")
    }

    /// The answer of a device, where it has a kernel for it.
    fn found(&self, device: &CudaDevice) -> Option<AttentionParts<Cuda<bf16>>> {
        self.ask(device, |bytes, asked| {
            Cuda::attend_bytes(device, self.format, bytes, self.shape(), asked).expect("runs")
        })
    }

    /// Asks for the output alone as well, and compares.
    #[track_caller]
    fn check_rounded(&self, device: &CudaDevice) {
        let found = self.ask(device, |bytes, asked| {
            Cuda::attend_bytes_rounded(device, self.format, bytes, self.shape(), asked)
        });
        let found = found.expect("runs").expect("a kernel");
        let whole = self.found(device).expect("the same kernel");
        assert_rounded(device, whole, &found, &format!("{:?}", self.question.case));
    }

    /// What `answer` makes of the question over a cache of bytes.
    fn ask<R>(
        &self,
        device: &CudaDevice,
        answer: impl FnOnce(&CudaBuffer<u8>, &BytesAttention<'_, Cuda<bf16>>) -> R,
    ) -> R {
        let [q, entries] = self.question.upload(device);
        let bytes = device.upload(&self.bytes).expect("room");
        let asked = self.question.asked::<Cuda<bf16>, bf16>(&q, &entries);
        let attention = BytesAttention {
            q: asked.q,
            q_rope: asked.q_rope,
            segments: asked.segments,
            pages: asked.pages,
            selection: None,
            softmax: asked.softmax,
        };
        answer(&bytes, &attention)
    }

    #[track_caller]
    fn check(&self, device: &CudaDevice) {
        let found = self.found(device);
        let found = found.unwrap_or_else(|| panic!("no kernel for {:?}", self.question.case));
        self.question
            .compare_with(&self.wanted(), device, &found, OFF);
    }
}

fn check_each(device: &CudaDevice, question: &Question) {
    Encoded::new(question, Fp8E4m3::of_scale(0.037)).check(device);
    Encoded::new(question, Fp8E5m2::default()).check(device);
    if question.case.latent == 512 {
        Encoded::new(question, Fp8DsMla::<AnyScale>::default()).check(device);
        Encoded::new(question, Fp8DsMla::<PowerOfTwo>::default()).check(device);
    }
}

fn check_sizes(sizes: &[(usize, [usize; 2], usize, usize)]) {
    let dice = &mut Dice::new();
    for (i, &(heads, widths, page, new)) in sizes.iter().enumerate() {
        let case = Case::new(heads, widths, Some(page), new);
        check_each(&hopper_for(i), &Question::new(dice, case));
    }
}

#[test]
fn an_output_over_codes_is_rounded_where_it_is_written() {
    let dice = &mut Dice::new();
    for heads in [16, 128] {
        let question = Question::new(dice, Case::new(heads, V3, Some(64), 1));
        Encoded::new(&question, Fp8E4m3::of_scale(0.037)).check_rounded(&hopper());
        Encoded::new(&question, Fp8DsMla::<AnyScale>::default()).check_rounded(&hopper());
    }
}

#[test]
fn few_rows_over_codes() {
    let sizes = [
        (16, V3, 64, 1),
        (16, V3, 8, 1),
        (5, [256, 32], 64, 3),
        (16, [128, 48], 16, 1),
        (8, [512, 0], 192, 2),
    ];
    check_sizes(first(3, &sizes));
}

#[test]
fn many_rows_over_codes_of_wide_latents() {
    let sizes = [
        (128, V3, 64, 1),
        (128, V3, 16, 2),
        (40, [512, 0], 128, 1),
        (40, V3, 8, 3),
        (16, V3, 16, 3),
    ];
    check_sizes(first(3, &sizes));
}

#[test]
fn many_rows_over_codes_of_narrow_latents() {
    let sizes = [
        (128, [256, 32], 64, 2),
        (40, [128, 32], 64, 1),
        (128, [128, 0], 16, 2),
        (40, [256, 0], 8, 3),
        (64, [256, 64], 32, 1),
    ];
    check_sizes(first(4, &sizes));
}

#[test]
fn long_requests_over_codes_and_windows() {
    let dice = &mut Dice::new();
    for (heads, widths) in [(16, V3), (128, V3), (128, [256, 32]), (40, [128, 32])] {
        let lengths = [
            vec![(2_000, 1), (17, 1)],
            vec![(9, 1); 70],
            vec![(20_000, 1), (17, 1)],
            vec![(900, 1); 140],
            vec![(300, 300), (1, 1)],
        ];
        for (i, requests) in first(2, &lengths).iter().enumerate() {
            let mut case = Case::new(heads, widths, Some(64), 1);
            case.requests.clone_from(requests);
            check_each(&hopper_for(i), &Question::new(dice, case));
        }
        let mut case = Case::new(heads, widths, Some(64), 1);
        case.visibility = Visibility::CAUSAL.window(Some(100), None);
        check_each(&hopper(), &Question::new(dice, case));
    }
}

#[test]
fn rows_of_zeros_and_small_scales_see_no_more_than_others() {
    let device = hopper();
    let dice = &mut Dice::new();
    for heads in [16, 128] {
        let mut question = Question::new(dice, Case::new(heads, V3, Some(64), 2));
        Encoded::new(&question, Fp8E4m3::of_scale(1e-3)).check(&device);
        question.q.fill(bf16::ZERO);
        check_each(&device, &question);
    }
}

#[test]
fn a_code_that_is_no_number_reaches_its_own_request() {
    let device = hopper();
    for heads in [16, 128] {
        let mut case = Case::new(heads, V3, Some(64), 1);
        case.requests = vec![(200, 1), (200, 1)];
        let question = Question::new(&mut Dice::new(), case);
        let mut encoded = Encoded::new(&question, Fp8E4m3::default());
        let table = &question.pages.as_ref().expect("pages").tables()[1];
        let entry = V3[0] + V3[1];
        encoded.bytes[(table[2] as usize * 64 + 3) * entry + 77] = 0x7f;
        let found = encoded.found(&device).expect("a kernel");
        let out = device.download(&found.out).expect("values");
        // Rows before and behind are nobody's
        let of_request = |row: usize| &out[(1 + row) * heads * V3[0]..][..heads * V3[0]];
        assert!(of_request(0).iter().all(|x| x.is_finite()));
        assert!(of_request(1).iter().all(|x| x.is_nan()), "{heads} heads");
    }
}
