//! The gradients of attention over rows with Hopper's tensor cores against the CPU in f64, on the same inputs in bf16.

use half::bf16;

use super::flash::{Case, Question, V3, grouped, latent};
use super::{
    Backend, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, CudaOptions, Dice, Strided, hopper,
    hopper_for, own_hopper,
};
use crate::backend::{Accum, AttentionBackward, Landing, Landings};
use crate::cuda::{Wanted, gradients_to};
use crate::element::Element;
use crate::segments::Segments;
use crate::visibility::Visibility;

/// What is asked, the forward pass's answer, and the gradient of that: no numbers where rows are nobody's.
struct Asked {
    question: Question,
    out: Vec<f64>,
    lse: Vec<f64>,
    d_out: Vec<bf16>,
}

/// The same in a device's memory.
struct OnDevice {
    values: [CudaBuffer<bf16>; 3],
    out: CudaBuffer<bf16>,
    lse: CudaBuffer<f32>,
    d_out: CudaBuffer<bf16>,
}

/// Gradients of queries, of keys and values, and of what heads share of the keys.
type Gradients<S> = Vec<Vec<S>>;

impl Asked {
    fn new(dice: &mut Dice, case: Case) -> Self {
        let question = Question::new(dice, case);
        Self::of(dice, question, false)
    }

    /// `sunk`: some of the probability goes nowhere.
    fn of(dice: &mut Dice, question: Question, sunk: bool) -> Self {
        let line = question.case.heads[0] * question.case.widths[2];
        let values = question.widened();
        let asked = question.asked::<Cpu<f64>, f64>(values.each_ref());
        let mut parts = Cpu::attend(&CPU, &asked).expect("runs");
        if sunk {
            let width = question.case.widths[2];
            Cpu::<f64>::sink(&CPU, &mut parts.out, &mut parts.lse, None, width).expect("runs");
        }
        let mut d_out = vec![bf16::NAN; question.segments.queries() * line];
        for segment in question.segments.list() {
            for row in segment.queries.clone() {
                d_out[row * line..][..line].copy_from_slice(&dice.values::<bf16>(line));
            }
        }
        Self {
            question,
            out: parts.out,
            lse: parts.lse,
            d_out,
        }
    }

    /// The whole of attention's question, of values of a device.
    fn backward<'a, B: Backend<Elem = S>, S: Element>(
        &'a self,
        values: [&'a B::Buffer<S>; 3],
        lse: &'a B::Buffer<Accum<B>>,
        [out, d_out]: [&'a B::Buffer<S>; 2],
    ) -> AttentionBackward<'a, B> {
        let Case { heads, widths, .. } = &self.question.case;
        let window = |buffer| Strided {
            buffer,
            offset: 0,
            rows: self.question.segments.queries(),
            heads: heads[0],
            width: widths[2],
            row_stride: heads[0] * widths[2],
            head_stride: widths[2],
        };
        AttentionBackward {
            attention: self.question.asked::<B, S>(values),
            out: window(out),
            lse,
            d_out: window(d_out),
        }
    }

    /// Where gradients go: where their operands lie.
    fn landings(&self) -> Landings {
        let [key, rope, value] = self.question.case.widths;
        let at = Landing::new;
        Landings {
            q: at(0, key + rope, 0),
            q_rope: at(0, key + rope, key),
            k: at(1, key + value, 0),
            k_rope: at(2, rope, 0),
            v: Some(at(1, key + value, key)),
        }
    }

    fn lens(&self) -> [usize; 3] {
        self.question.values.each_ref().map(Vec::len)
    }

    fn wanted(&self) -> Gradients<f64> {
        let values = self.question.widened();
        let d_out: Vec<f64> = self.d_out.iter().map(|x| x.to_f64()).collect();
        let asked =
            self.backward::<Cpu<f64>, f64>(values.each_ref(), &self.lse, [&self.out, &d_out]);
        Cpu::attention_gradients(&CPU, &asked, &self.landings(), &self.lens()).expect("runs")
    }

    fn upload(&self, device: &CudaDevice) -> OnDevice {
        let out: Vec<bf16> = self.out.iter().map(|&x| bf16::from_f64(x)).collect();
        let lse: Vec<f32> = self.lse.iter().map(|&x| x as f32).collect();
        OnDevice {
            values: self.question.upload(device),
            out: device.upload(&out).expect("room"),
            lse: device.upload(&lse).expect("room"),
            d_out: device.upload(&self.d_out).expect("room"),
        }
    }

    fn on<'a>(&'a self, there: &'a OnDevice) -> AttentionBackward<'a, Cuda<bf16>> {
        let values = there.values.each_ref();
        self.backward::<Cuda<bf16>, bf16>(values, &there.lse, [&there.out, &there.d_out])
    }

    /// The gradients, and the names of the kernels that gave them.
    fn found(&self, device: &CudaDevice) -> (Gradients<bf16>, Vec<String>) {
        let there = self.upload(device);
        let asked = self.on(&there);
        let run = || Cuda::attention_gradients(device, &asked, &self.landings(), &self.lens());
        let (gradients, commands) = device.time_commands(run).expect("runs");
        let download = |x: &CudaBuffer<bf16>| device.download(x).expect("values");
        (
            gradients.iter().map(download).collect(),
            commands.into_iter().map(|one| one.name).collect(),
        )
    }

    /// The same by an operation by itself, where rows are zeros that nobody has.
    fn placed(&self, device: &CudaDevice) -> (Gradients<bf16>, Vec<String>) {
        let [q, kv, k_rope] = self.lens();
        let [q, kv] = [q, kv].map(|len| device.zeros::<bf16>(len).expect("room"));
        let sums = device.upload(&vec![f32::NAN; k_rope]).expect("room");
        let [key, rope, _] = self.question.case.widths;
        let like = self.question.asked::<Cuda<bf16>, bf16>([&q, &kv, &kv]);
        let wanted = Wanted {
            q: Strided {
                width: key + rope,
                ..like.q
            },
            k: like.k,
            v: like.v,
            k_rope: (rope > 0).then_some(&sums),
        };
        let there = self.upload(device);
        let asked = self.on(&there);
        let run = || gradients_to(device, &asked, &wanted, true);
        let ((), commands) = device.time_commands(run).expect("runs");
        let [q, kv] = [&q, &kv].map(|x| device.download(x).expect("values"));
        let sums = device.download(&sums).expect("values");
        let rounded = sums.into_iter().map(bf16::from_f32).collect();
        (
            vec![q, kv, rounded],
            commands.into_iter().map(|one| one.name).collect(),
        )
    }

    /// Asks a device, which takes its new kernels, and compares.
    #[track_caller]
    fn check(&self, device: &CudaDevice) {
        let (found, names) = self.found(device);
        let what = format!("{:?}", self.question.case);
        assert!(takes_flash(&names), "{names:?} of {what}");
        let wanted = self.wanted();
        for ((name, found), wanted) in NAMES.iter().zip(&found).zip(&wanted) {
            assert_near(&format!("{name} of {what}"), found, wanted);
        }
        let segments = &self.question.segments;
        let own = |row| segments.list().iter().any(|own| own.queries.contains(&row));
        let line = found[0].len() / segments.queries();
        for (row, values) in found[0].chunks(line).enumerate() {
            let nothing = values.iter().all(|x| *x == bf16::ZERO);
            assert!(own(row) || nothing, "row {row} is nobody's in {what}");
        }
    }
}

const NAMES: [&str; 3] = [
    "queries' gradient",
    "keys' and values' gradient",
    "shared keys' gradient",
];

fn takes_flash(names: &[String]) -> bool {
    names.iter().any(|name| name.starts_with("flash_backward"))
}

/// How far values are from those that are wanted, beside these.
#[track_caller]
fn assert_near(what: &str, found: &[bf16], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(wanted);
    let off: f64 = pairs.map(|(x, y)| square(x.to_f64() - y)).sum();
    let all: f64 = wanted.iter().copied().map(square).sum();
    // What is no number is not below either
    let near = off <= square(4e-3) * all;
    assert!(near, "{what}: {:.2e}", (off / all).sqrt());
}

#[test]
fn gradients_are_right_for_every_width() {
    let dice = &mut Dice::new();
    for sizes in [
        latent(2, V3),
        latent(2, [64, 32, 64]),
        latent(1, [96, 16, 48]),
        latent(1, [192, 64, 256]),
        grouped(2, 2, 128),
        grouped(1, 1, 64),
        grouped(1, 1, 80),
        grouped(1, 1, 192),
    ] {
        let lengths = [[200, 200], [1, 1], [70, 150]];
        Asked::new(dice, Case::new(sizes, &lengths)).check(&hopper());
    }
}

#[test]
fn heads_may_share_keys() {
    let dice = &mut Dice::new();
    let shared = ([6, 2, 1, 2], V3);
    let own = ([2, 2, 2, 2], [64, 32, 64]);
    for sizes in [grouped(6, 2, 128), grouped(2, 1, 256), shared, own] {
        Asked::new(dice, Case::new(sizes, &[[20, 20], [70, 150]])).check(&hopper());
    }
}

#[test]
fn gradients_are_right_for_what_visibilities_show() {
    let dice = &mut Dice::new();
    for visibility in [
        Visibility::FULL,
        Visibility::CAUSAL.window(Some(63), None),
        Visibility::FULL.window(Some(20), Some(40)),
        Visibility::CAUSAL.chunk(96),
    ] {
        let mut case = Case::new(latent(1, V3), &[[150, 150], [40, 300], [0, 9], [5, 0]]);
        case.visibility = visibility;
        Asked::new(dice, case).check(&hopper());
    }
    // The first rows see nothing
    Asked::new(dice, Case::new(grouped(1, 1, 128), &[[200, 130]])).check(&hopper());
}

#[test]
fn logits_may_be_capped_and_sink() {
    let dice = &mut Dice::new();
    for sizes in [grouped(2, 2, 128), grouped(1, 1, 256)] {
        let mut case = Case::new(sizes, &[[140, 200]]);
        case.cap = Some(3.0);
        Asked::new(dice, case).check(&hopper());
    }
    let question = Question::new(dice, Case::new(latent(1, V3), &[[40, 40]]));
    Asked::of(dice, question, true).check(&hopper());
}

#[test]
fn blocks_may_add_as_they_come() {
    let device = own_hopper(CudaOptions {
        fast_gradients: true,
        ..CudaOptions::default()
    });
    let dice = &mut Dice::new();
    for sizes in [latent(2, V3), grouped(1, 1, 64), grouped(1, 1, 256)] {
        Asked::new(dice, Case::new(sizes, &[[200, 200], [30, 150]])).check(&device);
    }
}

#[test]
fn blocks_that_add_in_turn_give_the_same_bits() {
    let dice = &mut Dice::new();
    for sizes in [latent(4, V3), latent(2, [64, 32, 64]), grouped(1, 1, 256)] {
        let asked = Asked::new(dice, Case::new(sizes, &[[300, 300], [100, 150]]));
        let bits = |device: &CudaDevice| -> Vec<Vec<u16>> {
            let (found, _) = asked.found(device);
            let bits = |values: &Vec<bf16>| values.iter().map(|x| x.to_bits()).collect();
            found.iter().map(bits).collect()
        };
        // Where the host does what threads ask for late, others come first
        let once = bits(&hopper());
        assert!(once == bits(&hopper_for(1)), "{:?}", asked.question.case);
        assert!(once == bits(&hopper_for(3)), "{:?}", asked.question.case);
    }
}

#[test]
fn an_operation_by_itself_gives_the_same() {
    let dice = &mut Dice::new();
    for sizes in [latent(2, V3), grouped(2, 1, 128)] {
        let asked = Asked::new(dice, Case::new(sizes, &[[130, 150], [20, 20]]));
        let (found, names) = asked.placed(&hopper());
        assert!(takes_flash(&names), "{names:?}");
        assert!(found == asked.found(&hopper()).0);
    }
    // Where no kernel of Hopper's does it, sums are rounded to where they go
    let few = Asked::new(dice, Case::new(latent(2, V3), &[[3, 17]]));
    let (found, names) = few.placed(&hopper());
    assert!(!takes_flash(&names), "{names:?}");
    assert!(found == few.found(&hopper()).0);
}

#[test]
fn what_the_kernels_can_not_do_goes_the_plain_way() {
    let dice = &mut Dice::new();
    // Beside heads of these widths, a cap's slope has no registers
    let mut capped = Case::new(latent(1, V3), &[[17, 17]]);
    capped.cap = Some(3.0);
    let few = Case::new(latent(1, V3), &[[3, 17]]);
    let narrow = Case::new(grouped(1, 1, 24), &[[17, 17]]);
    for case in [capped, few, narrow] {
        let asked = Asked::new(dice, case);
        let (found, names) = asked.found(&hopper());
        assert!(
            !takes_flash(&names),
            "{names:?} of {:?}",
            asked.question.case
        );
        for (found, wanted) in found.iter().zip(&asked.wanted()) {
            assert_near("a gradient", found, wanted);
        }
    }
}

#[test]
fn segments_that_share_keys_are_added_up() {
    let dice = &mut Dice::new();
    let mut question = Question::new(dice, Case::new(latent(1, V3), &[[20, 30], [20, 30]]));
    let mut list = question.segments.list().to_vec();
    list[1].keys = list[0].keys.clone();
    let (queries, keys) = (question.segments.queries(), question.segments.keys());
    question.segments = Segments::new(list, Visibility::CAUSAL, queries, keys);
    let asked = Asked::of(dice, question, false);
    let (found, names) = asked.found(&hopper());
    assert!(!takes_flash(&names), "{names:?}");
    for (found, wanted) in found.iter().zip(&asked.wanted()) {
        assert_near("a gradient", found, wanted);
    }
}
