//! The same where each query has a list of the keys that it attends to.

use half::bf16;

use super::super::near::{assert_lines_near, assert_rounded};
use super::super::{Backend, CPU, Cpu, Cuda, CudaDevice, Dice, hopper_for};
use super::codes::{Encoded, OFF};
use super::{Case, Question, V3, bits, first};
use crate::backend::{Attention, AttentionParts, BytesAttention, Chosen};
use crate::cache::{AnyScale, ByteFormat, Fp8DsMla, Fp8E4m3, Fp8E5m2, PowerOfTwo};
use crate::cuda::{CudaGraph, attend_counted_to};
use crate::element::Scalar;
use crate::visibility::Visibility;

/// A question, and the lists of its rows.
struct Lists {
    question: Question,
    width: usize,
    chosen: Vec<i32>,
}

impl Lists {
    /// Lists that ascend, of some of the keys that a row's sequence has, whether the row sees them or not; every fifth row has none, and so have rows of nobody.
    fn new(dice: &mut Dice, question: Question, width: usize) -> Self {
        let rows = question.segments.queries();
        let mut chosen = vec![-1; rows * width];
        for segment in question.segments.list() {
            for row in segment.queries.clone().filter(|row| row % 5 != 4) {
                let keys = segment.keys.len();
                let mut list: Vec<i32> = (0..keys as i32).collect();
                while list.len() > width {
                    list.remove(dice.below(list.len()));
                }
                list.retain(|_| dice.below(8) > 0);
                chosen[row * width..][..list.len()].copy_from_slice(&list);
            }
        }
        Self {
            question,
            width,
            chosen,
        }
    }

    fn asked<'a, B: Backend<Elem = S>, S: Scalar>(
        &'a self,
        q: &'a B::Buffer<S>,
        entries: &'a B::Buffer<S>,
        indices: &'a B::Indices,
    ) -> Attention<'a, B, S> {
        Attention {
            selection: Some(Chosen {
                indices,
                width: self.width,
            }),
            ..self.question.asked(q, entries)
        }
    }

    fn wanted(&self) -> AttentionParts<Cpu<f64>> {
        let widened = |values: &[bf16]| values.iter().map(|x| x.to_f64()).collect();
        let (q, entries): (Vec<f64>, Vec<f64>) =
            (widened(&self.question.q), widened(&self.question.entries));
        let asked = self.asked::<Cpu<f64>, f64>(&q, &entries, &self.chosen);
        Cpu::attend(&CPU, &asked).expect("runs")
    }

    /// Asks a device, which takes its new kernels, and compares; twice, which gives the same bits.
    #[track_caller]
    fn check(&self, device: &CudaDevice) {
        let [q, entries] = self.question.upload(device);
        let indices = device.upload(&self.chosen).expect("room");
        let asked = self.asked::<Cuda<bf16>, bf16>(&q, &entries, &indices);
        let ask = || device.time_commands(|| Cuda::attend(device, &asked));
        let (parts, commands) = ask().expect("runs");
        let sparse = commands.iter().any(|one| one.name.starts_with("sparse_"));
        assert!(sparse, "{commands:?} of {:?}", self.question.case);
        let case = &self.question.case;
        self.question
            .compare_with(&self.wanted(), device, &parts, [6e-3, 1e-3]);
        let (again, _) = ask().expect("runs");
        assert!(bits(device, &again) == bits(device, &parts), "{case:?}");
    }

    /// How many entries of each list count, perhaps none or more than there are, and the lists as far as they do.
    fn counted(self, dice: &mut Dice) -> (Vec<i32>, Self) {
        let width = self.width;
        let counts: Vec<i32> = (0..self.chosen.len() / width)
            .map(|_| dice.below(width + 20) as i32 - 9)
            .collect();
        let mut ended = self;
        for (list, &count) in ended.chosen.chunks_mut(width).zip(&counts) {
            list[(count.max(0) as usize).min(width)..].fill(-1);
        }
        (counts, ended)
    }

    /// Asks a device for attention to the first entries of lists, whose others name keys too. A step runs twice, with other counts the second time.
    #[track_caller]
    fn check_counts(self, dice: &mut Dice, device: &CudaDevice) {
        let [q, entries] = self.question.upload(device);
        let indices = device.upload(&self.chosen).expect("room");
        let (counts, ended) = self.counted(dice);
        let all = vec![ended.width as i32; counts.len()];
        let on_device = device.upload(&all).expect("room");
        let wanted = ended.wanted();
        let out = device.upload(&vec![bf16::NAN; wanted.out.len()]);
        let out = out.expect("room");
        let asked = ended.asked::<Cuda<bf16>, bf16>(&q, &entries, &indices);
        let mut graph = CudaGraph::new(device);
        let mut attend = || {
            let step = || attend_counted_to(device, &asked, Some(&on_device), &out);
            graph.run(step).expect("runs");
        };
        attend();
        let bytes = bytemuck::cast_slice(&counts);
        device.send(on_device.at(), bytes).expect("room");
        attend();
        let found = device.download(&out).expect("values");
        let found: Vec<f64> = found.into_iter().map(Scalar::to_f64).collect();
        let latent = ended.question.case.latent;
        let what = format!("{:?}", ended.question.case);
        assert_lines_near(&wanted.out, &found, latent, 9e-3, &what);
    }

    /// The same over entries that are encoded.
    #[track_caller]
    fn check_codes<F: ByteFormat>(&self, device: &CudaDevice, format: F) {
        let encoded = Encoded::new(&self.question, format);
        let q: Vec<f64> = self.question.q.iter().map(|x| x.to_f64()).collect();
        let said = self.asked::<Cpu<f64>, f64>(&q, &encoded.entries, &self.chosen);
        let wanted = Cpu::attend(&CPU, &said).expect("runs");
        let [q, entries] = self.question.upload(device);
        let bytes = device.upload(&encoded.bytes).expect("room");
        let indices = device.upload(&self.chosen).expect("room");
        let asked = self.asked::<Cuda<bf16>, bf16>(&q, &entries, &indices);
        let attention = of_bytes(asked);
        let ask = || {
            let parts =
                Cuda::attend_bytes(device, encoded.format, &bytes, encoded.shape(), &attention);
            parts.expect("runs")
        };
        let parts = ask().unwrap_or_else(|| panic!("no kernel for {:?}", self.question.case));
        self.question.compare_with(&wanted, device, &parts, OFF);
        let again = ask().expect("the same kernel");
        assert!(bits(device, &again) == bits(device, &parts));
        let (format, shape) = (encoded.format, encoded.shape());
        let found = Cuda::attend_bytes_rounded(device, format, &bytes, shape, &attention);
        let found = found.expect("runs").expect("the same kernel");
        let what = format!("{:?}", self.question.case);
        assert_rounded(device, parts, &found, &what);
    }
}

/// The same question of a cache of bytes.
fn of_bytes<'a>(asked: Attention<'a, Cuda<bf16>, bf16>) -> BytesAttention<'a, Cuda<bf16>> {
    BytesAttention {
        q: asked.q,
        q_rope: asked.q_rope,
        segments: asked.segments,
        pages: asked.pages,
        selection: asked.selection,
        softmax: asked.softmax,
    }
}

/// Heads, widths of both parts of keys, tokens of a page, new tokens of each request, and entries of a list.
type Size = (usize, [usize; 2], Option<usize>, usize, usize);

fn check_each(sizes: &[Size], visibility: Visibility) {
    let dice = &mut Dice::new();
    for (i, &(heads, widths, page, new, width)) in sizes.iter().enumerate() {
        let mut case = Case::new(heads, widths, page, new);
        case.visibility = visibility;
        let question = Question::new(dice, case);
        Lists::new(dice, question, width).check(&hopper_for(i));
    }
}

#[test]
fn few_heads() {
    let sizes = [
        (16, V3, Some(64), 1, 128),
        (16, V3, None, 3, 70),
        (8, V3, Some(5), 2, 300),
        (16, [256, 32], Some(1), 1, 64),
        (32, V3, Some(16), 2, 200),
        (20, [128, 0], None, 1, 1),
        (1, [256, 64], Some(64), 4, 500),
        (16, V3, None, 1, 2048),
    ];
    check_each(first(4, &sizes), Visibility::CAUSAL);
}

#[test]
fn many_heads() {
    let sizes = [
        (128, V3, Some(64), 1, 128),
        (64, V3, None, 2, 300),
        (40, [256, 32], Some(5), 1, 64),
        (128, [128, 48], None, 1, 200),
        (40, [512, 0], Some(1), 2, 70),
        (192, V3, Some(16), 1, 1),
        (128, V3, Some(64), 4, 2048),
        (320, [256, 64], None, 2, 90),
        (64, V3, Some(64), 4, 500),
    ];
    check_each(first(4, &sizes), Visibility::CAUSAL);
}

#[test]
fn entries_behind_those_that_count_are_passed_over() {
    let sizes = [
        (16, V3, Some(64), 2, 300),
        (64, [256, 32], None, 2, 500),
        (128, V3, Some(64), 2, 2048),
        (16, V3, None, 3, 2048),
    ];
    let dice = &mut Dice::new();
    for (i, &(heads, widths, page, new, width)) in first(2, &sizes).iter().enumerate() {
        let question = Question::new(dice, Case::new(heads, widths, page, new));
        Lists::new(dice, question, width).check_counts(dice, &hopper_for(i));
    }
}

#[test]
fn what_a_row_does_not_see_is_passed_over() {
    for visibility in [
        Visibility::CAUSAL.window(Some(100), None),
        Visibility::CAUSAL.window(Some(3), Some(0)),
        Visibility::FULL,
    ] {
        let sizes = [(16, V3, Some(64), 3, 300), (64, V3, None, 2, 300)];
        check_each(&sizes, visibility);
    }
}

#[test]
fn prompts() {
    let dice = &mut Dice::new();
    let mut case = Case::new(64, [128, 32], Some(64), 1);
    case.requests = vec![(70, 70), (1, 1), (130, 9)];
    let question = Question::new(dice, case);
    Lists::new(dice, question, 40).check(&hopper_for(0));
}

#[test]
fn codes_that_many_queries_choose_are_made_numbers_once() {
    let dice = &mut Dice::new();
    let mut case = Case::new(40, V3, Some(8), 1);
    case.requests = vec![(90, 90), (1, 1), (70, 30)];
    let question = Question::new(dice, case);
    let lists = Lists::new(dice, question, 60);
    let device = hopper_for(0);
    let names = |format| {
        let encoded = Encoded::new(&lists.question, format);
        let [q, entries] = lists.question.upload(&device);
        let bytes = device.upload(&encoded.bytes).expect("room");
        let indices = device.upload(&lists.chosen).expect("room");
        let asked = lists.asked::<Cuda<bf16>, bf16>(&q, &entries, &indices);
        let attention = of_bytes(asked);
        let ask =
            || Cuda::attend_bytes(&device, encoded.format, &bytes, encoded.shape(), &attention);
        let (_, commands) = device.time_commands(ask).expect("runs");
        let names = commands.iter().map(|one| one.name.to_string());
        names.collect::<Vec<_>>()
    };
    let names = names(Fp8DsMla::<AnyScale>::default());
    let has = |wanted: &str| names.iter().any(|name| name.starts_with(wanted));
    assert!(has("decode_fp8_ds_mla"), "{names:?}");
    assert!(has("sparse_wide_64_40_512_64_1"), "{names:?}");
    lists.check_codes(&device, Fp8DsMla::<AnyScale>::default());
    lists.check_codes(&device, Fp8E4m3::of_scale(0.037));
}

#[test]
fn codes_are_read_from_wherever_they_are() {
    let sizes = [
        (16, V3, Some(64), 1, 128),
        (128, V3, None, 2, 70),
        (5, [256, 32], Some(5), 2, 300),
        (40, V3, Some(1), 1, 200),
        (16, V3, None, 3, 500),
        (16, [128, 64], Some(64), 4, 90),
        (320, [512, 0], Some(16), 1, 64),
        (64, [256, 64], None, 1, 600),
        (128, V3, Some(64), 4, 2048),
        (1, V3, None, 1, 2048),
    ];
    let dice = &mut Dice::new();
    for (i, &(heads, widths, page, new, width)) in first(4, &sizes).iter().enumerate() {
        let question = Question::new(dice, Case::new(heads, widths, page, new));
        let lists = Lists::new(dice, question, width);
        let device = hopper_for(i);
        if widths[0] == 512 {
            lists.check_codes(&device, Fp8DsMla::<AnyScale>::default());
            lists.check_codes(&device, Fp8DsMla::<PowerOfTwo>::default());
        }
        // Kernels for both take the host long to compile
        if i % 2 == 0 || !device.is_emulated() {
            lists.check_codes(&device, Fp8E4m3::of_scale(0.037));
        }
        if i % 2 == 1 || !device.is_emulated() {
            lists.check_codes(&device, Fp8E5m2::default());
        }
    }
}
