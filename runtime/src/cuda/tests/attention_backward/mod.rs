//! The gradients of attention, of its bias and of sinks.

mod cases;

use super::*;
use crate::backend::{Attention, AttentionBackward, Chosen, Landing, Landings};
use crate::mask::Padding;
use crate::segments::{Segment, Segments};
use crate::softmax::{AttentionBias, Dropout, Softmax};
use crate::{Mask, Visibility};

in_each_type! { forms sights softmaxes selections popular_keys unseen_values_are_never_used sinks }

/// Heads and widths, and how keys and values lie.
#[derive(Debug, Clone, Copy)]
struct Form {
    heads: usize,
    key_heads: usize,
    rope_heads: usize,
    a: usize,
    r: usize,
    v: usize,
    /// Whether values are the window that keys are.
    absorbed: bool,
}

const fn form(
    [heads, key_heads, rope_heads]: [usize; 3],
    [a, r, v]: [usize; 3],
    absorbed: bool,
) -> Form {
    Form {
        heads,
        key_heads,
        rope_heads,
        a,
        r,
        v,
        absorbed,
    }
}

/// One head of keys and values for all, a group that fills no tile.
const ABSORBED: Form = form([19, 1, 1], [37, 3, 37], true);
/// A head of keys for each, and a second part for all.
const EXPANDED: Form = form([3, 3, 1], [5, 4, 7], false);
/// Groups that have second parts of their own.
const GROUPED: Form = form([6, 2, 2], [4, 2, 3], false);
/// Keys of a single part, more than a block's threads wide.
const WIDE: Form = form([2, 1, 1], [131, 0, 1], false);

/// What else there is.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    cap: Option<f64>,
    /// Heads of a bias.
    bias: Option<usize>,
    dropout: Option<Dropout>,
    /// Most keys of a query's choice.
    chosen: Option<usize>,
    /// Whether all queries choose some keys, and none others.
    popular: bool,
    /// Whether rows and keys that have nothing to do with each other hold no numbers.
    poisoned: bool,
    sunk: bool,
}

/// The longest sequence's tokens, queries and keys.
fn longest(segments: &Segments) -> [usize; 2] {
    segments.list().iter().fold([1, 1], |[q, k], segment| {
        [
            q.max(segment.first_query + segment.queries.len()),
            k.max(segment.first_key + segment.keys.len()),
        ]
    })
}

/// Random ascending positions, some beyond what there is or is seen.
fn choice(dice: &mut Dice, queries: usize, width: usize, end: usize) -> Vec<i32> {
    let mut all = Vec::new();
    for _ in 0..queries {
        let count = dice.below(width + 1);
        let mut own: Vec<i32> = (0..count).map(|_| dice.below(end + 3) as i32).collect();
        own.sort_unstable();
        own.dedup();
        own.resize(width, -1);
        all.extend(own);
    }
    all
}

/// The same, with some positions that are in every list, and others that are in none.
fn popular_choice(dice: &mut Dice, queries: usize, width: usize, end: usize) -> Vec<i32> {
    let mut all = choice(dice, queries, width, end);
    for own in all.chunks_exact_mut(width) {
        let others = own.iter().filter(|&&key| key > 1 && key % 7 != 3);
        let list: Vec<i32> = [0, 1].into_iter().chain(others.copied()).collect();
        own.fill(-1);
        let len = list.len().min(width);
        own[..len].copy_from_slice(&list[..len]);
    }
    all
}

/// Makes values of rows that nobody reads no numbers.
fn poison<S: Scalar>(x: &mut Both<S>, shape: Shape, read: impl Fn(usize) -> bool) {
    let mut values = x.cpu.clone();
    for row in (0..shape.rows).filter(|&row| !read(row)) {
        let first = shape.offset + row * shape.row_stride;
        let nonsense = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][row % 3];
        values[first..first + shape.heads * shape.head_stride].fill(S::from_f64(nonsense));
    }
    *x = Both::of(values);
}

/// A bias of both.
type Biases<T> = (AttentionBias<Cpu<T>>, AttentionBias<Cuda<T>>);

/// All windows of a pass, and where gradients go.
struct Pass<'a, T: Number> {
    segments: &'a Segments,
    form: Form,
    options: Options,
    /// Of q, q_rope, k, k_rope, v, out, d_out.
    shapes: [Shape; 7],
    values: [Both<T>; 7],
    lse: Both<Accum<T>>,
    bias: Option<Biases<T>>,
    chosen: Option<Both<i32>>,
    landings: Landings,
    lens: Vec<usize>,
}

impl<'a, T: Number> Pass<'a, T> {
    fn random(dice: &mut Dice, segments: &'a Segments, form: Form, options: Options) -> Self {
        let (rows, keys) = (segments.queries(), segments.keys());
        let Form {
            heads,
            key_heads,
            rope_heads,
            a,
            r,
            v,
            ..
        } = form;
        let mut shapes = [
            Shape::random(dice, rows, heads, a),
            Shape::random(dice, rows, heads, r),
            Shape::random(dice, keys, key_heads, a),
            Shape::random(dice, keys, rope_heads, r),
            Shape::random(dice, keys, key_heads, v),
            Shape::random(dice, rows, heads, v),
            Shape::random(dice, rows, heads, v),
        ];
        if form.absorbed {
            shapes[4] = shapes[2];
        }
        let mut values = shapes.map(|shape| Both::random(dice, shape.len()));
        if options.poisoned {
            let list = segments.list();
            let has_query = |row| list.iter().any(|segment| segment.queries.contains(&row));
            // Nothing of what is chosen here is poisoned
            let is_seen = |row: usize| {
                list.iter().any(|segment| {
                    segment.keys.contains(&row)
                        && (0..segment.queries.len())
                            .any(|i| segments.sees(segment, i, row - segment.keys.start))
                })
            };
            for i in [0, 1, 6] {
                poison(&mut values[i], shapes[i], has_query);
            }
            for i in [2, 3, 4] {
                poison(&mut values[i], shapes[i], is_seen);
            }
        }
        let [queries, longest] = longest(segments);
        let bias = options.bias.map(|heads| {
            let shape = [heads, queries + 1, longest + 2];
            let values: Vec<f64> = dice.values(shape.iter().product());
            let on_cpu = AttentionBias::from_f64(&CPU, &values, shape).expect("a bias");
            let on_cuda = AttentionBias::from_f64(&device(), &values, shape).expect("a bias");
            (on_cpu, on_cuda)
        });
        let chosen = options.chosen.map(|width| {
            let lists = if options.popular {
                popular_choice
            } else {
                choice
            };
            let indices = lists(dice, rows, width, longest);
            let cuda = device().upload(&indices).expect("room");
            Both { cpu: indices, cuda }
        });
        let landing = Landing::new;
        let k_line = a + if form.absorbed { 2 } else { v };
        let landings = Landings {
            q: landing(0, a + r + 1, 0),
            q_rope: landing(0, a + r + 1, a),
            k: landing(1, k_line, 0),
            k_rope: landing(2, r + 3, 2),
            v: (!form.absorbed).then_some(landing(1, k_line, a)),
        };
        let lens = vec![
            rows * heads * (a + r + 1),
            keys * key_heads * k_line,
            keys * rope_heads * (r + 3),
        ];
        let mut pass = Self {
            segments,
            form,
            options,
            shapes,
            values,
            lse: Both::of(Vec::new()),
            bias,
            chosen,
            landings,
            lens,
        };
        pass.attend();
        pass
    }

    /// What the forward pass gives.
    fn attend(&mut self) {
        let attention = self.attention::<Cpu<T>>(
            self.values.each_ref().map(|both| &both.cpu),
            self.bias.as_ref().map(|bias| &bias.0),
            self.chosen.as_ref().map(|chosen| &chosen.cpu),
        );
        let mut parts = Cpu::attend(&CPU, &attention).expect("runs");
        if self.options.sunk {
            Cpu::<T>::sink(&CPU, &mut parts.out, &mut parts.lse, None, self.form.v).expect("runs");
        }
        let shape = self.shapes[5];
        let mut out: Vec<T> = vec![T::from_f64(0.0); shape.len()];
        for (line, values) in parts.out.chunks_exact(self.form.v.max(1)).enumerate() {
            let first = shape.offset
                + line / shape.heads * shape.row_stride
                + line % shape.heads * shape.head_stride;
            for (out, value) in out[first..].iter_mut().zip(values) {
                *out = T::from_f64(value.to_f64());
            }
        }
        self.values[5] = Both::of(out);
        self.lse = Both::of(parts.lse);
    }

    fn softmax<'b, B: Backend>(&self, bias: Option<&'b AttentionBias<B>>) -> Softmax<'b, B> {
        let mut softmax = Softmax::scaled(0.3).dropout(self.options.dropout);
        if let Some(cap) = self.options.cap {
            softmax = softmax.soft_cap(cap);
        }
        if let Some(bias) = bias {
            softmax = softmax.bias(bias);
        }
        softmax
    }

    fn attention<'b, B: Backend<Elem = T>>(
        &'b self,
        values: [&'b B::Buffer<T>; 7],
        bias: Option<&'b AttentionBias<B>>,
        chosen: Option<&'b B::Indices>,
    ) -> Attention<'b, B, T> {
        let v = values[if self.form.absorbed { 2 } else { 4 }];
        Attention {
            q: self.shapes[0].of(values[0]),
            q_rope: self.shapes[1].of(values[1]),
            k: self.shapes[2].of(values[2]),
            k_rope: self.shapes[3].of(values[3]),
            v: self.shapes[4].of(v),
            segments: self.segments,
            pages: None,
            selection: chosen.map(|indices| Chosen {
                indices,
                width: self.options.chosen.unwrap_or(0),
            }),
            softmax: self.softmax(bias),
        }
    }

    /// Compares all gradients.
    fn check(&self, what: &str) {
        let what = format!("{what} {:?} {:?}", self.form, self.options);
        let cpu = self.values.each_ref().map(|both| &both.cpu);
        let on_cpu = AttentionBackward {
            attention: self.attention::<Cpu<T>>(
                cpu,
                self.bias.as_ref().map(|bias| &bias.0),
                self.chosen.as_ref().map(|chosen| &chosen.cpu),
            ),
            out: self.shapes[5].of(cpu[5]),
            lse: &self.lse.cpu,
            d_out: self.shapes[6].of(cpu[6]),
        };
        let cuda = self.values.each_ref().map(|both| &both.cuda);
        let on_cuda = AttentionBackward {
            attention: self.attention::<Cuda<T>>(
                cuda,
                self.bias.as_ref().map(|bias| &bias.1),
                self.chosen.as_ref().map(|chosen| &chosen.cuda),
            ),
            out: self.shapes[5].of(cuda[5]),
            lse: &self.lse.cuda,
            d_out: self.shapes[6].of(cuda[6]),
        };
        let zeros = |&len: &usize| vec![<Accum<T>>::from_f64(0.0); len];
        let mut wanted: Vec<_> = self.lens.iter().map(zeros).collect();
        Cpu::attend_backward(&CPU, &on_cpu, &self.landings, &mut wanted).expect("runs");
        let run = || {
            let zeros = |&len: &usize| device().zeros::<Accum<T>>(len).expect("room");
            let mut found: Vec<_> = self.lens.iter().map(zeros).collect();
            Cuda::attend_backward(&device(), &on_cuda, &self.landings, &mut found).expect("runs");
            found
        };
        let names = ["queries", "keys and values", "second parts of keys"];
        let (found, again) = (run(), run());
        for (((found, again), wanted), name) in found.iter().zip(&again).zip(&wanted).zip(names) {
            let what = format!("{name} of {what}");
            assert_same(&what, found, wanted);
            let [found, again] = [found, again].map(|x| device().download(x).expect("values"));
            assert!(
                bytemuck::cast_slice::<_, u8>(&found) == bytemuck::cast_slice::<_, u8>(&again),
                "{what}: other bytes in another run"
            );
        }
        let Some((on_cpu_bias, _)) = &self.bias else {
            return;
        };
        let len = on_cpu_bias.values().len();
        let mut sum = Both::<Accum<T>>::random(&mut Dice::new(), len);
        Cpu::bias_backward(&CPU, &on_cpu, &mut sum.cpu).expect("runs");
        Cuda::bias_backward(&device(), &on_cuda, &mut sum.cuda).expect("runs");
        assert_same(&format!("bias of {what}"), &sum.cuda, &sum.cpu);
    }
}
