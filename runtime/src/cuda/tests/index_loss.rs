//! The loss that trains an indexer, and its gradients.

use super::in_each_type;

in_each_type! { losses }

mod cases {
    use super::super::*;
    use crate::backend::{Attention, Chosen, IndexLoss};
    use crate::indexer::{LossEpsilon, LossReduction};
    use crate::mask::{Mask, Padding};
    use crate::segments::Segments;
    use crate::softmax::{AttentionBias, Softmax};
    use crate::visibility::Visibility;

    /// Sizes of attention and of the indexer.
    #[derive(Debug, Clone, Copy)]
    struct Sizes {
        heads: usize,
        key_heads: usize,
        rope_heads: usize,
        nope: usize,
        rope: usize,
        index_heads: usize,
        index_width: usize,
    }

    /// What is added to attention's question.
    #[derive(Debug, Clone, Copy)]
    struct Options {
        cap: Option<f64>,
        bias_heads: usize,
        chosen: usize,
        relu: bool,
        reduction: LossReduction,
        epsilon: LossEpsilon,
    }

    pub(super) fn losses<T: Number>() {
        let dice = &mut Dice::new();
        let expanded = Sizes {
            heads: 3,
            key_heads: 3,
            rope_heads: 1,
            nope: 5,
            rope: 2,
            index_heads: 3,
            index_width: 5,
        };
        let absorbed = Sizes {
            heads: 4,
            key_heads: 1,
            rope_heads: 1,
            nope: 40,
            rope: 0,
            index_heads: 64,
            index_width: 33,
        };
        let plain = Options {
            cap: None,
            bias_heads: 0,
            chosen: 0,
            relu: true,
            reduction: LossReduction::MeanValid,
            epsilon: LossEpsilon::Clamp,
        };
        let adding = Options {
            cap: Some(1.5),
            bias_heads: 3,
            relu: false,
            reduction: LossReduction::MeanAll,
            epsilon: LossEpsilon::Add,
            ..plain
        };
        let causal = |lens: &[u32]| {
            let rows = lens[lens.len() - 1] as usize;
            let mask = Mask::cu_seqlens(lens);
            let segments = mask.segments(rows, Visibility::CAUSAL, Padding::Allowed);
            segments.expect("segments")
        };
        let packed = causal(&[0, 13, 13, 14, 45]);
        let window = Mask::segment_ids(
            1,
            21,
            &[
                0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0,
            ],
        );
        let window = window
            .segments(
                21,
                Visibility::FULL.window(Some(3), Some(1)),
                Padding::Allowed,
            )
            .expect("segments");
        let bits: Vec<bool> = (0..2 * 7 * 7)
            .map(|i| i / 7 % 7 != 3 && dice.below(3) > 0)
            .collect();
        let given = Mask::visible(2, 7, &bits);
        let given = given
            .segments(14, Visibility::GIVEN, Padding::Allowed)
            .expect("segments");
        let nobody = causal(&[0, 0]);
        for (segments, sizes, options) in [
            (&packed, expanded, plain),
            (&packed, absorbed, plain),
            (&packed, expanded, adding),
            (&window, expanded, plain),
            (&window, expanded, adding),
            (&given, expanded, plain),
            (
                &given,
                absorbed,
                Options {
                    bias_heads: 1,
                    ..plain
                },
            ),
            (&packed, expanded, Options { chosen: 5, ..plain }),
            (
                &packed,
                absorbed,
                Options {
                    chosen: 40,
                    ..plain
                },
            ),
            (
                &window,
                expanded,
                Options {
                    chosen: 4,
                    reduction: LossReduction::Sum,
                    ..adding
                },
            ),
            (&given, expanded, Options { chosen: 3, ..plain }),
            (&nobody, expanded, plain),
            (
                &packed,
                Sizes {
                    index_width: 0,
                    ..expanded
                },
                plain,
            ),
        ] {
            compare::<T>(dice, segments, sizes, options);
        }
    }

    #[allow(clippy::too_many_lines)] // One question, asked twice
    fn compare<T: Number>(dice: &mut Dice, segments: &Segments, sizes: Sizes, options: Options) {
        let (rows, keys) = (segments.queries(), segments.keys());
        let mut window = |rows, heads, width| {
            let shape = Shape::random(dice, rows, heads, width);
            (shape, Both::<T>::random(dice, shape.len()))
        };
        let q = window(rows, sizes.heads, sizes.nope);
        let q_rope = window(rows, sizes.heads, sizes.rope);
        let k = window(keys, sizes.key_heads, sizes.nope);
        let k_rope = window(keys, sizes.rope_heads, sizes.rope);
        let index_q = window(rows, sizes.index_heads, sizes.index_width);
        let (of_index_k, mut index_k) = window(keys, 1, sizes.index_width);
        // Keys of padding belong to nobody
        for row in 0..keys {
            let own = |segment: &crate::segments::Segment| segment.keys.contains(&row);
            if !segments.list().iter().any(own) {
                let at = of_index_k.offset + row * of_index_k.row_stride;
                index_k.cpu[at..at + sizes.index_width].fill(T::from_f64(f64::NAN));
            }
        }
        let index_k = (of_index_k, Both::of(index_k.cpu));
        let weights = Both::<Accum<T>>::random(dice, rows * sizes.index_heads);
        // Some rows see nothing, as attention says it
        let lse = (0..rows * sizes.heads).map(|i| {
            let lse = if i % 17 == 3 {
                f64::NEG_INFINITY
            } else {
                6.0 + dice.real()
            };
            <Accum<T> as Scalar>::from_f64(lse)
        });
        let lse = Both::of(lse.collect::<Vec<_>>());
        let ends = segments.list().iter();
        let (most_queries, most_keys) = ends.fold((0, 0), |(queries, keys), segment| {
            (
                queries.max(segment.first_query + segment.queries.len()),
                keys.max(segment.first_key + segment.keys.len()),
            )
        });
        let shape = [options.bias_heads, most_queries + 1, most_keys + 2];
        let bias: Vec<f64> = (0..shape.iter().product()).map(|_| dice.real()).collect();
        let of_cpu = AttentionBias::<Cpu<T>>::from_f64(&CPU, &bias, shape).expect("a bias");
        let of_cuda = AttentionBias::<Cuda<T>>::from_f64(&device(), &bias, shape).expect("a bias");
        let mut chosen = Vec::new();
        for _ in 0..rows {
            let mut list: Vec<i32> = (0..most_keys as i32 + 3)
                .filter(|_| dice.below(3) == 0)
                .take(options.chosen)
                .collect();
            list.resize(options.chosen, -1);
            chosen.extend(list);
        }
        let chosen = (device().upload(&chosen).expect("room"), chosen);
        macro_rules! loss {
            ($backend:ty, $on:ident, $bias:expr, $chosen:expr) => {{
                let mut softmax = Softmax::<$backend>::scaled(0.4);
                if let Some(cap) = options.cap {
                    softmax = softmax.soft_cap(cap);
                }
                if options.bias_heads > 0 {
                    softmax = softmax.bias($bias);
                }
                IndexLoss {
                    attention: Attention {
                        q: q.0.of(&q.1.$on),
                        q_rope: q_rope.0.of(&q_rope.1.$on),
                        k: k.0.of(&k.1.$on),
                        k_rope: k_rope.0.of(&k_rope.1.$on),
                        v: k.0.of(&k.1.$on),
                        segments,
                        pages: None,
                        selection: (options.chosen > 0).then_some(Chosen {
                            indices: $chosen,
                            width: options.chosen,
                        }),
                        softmax,
                    },
                    lse: &lse.$on,
                    q: index_q.0.of(&index_q.1.$on),
                    k: index_k.0.of(&index_k.1.$on),
                    weights: &weights.$on,
                    scale: 0.3,
                    relu: options.relu,
                    reduction: options.reduction,
                    epsilon: options.epsilon,
                    factor: 1.7,
                }
            }};
        }
        let of_cuda = loss!(Cuda<T>, cuda, &of_cuda, &chosen.0);
        let found = Cuda::index_loss(&device(), &of_cuda).expect("runs");
        let of_cpu = loss!(Cpu<T>, cpu, &of_cpu, &chosen.1);
        let wanted = Cpu::index_loss(&CPU, &of_cpu).expect("runs");
        let what = format!("{sizes:?} {options:?}");
        let near = 20.0 * tolerance::<Accum<T>>() * wanted.loss.abs().max(1e-3);
        assert!(
            (found.loss - wanted.loss).abs() <= near,
            "{what}: {} and {}",
            found.loss,
            wanted.loss
        );
        assert!(
            rows == 0 || wanted.loss != 0.0,
            "{what}: nothing to compare"
        );
        let again = Cuda::index_loss(&device(), &of_cuda).expect("runs");
        assert_eq!(found.loss.to_bits(), again.loss.to_bits(), "{what}");
        for (name, found, again, wanted) in [
            ("q", found.q, again.q, wanted.q),
            ("k", found.k, again.k, wanted.k),
            ("weights", found.weights, again.weights, wanted.weights),
        ] {
            let found = device().download(&found).expect("values");
            assert_eq!(device().download(&again).expect("values"), found, "{what}");
            assert_near(&format!("{name} of {what}"), &found, &wanted);
        }
    }
}
