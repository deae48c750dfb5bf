//! How long absorbed attention takes with each of its kernels: for who writes tables of the fastest.

use std::ops::RangeInclusive;

use half::bf16;
use mla_tuned::{Line, Shape, Situation};

use super::super::super::{Cuda, CudaBuffer, CudaDevice, CudaGraph};
use super::{Output, Variant, attend_by};
use crate::backend::{Attention, Backend, Pages, Strided};
use crate::error::{Error, Result};
use crate::segments::{Segment, Segments};
use crate::softmax::Softmax;
use crate::visibility::Visibility;
use crate::weights::generator::Recipe;

/// Requests, and cached tokens of each: a full batch, and one alone. Where memory does not suffice they are fewer.
const SITUATIONS: [Situated; 2] = [
    Situated {
        requests: 128,
        length: 8192,
    },
    Situated {
        requests: 1,
        length: 8192,
    },
];
/// Tokens below which nothing is measured.
const LEAST: usize = 64;
/// Tokens of a page.
const PAGE: usize = 64;
/// Bytes of entries that a step reads, about: layers have caches of their own, and an L2 must not keep them from one step to the next.
const READ: usize = 256 << 20;
/// Layers of a step, which share a schedule.
const LAYERS: RangeInclusive<usize> = 2..=16;
/// Rounds that are not timed, in which clocks rise and settle, and those that are.
const WARM_UP: usize = 3;
const ROUNDS: usize = 11;
/// Steps of a round.
const STEPS: usize = 4;

/// Requests of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Situated {
    requests: usize,
    /// Cached tokens of each, new ones included.
    length: usize,
}

impl Situated {
    /// Half of it: fewer requests, or else shorter ones; `None` where that says nothing any more.
    fn half(self) -> Option<Self> {
        let Self { requests, length } = self;
        match requests {
            1 => (length / 2 >= LEAST).then_some(Self {
                requests,
                length: length / 2,
            }),
            _ => Some(Self {
                requests: requests / 2,
                length,
            }),
        }
    }
}

impl CudaDevice {
    /// Measures a shape of absorbed decode with kernels whose blocks have `blocks` rows, among them the `model`'s. Their texts, and `random` and
    /// `decode_schedule`, someone has to have given to the device, by [`add_kernels`](Self::add_kernels) or [`provide`](Self::provide). It
    /// takes some seconds and up to three gigabytes; what else runs on the device disturbs.
    ///
    /// # Errors
    /// The device is no Hopper GPU, there are no such kernels, or there is no room.
    #[doc(hidden)]
    pub fn tune_decode(&self, shape: &Shape, model: u32, blocks: &[u32]) -> Result<Line> {
        if self.arch() != "sm_90a" {
            return Err(Error::Device(format!(
                "{} ({}) is no Hopper GPU, and only those have several kernels of absorbed decode to choose from: tune on an H100 or H200",
                self.name(),
                self.arch()
            )));
        }
        let variants = variants(shape.latent, model, blocks)?;
        let measured = SITUATIONS.map(|situated| measured(self, shape, &variants, situated));
        let [many, one] = measured;
        Ok(Line {
            model,
            situations: [many?, one?],
        })
    }
}

/// Kernels for a width by the rows of their blocks, the model's among them.
fn variants(latent: u32, model: u32, blocks: &[u32]) -> Result<Vec<Variant>> {
    if !blocks.contains(&model) {
        return Err(Error::Device(format!(
            "the model's kernel of {model} rows is not among those of {blocks:?} rows that are to be measured; add it"
        )));
    }
    let variant = |rows: &u32| {
        Variant::with_rows(*rows, latent).ok_or_else(|| {
            Error::Device(format!(
                "no kernel of absorbed decode has blocks of {rows} rows for latents of {latent}; there are {:?}",
                Variant::of_latent(latent as usize)
            ))
        })
    };
    blocks.iter().map(variant).collect()
}

/// Microseconds of one attention by each kernel, in a situation or in one that there is room for.
fn measured(
    device: &CudaDevice,
    shape: &Shape,
    variants: &[Variant],
    mut situated: Situated,
) -> Result<Situation> {
    loop {
        let times = Step::new(device, shape, situated).and_then(|step| step.time(variants));
        // What the last one took may be in the way of the next
        device.trim();
        match (times, situated.half()) {
            (Ok(times), _) => {
                // Both are far below what a table has room for
                let mut situation =
                    Situation::new(situated.requests as u32, situated.length as u32);
                for (variant, micros) in variants.iter().zip(times) {
                    situation.note(variant.rows() as u32, micros);
                }
                return Ok(situation);
            }
            (Err(error), Some(half)) if is_out_of_memory(&error) => situated = half,
            (Err(error), _) => return Err(error),
        }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error, Error::Device(reason) if reason.starts_with("out of memory"))
}

/// The attentions of a decode step: layers with the same queries and caches of their own, of random numbers.
struct Step<'a> {
    device: &'a CudaDevice,
    heads: usize,
    widths: [usize; 2],
    layers: usize,
    queries: CudaBuffer<bf16>,
    entries: CudaBuffer<bf16>,
    segments: Segments,
    pages: Pages,
    out: CudaBuffer<bf16>,
    lines: [CudaBuffer<f32>; 2],
}

impl<'a> Step<'a> {
    fn new(device: &'a CudaDevice, shape: &Shape, situated: Situated) -> Result<Self> {
        let [heads, new, latent, rope] =
            [shape.heads, shape.new, shape.latent, shape.rope].map(|size| size as usize);
        let Situated { requests, length } = situated;
        if new > length {
            return Err(Error::Device(format!(
                "{new} new tokens do not fit into {length} cached ones; tune fewer new tokens"
            )));
        }
        let width = latent + rope;
        let each = length.div_ceil(PAGE);
        let slots = requests * each * PAGE;
        let bytes = slots * width * size_of::<bf16>();
        let layers = (READ / bytes.max(1)).clamp(*LAYERS.start(), *LAYERS.end());
        let rows = requests * new;
        let random = |name: &str, len: usize| {
            Cuda::<bf16>::generated(device, &Recipe::for_hidden_states(0), name, len)
        };
        let segment = |request: usize| Segment {
            queries: request * new..(request + 1) * new,
            keys: 0..length,
            first_query: length - new,
            first_key: 0,
            sequence: request,
            shift: 0,
            line: (0, 0),
        };
        // Neighbouring pages of a request lie far apart
        let table = |request: usize| -> Vec<u32> {
            (0..each)
                .map(|page| (page * requests + request) as u32)
                .collect()
        };
        Ok(Self {
            device,
            heads,
            widths: [latent, rope],
            layers,
            queries: random("queries", rows * heads * width)?,
            entries: random("entries", layers * slots * width)?,
            segments: Segments::new(
                (0..requests).map(segment).collect(),
                Visibility::CAUSAL,
                rows,
                slots,
            ),
            pages: Pages::new(PAGE, (0..requests).map(table).collect()),
            out: device.room(rows * heads * latent)?,
            lines: [device.room(rows * heads)?, device.room(rows * heads)?],
        })
    }

    /// What a layer asks.
    fn attention(&self, layer: usize) -> Attention<'_, Cuda<bf16>, bf16> {
        let [latent, rope] = self.widths;
        let width = latent + rope;
        let window = |buffer, rows, heads, offset, wide| Strided {
            buffer,
            offset,
            rows,
            heads,
            width: wide,
            row_stride: heads * width,
            head_stride: width,
        };
        let (rows, slots) = (self.segments.queries(), self.segments.keys());
        let first = layer * slots * width;
        Attention {
            q: window(&self.queries, rows, self.heads, 0, latent),
            q_rope: window(&self.queries, rows, self.heads, latent, rope),
            k: window(&self.entries, slots, 1, first, latent),
            k_rope: window(&self.entries, slots, 1, first + latent, rope),
            v: window(&self.entries, slots, 1, first, latent),
            segments: &self.segments,
            pages: Some(&self.pages),
            selection: None,
            softmax: Softmax::scaled(1.0 / (width as f64).sqrt()),
        }
    }

    /// Attends in one layer.
    fn attend(&self, layer: usize, variant: Variant) -> Result<()> {
        let [lse, max_logit] = &self.lines;
        let output = Output::rounded(&self.out, [lse, max_logit]);
        attend_by(variant, self.device, &self.attention(layer), output)
    }

    /// Microseconds of one attention by each kernel, the median of all rounds. A schedule is made once for all layers, as in a model.
    fn time(&self, variants: &[Variant]) -> Result<Vec<f64>> {
        let recorded = |variant: &Variant| {
            let mut graph = CudaGraph::new(self.device);
            graph.run(|| (0..self.layers).try_for_each(|layer| self.attend(layer, *variant)))?;
            Ok(graph)
        };
        let graphs = variants
            .iter()
            .map(recorded)
            .collect::<Result<Vec<CudaGraph>>>()?;
        let mut times = vec![Vec::new(); graphs.len()];
        for round in 0..WARM_UP + ROUNDS {
            for (graph, times) in graphs.iter().zip(&mut times) {
                let milliseconds = graph.time(STEPS)?;
                if round >= WARM_UP {
                    times.push(milliseconds * 1e3 / self.layers as f64);
                }
            }
        }
        Ok(times.into_iter().map(median).collect())
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::super::super::super::pool::Pool;
    use super::super::super::super::tests::{device, hopper_gpu};
    use super::super::choice;
    use super::*;

    fn shape(heads: u32, new: u32, latent: u32, rope: u32) -> Shape {
        Shape {
            keys: "bf16",
            heads,
            new,
            latent,
            rope,
        }
    }

    fn situated(requests: usize, length: usize) -> Situated {
        Situated { requests, length }
    }

    #[test]
    fn where_memory_does_not_suffice_there_are_fewer_requests_and_then_shorter_ones() {
        assert_eq!(situated(128, 8192).half(), Some(situated(64, 8192)));
        assert_eq!(situated(1, 8192).half(), Some(situated(1, 4096)));
        assert_eq!(situated(1, LEAST).half(), None);
        assert!(is_out_of_memory(&Pool::default().out_of_memory(1 << 40)));
        let other = Error::Device("the GPU has fallen off the bus".to_owned());
        assert!(!is_out_of_memory(&other));
    }

    #[test]
    fn what_is_measured_is_what_these_kernels_take() {
        let device = device();
        for (heads, new, latent, variant) in [
            (4, 1, 128, Variant::Narrow16),
            (8, 4, 128, Variant::Narrow32),
            (20, 2, 128, Variant::Wide),
            (4, 1, 384, Variant::Deep16),
        ] {
            let shape = shape(heads, new, latent, 16);
            let step = Step::new(&device, &shape, situated(3, 150)).expect("room");
            assert_eq!(step.layers, *LAYERS.end());
            for layer in [0, step.layers - 1] {
                let attention = step.attention(layer);
                assert_eq!(choice::on_hopper(&device, &attention), Ok(variant));
                // The plain kernel checks every index, and finds finite numbers behind it
                let parts = Cuda::attend(&device, &attention).expect("runs");
                let out = device.download(&parts.out).expect("values");
                assert!(out.iter().all(|x| x.is_finite()) && out.iter().any(|x| *x != 0.0));
            }
            let last = step.attention(step.layers - 1).k;
            let end = last.offset + last.rows * last.row_stride;
            assert_eq!(end, step.entries.len());
        }
        let error = Step::new(&device, &shape(4, 65, 128, 16), situated(1, 64));
        let error = error.err().expect("more new tokens than cached ones");
        assert!(error.to_string().contains("tune fewer new tokens"));
    }

    #[test]
    fn a_device_without_these_kernels_is_refused_and_so_is_what_is_no_kernel() {
        let device = device();
        if hopper_gpu().is_none() {
            let error = device
                .tune_decode(&shape(16, 1, 512, 64), 16, &[16, 32])
                .expect_err("nothing to measure");
            assert!(error.to_string().contains("is no Hopper GPU"), "{error}");
        }
        let refused = |model, blocks: &[u32], reason: &str| {
            let error = variants(512, model, blocks).expect_err(reason);
            assert!(error.to_string().contains(reason), "{error}");
        };
        refused(32, &[16], "the model's kernel of 32 rows is not among");
        refused(16, &[16, 48], "has blocks of 48 rows");
        assert_eq!(
            variants(512, 16, &[16, 64]).expect("kernels"),
            [Variant::Narrow16, Variant::Wide]
        );
    }

    /// A table may choose any kernel for a shape, also one whose blocks have fewer rows than a query has heads.
    #[test]
    fn every_kernel_gives_the_same_whatever_the_rows_of_its_blocks() {
        let Some(device) = hopper_gpu() else { return };
        for (heads, new, latent) in [
            (16, 2, 512),
            (16, 4, 512),
            (24, 1, 512),
            (40, 2, 512),
            (100, 1, 512),
            (128, 1, 512),
            (16, 2, 1024),
            (40, 1, 640),
        ] {
            let step = Step::new(&device, &shape(heads, new, latent, 64), situated(5, 1000));
            let step = step.expect("room");
            let answers = Variant::of_latent(latent as usize).iter().map(|variant| {
                step.attend(1, *variant).expect("runs");
                let [lse, _] = &step.lines;
                let out = device.download(&step.out).expect("values");
                (out, device.download(lse).expect("values"))
            });
            let answers: Vec<_> = answers.collect();
            let (out, lse) = &answers[0];
            for (other_out, other_lse) in &answers[1..] {
                let near = |(x, y): (&bf16, &bf16)| (x.to_f32() - y.to_f32()).abs() < 4e-3;
                assert!(out.iter().zip(other_out).all(near), "{heads} x {new}");
                let near = |(x, y): (&f32, &f32)| (x - y).abs() < 1e-3;
                assert!(lse.iter().zip(other_lse).all(near), "{heads} x {new}");
            }
        }
    }

    #[test]
    fn measuring_gives_times_of_each_kernel_in_both_situations() {
        let Some(device) = hopper_gpu() else { return };
        let line = device
            .tune_decode(&shape(16, 2, 512, 64), 32, &[16, 32])
            .expect("measures");
        for situation in &line.situations {
            for rows in [16, 32] {
                assert!(situation.micros(rows).is_some_and(|micros| micros > 1.0));
            }
            assert_eq!(situation.micros(64), None);
        }
        assert!([16, 32].contains(&line.chosen()), "{line:?}");
    }
}
