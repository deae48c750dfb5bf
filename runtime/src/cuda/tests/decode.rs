//! Absorbed attention with Hopper's tensor cores against the CPU in f64, on the same inputs in bf16.

mod chosen;
mod codes;
mod sizes;

use half::bf16;

use super::super::{CudaGraph, CudaOptions};
use super::near::{assert_near, assert_rounded};
use super::{
    Backend, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, Dice, Strided, hopper, own_hopper, segment,
};
use crate::backend::{Attention, AttentionParts, Pages};
use crate::element::Scalar;
use crate::error::Result;
use crate::segments::Segments;
use crate::softmax::Softmax;
use crate::visibility::Visibility;

/// What is asked, before there are any values.
#[derive(Debug, Clone)]
struct Case {
    heads: usize,
    /// Widths of both parts of keys.
    latent: usize,
    rope: usize,
    page: Option<usize>,
    visibility: Visibility,
    /// Keys of each request, and how many of its tokens ask.
    requests: Vec<(usize, usize)>,
}

/// Requests of very different lengths, that without keys included, with `new` new tokens each.
fn ragged(new: usize) -> Vec<(usize, usize)> {
    let lengths = [1, 700, 0, 63, 64, 65, 2, 1500, 130];
    lengths.map(|length| (length, new)).into()
}

impl Case {
    fn new(heads: usize, [latent, rope]: [usize; 2], page: Option<usize>, new: usize) -> Self {
        Self {
            heads,
            latent,
            rope,
            page,
            visibility: Visibility::CAUSAL,
            requests: ragged(new),
        }
    }

    fn width(&self) -> usize {
        self.latent + self.rope
    }

    fn scale(&self) -> f64 {
        1.0 / (self.width() as f64).sqrt()
    }
}

/// Queries, entries of a cache, and who sees what. Rows before and behind the requests' are nobody's, and entries that no request has are
/// no numbers.
struct Question {
    case: Case,
    q: Vec<bf16>,
    entries: Vec<bf16>,
    segments: Segments,
    pages: Option<Pages>,
}

impl Question {
    fn new(dice: &mut Dice, case: Case) -> Self {
        let page = case.page.unwrap_or(1);
        let blocks: usize = case
            .requests
            .iter()
            .map(|(keys, _)| keys.div_ceil(page) + 1)
            .sum();
        Self::in_room(dice, case, blocks + 3)
    }

    /// One whose cache has room for so many blocks, of one key each where there are no pages.
    fn in_room(dice: &mut Dice, case: Case, blocks: usize) -> Self {
        let page = case.page.unwrap_or(1);
        let slots = blocks * page;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        let mut live = vec![false; slots];
        let (mut row, mut key) = (1, 2);
        let (mut list, mut tables) = (Vec::new(), Vec::new());
        for (sequence, &(keys, new)) in case.requests.iter().enumerate() {
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
            table.extend([u32::MAX, blocks as u32]);
            tables.push(table);
            list.push(segment(sequence, row..row + new, own));
            (row, key) = (row + new, key + keys + 1);
        }
        let rows = row + 2;
        let entry = |&live: &bool| match live {
            true => dice.values::<bf16>(case.width()),
            false => vec![bf16::NAN; case.width()],
        };
        let entries = live.iter().flat_map(entry).collect();
        Self {
            q: dice.values(rows * case.heads * case.width()),
            entries,
            segments: Segments::new(list, case.visibility, rows, slots),
            pages: case.page.map(|page| Pages::new(page, tables)),
            case,
        }
    }

    fn asked<'a, B: Backend<Elem = S>, S: Scalar>(
        &'a self,
        q: &'a B::Buffer<S>,
        entries: &'a B::Buffer<S>,
    ) -> Attention<'a, B, S> {
        let Case {
            heads,
            latent,
            rope,
            ..
        } = self.case;
        let part = |buffer, rows, heads, offset, width| Strided {
            buffer,
            offset,
            rows,
            heads,
            width,
            row_stride: heads * self.case.width(),
            head_stride: self.case.width(),
        };
        let (rows, slots) = (self.segments.queries(), self.segments.keys());
        Attention {
            q: part(q, rows, heads, 0, latent),
            q_rope: part(q, rows, heads, latent, rope),
            k: part(entries, slots, 1, 0, latent),
            k_rope: part(entries, slots, 1, latent, rope),
            v: part(entries, slots, 1, 0, latent),
            segments: &self.segments,
            pages: self.pages.as_ref(),
            selection: None,
            softmax: Softmax::scaled(self.case.scale()),
        }
    }

    /// The answer in f64.
    fn wanted(&self) -> AttentionParts<Cpu<f64>> {
        let widened = |values: &[bf16]| values.iter().map(|x| x.to_f64()).collect();
        let (q, entries): (Vec<f64>, Vec<f64>) = (widened(&self.q), widened(&self.entries));
        Cpu::attend(&CPU, &self.asked::<Cpu<f64>, f64>(&q, &entries)).expect("runs")
    }

    fn upload(&self, device: &CudaDevice) -> [CudaBuffer<bf16>; 2] {
        [&self.q, &self.entries].map(|values| device.upload(values).expect("room"))
    }

    fn attend(
        &self,
        device: &CudaDevice,
        [q, entries]: &[CudaBuffer<bf16>; 2],
    ) -> Result<AttentionParts<Cuda<bf16>>> {
        Cuda::attend(device, &self.asked::<Cuda<bf16>, bf16>(q, entries))
    }

    /// The answer, and the names of the kernels that gave it.
    fn found(
        &self,
        device: &CudaDevice,
        given: &[CudaBuffer<bf16>; 2],
    ) -> (AttentionParts<Cuda<bf16>>, Vec<String>) {
        let (parts, commands) = device
            .time_commands(|| self.attend(device, given))
            .expect("runs");
        (parts, commands.into_iter().map(|one| one.name).collect())
    }

    /// Asks a device, which takes its new kernels, and compares.
    #[track_caller]
    fn check(&self, device: &CudaDevice) {
        let (parts, names) = self.found(device, &self.upload(device));
        let decodes = names.iter().any(|name| name.starts_with("decode_"));
        assert!(decodes, "{names:?} of {:?}", self.case);
        self.compare(device, &parts);
    }

    #[track_caller]
    fn compare(&self, device: &CudaDevice, found: &AttentionParts<Cuda<bf16>>) {
        self.compare_with(&self.wanted(), device, found, [6e-3, 1e-3]);
    }

    /// How much lines, of their length, and logits may be off is given.
    #[track_caller]
    fn compare_with(
        &self,
        wanted: &AttentionParts<Cpu<f64>>,
        device: &CudaDevice,
        found: &AttentionParts<Cuda<bf16>>,
        off: [f64; 2],
    ) {
        let what = format!("{:?}", self.case);
        assert_near(device, wanted, found, self.case.latent, off, &what);
    }
}

/// The bits of an answer.
fn bits(device: &CudaDevice, parts: &AttentionParts<Cuda<bf16>>) -> Vec<u32> {
    let all = [&parts.out, &parts.lse, &parts.max_logit];
    let values = all.map(|part| device.download(part).expect("values"));
    values.concat().into_iter().map(f32::to_bits).collect()
}

const V3: [usize; 2] = [512, 64];

/// Cases, of which the host has time for the first `few`.
fn first<T>(few: usize, cases: &[T]) -> &[T] {
    match hopper().is_emulated() {
        true => &cases[..few],
        false => cases,
    }
}

#[test]
fn decode_gives_the_same_bits_every_time_and_is_scheduled_once() {
    // One of its own: other tests have the shared one make schedules meanwhile
    let device = own_hopper(CudaOptions::default());
    let dice = &mut Dice::new();
    let question = Question::new(dice, Case::new(128, V3, Some(64), 2));
    let given = question.upload(&device);
    let (parts, names) = question.found(&device, &given);
    let schedules = |names: &[String]| {
        names
            .iter()
            .filter(|&name| name == "decode_schedule")
            .count()
    };
    assert_eq!((names.len(), schedules(&names)), (2, 1), "{names:?}");
    let first = bits(&device, &parts);
    for _ in 0..5 {
        let (parts, names) = question.found(&device, &given);
        assert_eq!(names, ["decode_wide_64_128_512_64"]);
        assert!(bits(&device, &parts) == first, "other bits");
    }
    // Something else between
    Question::new(dice, Case::new(16, V3, None, 1)).check(&device);
    let (parts, _) = question.found(&device, &given);
    assert!(bits(&device, &parts) == first, "other bits");
}

#[test]
fn decode_rounds_what_it_writes_and_is_all_that_runs() {
    let dice = &mut Dice::new();
    // Whole requests of a block, and those that several share
    let mut long = Case::new(128, V3, Some(64), 1);
    long.requests = vec![(3000, 1)];
    let cases = [
        Case::new(128, V3, Some(64), 2),
        long,
        Case::new(16, V3, Some(64), 1),
        Case::new(40, [256, 32], None, 1),
    ];
    for case in cases {
        let device = hopper();
        let question = Question::new(dice, case);
        let given @ [q, entries] = &question.upload(&device);
        let asked = question.asked::<Cuda<bf16>, bf16>(q, entries);
        let (found, commands) = device
            .time_commands(|| Cuda::attend_rounded(&device, &asked))
            .expect("runs");
        let others = commands
            .iter()
            .filter(|one| !one.name.starts_with("decode_"));
        assert_eq!(others.count(), 0, "{commands:?}");
        let whole = question.attend(&device, given).expect("runs");
        assert_rounded(&device, whole, &found, &format!("{:?}", question.case));
    }
}

#[test]
fn a_recorded_decode_runs_again_with_other_lengths() {
    let device = hopper();
    let dice = &mut Dice::new();
    let blocks = 80;
    let with = |dice: &mut Dice, requests: [(usize, usize); 3], window: Option<usize>| {
        let mut case = Case::new(128, V3, Some(64), 1);
        case.requests = requests.into();
        case.visibility = match window {
            Some(before) => Visibility::CAUSAL.window(Some(before), None),
            None => Visibility::CAUSAL,
        };
        Question::in_room(dice, case, blocks)
    };
    let start = with(dice, [(1, 1), (1, 1), (1, 1)], None);
    let mut given = start.upload(&device);
    let mut graph = CudaGraph::new(&device);
    for lengths in [
        [300, 210, 2000],
        [301, 211, 2001],
        [64, 1500, 3],
        [301, 0, 1],
    ] {
        let requests = lengths.map(|length| (length, 1));
        let full = with(dice, requests, None);
        // Values go where the graph reads them
        for (to, values) in given.iter_mut().zip([&full.q, &full.entries]) {
            device
                .send(to.at(), bytemuck::cast_slice(values))
                .expect("room");
        }
        // Layers with all keys and layers with a window, in turn
        let mut windowed = with(dice, requests, Some(40));
        (windowed.q, windowed.entries) = (full.q.clone(), full.entries.clone());
        windowed.pages.clone_from(&full.pages);
        let step = || {
            (0..2)
                .map(|_| {
                    Ok([
                        full.attend(&device, &given)?,
                        windowed.attend(&device, &given)?,
                    ])
                })
                .collect::<Result<Vec<_>>>()
        };
        let layers = graph.run(step).expect("it runs");
        for [all, some] in &layers {
            full.compare(&device, all);
            windowed.compare(&device, some);
        }
    }
    assert_eq!(graph.recordings(), 1, "lengths are in tables");
    let commands = graph.time_commands(1).expect("it was recorded");
    let schedules = commands.iter().filter(|one| one.name == "decode_schedule");
    assert_eq!((schedules.count(), commands.len()), (2, 6), "{commands:?}");
}

#[test]
fn where_rows_may_not_depend_on_rows_beside_them_the_plain_kernel_runs() {
    let invariant = own_hopper(CudaOptions {
        batch_invariant: true,
        ..CudaOptions::default()
    });
    let mut case = Case::new(16, V3, Some(64), 1);
    case.requests = vec![(70, 1), (3, 1)];
    let question = Question::new(&mut Dice::new(), case);
    let given = question.upload(&invariant);
    let (_, names) = question.found(&invariant, &given);
    assert!(
        names.iter().all(|name| !name.starts_with("decode_")),
        "{names:?}"
    );
}
