//! Attention over rows and pages, all keys or chosen ones, with everything that may stand between logits and probabilities.

use super::near::assert_rounded;
use super::{
    Accum, Both, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, Dice, Number, Shape, assert_near,
    assert_same, device, in_each_type, segment,
};
use crate::backend::{Attention, AttentionParts, Backend, Chosen, Pages, Strided};
use crate::element::Scalar;
use crate::error::Result;
use crate::segments::{Segment, Segments};
use crate::softmax::{AttentionBias, Dropout, Softmax};

mod cases;

in_each_type! { visibilities adjustments shapes absorbed_pages key_types selections splits rows_beside poisoned rounded joins graphs }

/// Heads of queries, of both parts of keys and of values; widths of the three.
type Sizes = [usize; 7];

/// Queries, keys and values, and who sees what.
struct Question<T: Number, E: Scalar> {
    q: (Shape, Both<T>),
    q_rope: (Shape, Both<T>),
    /// Buffers of keys and values, and the windows of both parts of keys and of values.
    entries: Vec<Both<E>>,
    windows: [(Shape, usize); 3],
    segments: Segments,
    pages: Option<Pages>,
    /// Indices, and how many a row has.
    chosen: Option<(Vec<i32>, CudaBuffer<i32>, usize)>,
    bias: Option<[usize; 3]>,
    cap: Option<f64>,
    dropout: Option<Dropout>,
}

impl<T: Number, E: Scalar> Question<T, E> {
    fn new(dice: &mut Dice, sizes: Sizes, segments: Segments) -> Self {
        let [heads, k, k_rope, v, a, r, width] = sizes;
        let q = Shape::random(dice, segments.queries(), heads, a);
        let q_rope = Shape::random(dice, segments.queries(), heads, r);
        let parts = [(k, a), (k_rope, r), (v, width)];
        let shapes = parts.map(|(heads, width)| Shape::random(dice, segments.keys(), heads, width));
        Self {
            q: (q, Both::random(dice, q.len())),
            q_rope: (q_rope, Both::random(dice, q_rope.len())),
            entries: shapes
                .map(|shape| Both::random(dice, shape.len()))
                .into_iter()
                .collect(),
            windows: [(shapes[0], 0), (shapes[1], 1), (shapes[2], 2)],
            segments,
            pages: None,
            chosen: None,
            bias: None,
            cap: None,
            dropout: None,
        }
    }

    /// Keys whose first part is the values as well: neighbours of one entry of a cache.
    fn absorbed(
        dice: &mut Dice,
        [heads, width, rope]: [usize; 3],
        slots: usize,
        segments: Segments,
    ) -> Self {
        let mut question = Self::new(dice, [heads, 1, 1, 1, width, rope, width], segments);
        let entry = Shape::random(dice, slots, 1, width + rope);
        let part = |offset, width| {
            let offset = entry.offset + offset;
            (
                Shape {
                    offset,
                    width,
                    ..entry
                },
                0,
            )
        };
        question.entries = vec![Both::random(dice, entry.len())];
        question.windows = [part(0, width), part(width, rope), part(0, width)];
        question
    }

    /// Puts the keys of each segment into blocks that a table names.
    fn in_pages(mut self, page: usize, tables: Vec<Vec<u32>>) -> Self {
        self.pages = Some(Pages::new(page, tables));
        self
    }

    /// The keys that each row attends to, -1 behind the last.
    fn choosing(mut self, indices: Vec<i32>, width: usize) -> Self {
        let on_device = device().upload(&indices).expect("room");
        self.chosen = Some((indices, on_device, width));
        self
    }

    /// Writes what is no number to all entries of rows that `live` does not hold.
    fn poisoned(mut self, live: impl Fn(usize) -> bool) -> Self {
        for (buffer, values) in self.entries.iter_mut().enumerate() {
            let mut poisoned = std::mem::take(&mut values.cpu);
            for (shape, _) in self.windows.iter().filter(|(_, of)| *of == buffer) {
                for row in (0..shape.rows).filter(|&row| !live(row)) {
                    for head in 0..shape.heads {
                        let from = shape.offset + row * shape.row_stride + head * shape.head_stride;
                        poisoned[from..from + shape.width]
                            .fill(E::from_f64([f64::NAN, f64::INFINITY][row % 2]));
                    }
                }
            }
            *values = Both::of(poisoned);
        }
        self
    }

    fn strided<'a, B: Backend>(
        &self,
        part: usize,
        of: impl Fn(&'a Both<E>) -> &'a B::Buffer<E>,
        entries: &'a [Both<E>],
    ) -> Strided<'a, B, E> {
        let (shape, buffer) = self.windows[part];
        shape.of(of(&entries[buffer]))
    }

    fn softmax<'a, B: Backend>(&self, bias: Option<&'a AttentionBias<B>>) -> Softmax<'a, B> {
        let width = self.q.0.width + self.q_rope.0.width;
        let mut softmax = Softmax::scaled(1.0 / (width.max(1) as f64).sqrt()).dropout(self.dropout);
        if let Some(cap) = self.cap {
            softmax = softmax.soft_cap(cap);
        }
        match bias {
            Some(bias) => softmax.bias(bias),
            None => softmax,
        }
    }

    fn on_cpu(&self) -> AttentionParts<Cpu<T>> {
        let bias = self
            .bias
            .map(|shape| AttentionBias::from_f64(&CPU, &biases(shape), shape).expect("room"));
        let entries = &self.entries;
        let part = |part| self.strided::<Cpu<T>>(part, |both| &both.cpu, entries);
        let attention = Attention {
            q: self.q.0.of(&self.q.1.cpu),
            q_rope: self.q_rope.0.of(&self.q_rope.1.cpu),
            k: part(0),
            k_rope: part(1),
            v: part(2),
            segments: &self.segments,
            pages: self.pages.as_ref(),
            selection: self.chosen.as_ref().map(|(indices, _, width)| Chosen {
                indices,
                width: *width,
            }),
            softmax: self.softmax(bias.as_ref()),
        };
        Cpu::attend(&CPU, &attention).expect("runs")
    }

    fn on_cuda(&self) -> Result<AttentionParts<Cuda<T>>> {
        self.on(&device())
    }

    fn on(&self, device: &CudaDevice) -> Result<AttentionParts<Cuda<T>>> {
        self.ask(device, |asked| Cuda::attend(device, asked))
    }

    /// Asks for the output alone as well, and compares.
    #[track_caller]
    fn check_rounded(&self, what: &str) {
        let device = device();
        let found = self.ask(&device, |asked| Cuda::attend_rounded(&device, asked));
        let whole = self.on(&device).expect("runs");
        assert_rounded(&device, whole, &found.expect("runs"), what);
    }

    /// What `answer` makes of the question on a device.
    fn ask<R>(
        &self,
        device: &CudaDevice,
        answer: impl FnOnce(&Attention<'_, Cuda<T>, E>) -> R,
    ) -> R {
        let bias = self
            .bias
            .map(|shape| AttentionBias::from_f64(device, &biases(shape), shape).expect("room"));
        let entries = &self.entries;
        let part = |part| self.strided::<Cuda<T>>(part, |both| &both.cuda, entries);
        let attention = Attention {
            q: self.q.0.of(&self.q.1.cuda),
            q_rope: self.q_rope.0.of(&self.q_rope.1.cuda),
            k: part(0),
            k_rope: part(1),
            v: part(2),
            segments: &self.segments,
            pages: self.pages.as_ref(),
            selection: self.chosen.as_ref().map(|(_, indices, width)| Chosen {
                indices,
                width: *width,
            }),
            softmax: self.softmax(bias.as_ref()),
        };
        answer(&attention)
    }

    /// Compares, and returns the CPU's parts.
    #[track_caller]
    fn check(&self, what: &str) -> AttentionParts<Cpu<T>> {
        self.compare(what, &self.on_cuda().expect("runs"))
    }

    #[track_caller]
    fn compare(&self, what: &str, found: &AttentionParts<Cuda<T>>) -> AttentionParts<Cpu<T>> {
        let wanted = self.on_cpu();
        assert_same(&format!("{what}: lse"), &found.lse, &wanted.lse);
        // Which of several logits is the largest, where one that is seen is a NaN, nobody says
        let numbers = wanted.lse.iter().map(|lse| !lse.to_f64().is_nan());
        let told = |all: &[Accum<T>]| -> Vec<Accum<T>> {
            let pairs = all.iter().zip(numbers.clone());
            pairs
                .filter_map(|(&max, is_told)| is_told.then_some(max))
                .collect()
        };
        let max = device().download(&found.max_logit).expect("values");
        assert_near(
            &format!("{what}: max"),
            &told(&max),
            &told(&wanted.max_logit),
        );
        assert_same(&format!("{what}: out"), &found.out, &wanted.out);
        wanted
    }
}

fn biases([heads, queries, keys]: [usize; 3]) -> Vec<f64> {
    let mut dice = Dice::new();
    let values = (0..heads * queries * keys).map(|_| match dice.below(9) {
        0 => f64::NEG_INFINITY,
        _ => dice.real(),
    });
    values.collect()
}

/// Three sequences, with rows before, between and behind them that belong to none; the last has more queries than keys.
fn sequences() -> (Vec<Segment>, usize, usize) {
    let list = vec![
        segment(0, 1..8, 2..9),
        segment(3, 9..12, 10..81),
        segment(4, 12..17, 90..93),
    ];
    (list, 19, 95)
}

const SMALL: Sizes = [4, 2, 1, 2, 5, 3, 7];
