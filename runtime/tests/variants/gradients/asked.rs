//! Every form as one function of a list of operands, with the gradient of each.

use mla_runtime::{
    Attended, AttentionBias, Cpu, CpuElement, Heads, ParameterGroup, RopeKey, Rows, Scalar,
    Segments, Selection, SinkParameters, Sinks, Softmax, Unrotated, attention,
};

use crate::problem::{DEVICE, Dice, H, K, Problem, heads, rows};

/// Widths of the expanded form.
pub(crate) const N: usize = 4;
pub(crate) const R: usize = 2;
pub(crate) const V: usize = 3;
/// Width of the latent.
pub(crate) const C: usize = 5;
/// Widths of the grouped form.
pub(crate) const D: usize = 6;

/// What attention gave, and the gradient of each operand where there was one of the result.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) out: Vec<f64>,
    pub(crate) gradients: Vec<Vec<f64>>,
}

/// A form: its operands, then the bias and the sinks where there are any.
pub(crate) type Form = fn(&Asked, &[Vec<f64>], Option<&[f64]>) -> Answer;

/// What all forms are asked of.
pub(crate) struct Asked<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) segments: Segments,
}

/// The same in an element type, with what stands around the softmax.
struct Around<'a, T: CpuElement> {
    problem: &'a Problem,
    selection: Option<Selection<Cpu<T>, K>>,
    bias: Option<AttentionBias<Cpu<T>>>,
    sinks: Option<Sinks<Cpu<T>, H>>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Self {
        Self {
            problem,
            segments: problem.segments(),
        }
    }

    /// Random operands of so many values per query and per key.
    pub(crate) fn operands(
        &self,
        dice: &mut Dice,
        query: &[usize],
        key: &[usize],
    ) -> Vec<Vec<f64>> {
        let softening = &self.problem.softening;
        let (queries, keys) = (self.segments.queries(), self.segments.keys());
        let queries = query.iter().map(|width| queries * width);
        let mut all: Vec<Vec<f64>> = queries
            .chain(key.iter().map(|width| keys * width))
            .map(|len| dice.values(len))
            .collect();
        all.extend(softening.bias.as_ref().map(|(values, _)| values.clone()));
        all.extend(softening.sinks.clone());
        all
    }

    /// What stands around the softmax, the last ones of the operands.
    fn around<T: CpuElement>(&self, operands: &[Vec<f64>]) -> Around<'a, T> {
        let softening = &self.problem.softening;
        let mut rest = operands.iter();
        let sinks = softening.sinks.as_ref().and_then(|_| rest.next_back());
        let bias = softening
            .bias
            .as_ref()
            .zip(softening.bias.as_ref().and_then(|_| rest.next_back()));
        Around {
            problem: self.problem,
            selection: self.problem.selection(),
            bias: bias.map(|((_, shape), values)| {
                AttentionBias::from_f64(&DEVICE, values, *shape).expect("a bias")
            }),
            sinks: sinks.map(|sinks| Sinks::from_f64(&DEVICE, sinks).expect("sinks")),
        }
    }
}

impl<T: CpuElement> Around<'_, T> {
    fn softmax(&self) -> Softmax<'_, Cpu<T>> {
        let softening = &self.problem.softening;
        let mut softmax = Softmax::scaled(softening.scale).dropout(softening.dropout);
        if let Some(cap) = softening.cap {
            softmax = softmax.soft_cap(cap);
        }
        match &self.bias {
            Some(bias) => softmax.bias(bias),
            None => softmax,
        }
    }

    /// Runs a form: `forward` attends, `backward` has the gradients of its operands, with that of a bias where there is one.
    fn answer<const W: usize>(
        &self,
        d_out: Option<&[f64]>,
        forward: impl FnOnce(Softmax<'_, Cpu<T>>) -> mla_runtime::Result<Attended<Cpu<T>, H, W>>,
        backward: impl FnOnce(
            Softmax<'_, Cpu<T>>,
            Given<'_, T, W>,
            Option<&mut AttentionBias<Cpu<T>>>,
        ) -> mla_runtime::Result<Vec<Vec<f64>>>,
    ) -> Answer {
        let mut attended = forward(self.softmax()).expect("attended");
        if let Some(sinks) = &self.sinks {
            attended = attended.with_sinks(sinks).expect("sunk");
        }
        let (out, lse, _) = attended.into_parts().expect("parts");
        let mut answer = Answer {
            out: wide(&out.to_vec().expect("values")),
            gradients: Vec::new(),
        };
        let Some(d_out) = d_out else { return answer };
        let d_out = heads(d_out);
        let given = Given {
            out: &out,
            lse: &lse,
            d_out: &d_out,
        };
        let mut d_bias = self
            .bias
            .as_ref()
            .map(|bias| bias.zeros_like(&DEVICE).expect("room"));
        answer.gradients = backward(self.softmax(), given, d_bias.as_mut()).expect("gradients");
        answer
            .gradients
            .extend(d_bias.map(|d_bias| wide(d_bias.values())));
        if let Some(sinks) = &self.sinks {
            let mut d_sinks = SinkParameters::zeros(&DEVICE, "sinks").expect("room");
            sinks
                .backward(&out, &lse, &d_out, &mut d_sinks)
                .expect("gradients");
            let d_sinks = d_sinks.parameter(0).expect("one parameter").to_vec();
            answer.gradients.push(wide(&d_sinks.expect("a copy")));
        }
        answer
    }
}

/// What a backward function takes beside the operands.
struct Given<'a, T: CpuElement, const W: usize> {
    out: &'a Heads<Cpu<T>, H, W>,
    lse: &'a mla_runtime::PerHead<Cpu<T>, H>,
    d_out: &'a Heads<Cpu<T>, H, W>,
}

pub(crate) fn wide<S: Scalar>(values: &[S]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn of_heads<T: CpuElement, const G: usize, const W: usize>(x: &Heads<Cpu<T>, G, W>) -> Vec<f64> {
    wide(&x.to_vec().expect("values"))
}

fn of_rows<T: CpuElement, const W: usize>(x: &Rows<Cpu<T>, W>) -> Vec<f64> {
    wide(&x.to_vec().expect("values"))
}

/// Operands `q`, `k`, `v`.
pub(crate) fn grouped<T: CpuElement, const G: usize>(
    asked: &Asked,
    operands: &[Vec<f64>],
    d_out: Option<&[f64]>,
) -> Answer {
    let around = asked.around::<T>(operands);
    let (q, k, v) = (
        heads::<T, H, D>(&operands[0]),
        heads::<T, G, D>(&operands[1]),
        heads::<T, G, V>(&operands[2]),
    );
    let (segments, selection) = (&asked.segments, around.selection.as_ref());
    around.answer(
        d_out,
        |softmax| match selection {
            Some(chosen) => attention::grouped_selected(&q, &k, &v, segments, chosen, softmax),
            None => attention::grouped(&q, &k, &v, segments, softmax),
        },
        |softmax, Given { out, lse, d_out }, d_bias| {
            let (q, k, v) = match (selection, d_bias) {
                (None, None) => {
                    attention::grouped_backward(&q, &k, &v, segments, softmax, out, lse, d_out)
                }
                (None, Some(bias)) => attention::grouped_backward_with_bias(
                    &q, &k, &v, segments, softmax, out, lse, d_out, bias,
                ),
                (Some(chosen), None) => attention::grouped_selected_backward(
                    &q, &k, &v, segments, chosen, softmax, out, lse, d_out,
                ),
                (Some(chosen), Some(bias)) => attention::grouped_selected_backward_with_bias(
                    &q, &k, &v, segments, chosen, softmax, out, lse, d_out, bias,
                ),
            }?;
            Ok(vec![of_heads(&q), of_heads(&k), of_heads(&v)])
        },
    )
}

/// Operands `q`, `kv`, `k_rope`.
pub(crate) fn expanded<T: CpuElement>(
    asked: &Asked,
    operands: &[Vec<f64>],
    d_out: Option<&[f64]>,
) -> Answer {
    let around = asked.around::<T>(operands);
    let (q, kv) = (
        heads::<T, H, { N + R }>(&operands[0]),
        heads::<T, H, { N + V }>(&operands[1]),
    );
    let rope: RopeKey<Cpu<T>, Unrotated, R> =
        RopeKey::unrotated(&rows::<T, R>(&operands[2])).expect("key");
    let (segments, selection) = (&asked.segments, around.selection.as_ref());
    around.answer::<V>(
        d_out,
        |softmax| match selection {
            Some(chosen) => attention::expanded_selected(&q, &kv, &rope, segments, chosen, softmax),
            None => attention::expanded(&q, &kv, &rope, segments, softmax),
        },
        |softmax, Given { out, lse, d_out }, d_bias| {
            let (q, kv, rope) = match (selection, d_bias) {
                (None, None) => {
                    attention::expanded_backward(&q, &kv, &rope, segments, softmax, out, lse, d_out)
                }
                (None, Some(bias)) => attention::expanded_backward_with_bias(
                    &q, &kv, &rope, segments, softmax, out, lse, d_out, bias,
                ),
                (Some(chosen), None) => attention::expanded_selected_backward(
                    &q, &kv, &rope, segments, chosen, softmax, out, lse, d_out,
                ),
                (Some(chosen), Some(bias)) => attention::expanded_selected_backward_with_bias(
                    &q, &kv, &rope, segments, chosen, softmax, out, lse, d_out, bias,
                ),
            }?;
            Ok(vec![of_heads(&q), of_heads(&kv), of_rows(&rope)])
        },
    )
}

/// Operands `q_latent`, `q_rope`, `latent`, `k_rope`.
pub(crate) fn absorbed<T: CpuElement>(
    asked: &Asked,
    operands: &[Vec<f64>],
    d_out: Option<&[f64]>,
) -> Answer {
    let around = asked.around::<T>(operands);
    let (q, q_rope) = (
        heads::<T, H, C>(&operands[0]),
        heads::<T, H, R>(&operands[1]),
    );
    let (latent, rope) = (rows::<T, C>(&operands[2]), rows::<T, R>(&operands[3]));
    let rope: RopeKey<Cpu<T>, Unrotated, R> = RopeKey::unrotated(&rope).expect("key");
    let (segments, selection) = (&asked.segments, around.selection.as_ref());
    let q_rope = q_rope.view();
    around.answer(
        d_out,
        |softmax| match selection {
            Some(chosen) => {
                attention::absorbed_selected(&q, q_rope, &latent, &rope, segments, chosen, softmax)
            }
            None => attention::absorbed(&q, q_rope, &latent, &rope, segments, softmax),
        },
        |softmax, Given { out, lse, d_out }, d_bias| {
            let (q, q_rope, latent, rope) = match (selection, d_bias) {
                (None, None) => attention::absorbed_backward(
                    &q, q_rope, &latent, &rope, segments, softmax, out, lse, d_out,
                ),
                (None, Some(bias)) => attention::absorbed_backward_with_bias(
                    &q, q_rope, &latent, &rope, segments, softmax, out, lse, d_out, bias,
                ),
                (Some(chosen), None) => attention::absorbed_selected_backward(
                    &q, q_rope, &latent, &rope, segments, chosen, softmax, out, lse, d_out,
                ),
                (Some(chosen), Some(bias)) => attention::absorbed_selected_backward_with_bias(
                    &q, q_rope, &latent, &rope, segments, chosen, softmax, out, lse, d_out, bias,
                ),
            }?;
            Ok(vec![
                of_heads(&q),
                of_heads(&q_rope),
                of_rows(&latent),
                of_rows(&rope),
            ])
        },
    )
}

/// A form, and the widths of its operands per query and per key.
pub(crate) type Sized = (Form, &'static [usize], &'static [usize]);

/// All forms in an element type.
pub(crate) fn forms<T: CpuElement>() -> [Sized; 5] {
    [
        (grouped::<T, 1>, &[H * D], &[D, V]),
        (grouped::<T, 2>, &[H * D], &[2 * D, 2 * V]),
        (grouped::<T, H>, &[H * D], &[H * D, H * V]),
        (expanded::<T>, &[H * (N + R)], &[H * (N + V), R]),
        (absorbed::<T>, &[H * C, H * R], &[C, R]),
    ]
}
