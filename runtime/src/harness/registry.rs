//! The layers of a program, by key.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use super::bench;
use super::cached::{Fed, cached};
use super::case::Case;
use super::clock::Clocked;
use super::error::DriveError;
use super::forward::forward;
use super::job::{Input, Job, Mode, Stored, WeightsSource};
use super::outputs::{self, Outputs};
use super::report::{Against, Report};
use super::trained::{self, Clip};
use crate::proof::{ProofBackend, difference, tolerance};
use crate::weights::generator::Recipe;
use crate::{ClipQk, Decode, Forward, KernelSource, Load, Prefill, Scalar, Train, Weights};

/// Layers by key.
#[derive(Default)]
pub struct Registry {
    drivers: BTreeMap<String, Box<dyn Driver>>,
    /// What measures a device.
    kernels: &'static [KernelSource],
}

impl Registry {
    /// Adds a layer with all three phases.
    pub fn add<L, B>(&mut self, key: &str)
    where
        L: Forward<B> + Prefill<B> + Decode<B> + 'static,
        B: ProofBackend + Clocked,
    {
        self.drivers
            .insert(key.to_owned(), Box::new(AllPhases::<L, B>(PhantomData)));
    }

    /// Adds a layer without a cache: one whose queries see later keys.
    pub fn add_forward<L, B>(&mut self, key: &str)
    where
        L: Forward<B> + 'static,
        B: ProofBackend + Clocked,
    {
        self.drivers
            .insert(key.to_owned(), Box::new(ForwardOnly::<L, B>(PhantomData)));
    }

    /// Adds a layer that is trained; its only mode is [`Mode::Grad`].
    pub fn add_train<L, B>(&mut self, key: &str)
    where
        L: Train<B> + 'static,
        B: ProofBackend + Clocked,
    {
        let driver = Trained::<L, B> {
            clip: None,
            backend: PhantomData,
        };
        self.drivers.insert(key.to_owned(), Box::new(driver));
    }

    /// Adds a layer that is trained and whose weights can be clipped.
    pub fn add_clipped<L, B>(&mut self, key: &str)
    where
        L: ClipQk<B> + 'static,
        B: ProofBackend + Clocked,
    {
        let driver = Trained::<L, B> {
            clip: Some(|layer, max_logits| layer.clip_qk_erased(max_logits, None)),
            backend: PhantomData,
        };
        self.drivers.insert(key.to_owned(), Box::new(driver));
    }

    /// Takes kernels that measure what a device reaches, as times are compared with it.
    pub fn measure_with(&mut self, kernels: &'static [KernelSource]) {
        self.kernels = kernels;
    }

    /// Does a job; the report is filled in as far as it went.
    pub(super) fn drive(&self, job: &Job, report: &mut Report) -> Result<(), DriveError> {
        match self.drivers.get(&job.layer) {
            Some(driver) if job.bench.is_empty() => driver.drive(job, report),
            Some(driver) => driver.bench(job, self.kernels, report),
            None => {
                let known: Vec<String> =
                    self.drivers.keys().map(|key| format!("`{key}`")).collect();
                Err(DriveError::Job(format!(
                    "no layer `{}`, found {}",
                    job.layer,
                    known.join(", ")
                )))
            }
        }
    }
}

/// Does jobs with one layer type.
trait Driver {
    /// Feeds it.
    fn drive(&self, job: &Job, report: &mut Report) -> Result<(), DriveError>;

    /// Times it, beside what `kernels` measure.
    fn bench(
        &self,
        job: &Job,
        kernels: &[KernelSource],
        report: &mut Report,
    ) -> Result<(), DriveError>;
}

struct AllPhases<L, B>(PhantomData<fn() -> (L, B)>);
struct ForwardOnly<L, B>(PhantomData<fn() -> (L, B)>);
struct Trained<L, B> {
    clip: Option<Clip<L>>,
    backend: PhantomData<fn() -> B>,
}

/// A layer's way through a cache, and how close it should come to `forward`.
type ThroughCache<L> = fn(&L, &Case, &Job, bool) -> Result<(Fed, f64), DriveError>;

impl<L: Forward<B> + Prefill<B> + Decode<B>, B: ProofBackend + Clocked> Driver for AllPhases<L, B> {
    fn drive(&self, job: &Job, report: &mut Report) -> Result<(), DriveError> {
        drive::<L, B>(job, report, Some(through_cache::<L, B>))
    }

    fn bench(
        &self,
        job: &Job,
        kernels: &[KernelSource],
        report: &mut Report,
    ) -> Result<(), DriveError> {
        bench::drive::<L, B>(job, kernels, report, bench::inference::<L, B>)
    }
}

impl<L: Forward<B>, B: ProofBackend + Clocked> Driver for ForwardOnly<L, B> {
    fn drive(&self, job: &Job, report: &mut Report) -> Result<(), DriveError> {
        drive::<L, B>(job, report, None)
    }

    fn bench(
        &self,
        job: &Job,
        kernels: &[KernelSource],
        report: &mut Report,
    ) -> Result<(), DriveError> {
        bench::drive::<L, B>(job, kernels, report, bench::uncached::<L, B>)
    }
}

impl<L: Train<B>, B: ProofBackend + Clocked> Driver for Trained<L, B> {
    fn drive(&self, job: &Job, report: &mut Report) -> Result<(), DriveError> {
        trained::drive::<L, B>(job, report, self.clip)
    }

    fn bench(
        &self,
        job: &Job,
        kernels: &[KernelSource],
        report: &mut Report,
    ) -> Result<(), DriveError> {
        bench::drive::<L, B>(job, kernels, report, bench::training::<L, B>)
    }
}

fn through_cache<L: Prefill<B> + Decode<B>, B: ProofBackend>(
    layer: &L,
    case: &Case,
    job: &Job,
    recording: bool,
) -> Result<(Fed, f64), DriveError> {
    let chunks = job.chunks.as_deref();
    Ok(match job.cache {
        Stored::Exact => (
            cached::<L, B, B::Elem, B::Elem>(layer, case, chunks, job.rope, recording)?,
            tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE),
        ),
        Stored::Spec => (
            cached::<L, B, L::Stored, L::StoredIndex>(layer, case, chunks, job.rope, recording)?,
            tolerance::<B::Elem, L::Stored>(L::HIDDEN_SIZE),
        ),
    })
}

fn drive<L: Forward<B>, B: ProofBackend>(
    job: &Job,
    report: &mut Report,
    through_cache: Option<ThroughCache<L>>,
) -> Result<(), DriveError> {
    report.hidden_size = L::HIDDEN_SIZE;
    let case = Case::load(&job.input, L::HIDDEN_SIZE)?;
    (report.batch, report.seq, report.requests) = (case.batch, case.seq, case.requests.len());
    eprintln!("{}: weights", job.name);
    let layer = load::<L, B>(&job.weights)?;
    // Copying every intermediate value would spoil the timing of a random run
    let recording = job.out.is_some() && matches!(job.input, Input::Io { .. });
    let mut forwarded: Option<Vec<f64>> = None;
    let mut through: Option<(Vec<f64>, f64)> = None;
    let mut last: Option<Outputs> = None;
    for mode in &job.modes {
        let (outputs, run) = match mode {
            Mode::Forward => {
                eprintln!(
                    "{}: forward, {} x {} tokens",
                    job.name, case.batch, case.seq
                );
                let (outputs, run) = forward(&layer, &case, job.rope, recording)?;
                forwarded = Some(outputs.output().to_vec());
                (outputs, run)
            }
            Mode::Cached => {
                eprintln!("{}: cached, {} x {} tokens", job.name, case.batch, case.seq);
                let Some(through_cache) = through_cache else {
                    return Err(DriveError::Job("the layer has no cached phases".to_owned()));
                };
                let (fed, tolerance) = through_cache(&layer, &case, job, recording)?;
                report.cache = Some(fed.cache);
                through = Some((fed.outputs.output().to_vec(), tolerance));
                (fed.outputs, fed.run)
            }
            Mode::Grad => {
                let message =
                    "the layer is not built for training: its spec needs the phase `train`";
                return Err(DriveError::Job(message.to_owned()));
            }
        };
        report.runs.push(run);
        last = Some(outputs);
    }
    if let (Some(wanted), Some((found, tolerance))) = (forwarded, through) {
        report.cached_against_forward = Some(against(&case, &found, &wanted, tolerance));
    }
    if let (Some(path), Some(outputs)) = (&job.out, last) {
        write(path, &case, job, outputs, B::Elem::NAME == "f64", report)?;
    }
    Ok(())
}

/// Loads the layer.
pub(super) fn load<L: Load<B>, B: ProofBackend>(source: &WeightsSource) -> Result<L, DriveError> {
    let device = B::Device::default();
    Ok(match source {
        WeightsSource::File { path, prefix } => L::load(&Weights::open(path)?, prefix, &device)?,
        WeightsSource::Random { seed } => L::load(
            &Weights::random("layer", L::TENSORS, *seed)?,
            "layer",
            &device,
        )?,
        WeightsSource::Generated { prefix, generator } => {
            let tensors = generator
                .tensors
                .iter()
                .filter(|(name, _)| name.as_str() != "hidden_states");
            let weights = Weights::generated(tensors.map(|(name, made)| {
                let recipe = Recipe {
                    seed: generator.seed,
                    base: made.base,
                    amplitude: made.amp,
                };
                (name.clone(), made.shape.clone(), recipe)
            }))?;
            L::load(&weights, prefix, &device)?
        }
    })
}

/// Compares outputs over real rows.
fn against(case: &Case, found: &[f64], wanted: &[f64], relative: f64) -> Against {
    let real = |values: &[f64]| -> Vec<f64> {
        let rows = case.requests.iter();
        rows.flat_map(|rows| &values[rows.start * case.width..rows.end * case.width])
            .copied()
            .collect()
    };
    let difference = difference(&real(found), &real(wanted));
    // JSON has no NaN: weights that are not finite leave an RMS of 0, which nothing passes
    let rms = if difference.rms.is_finite() {
        difference.rms
    } else {
        0.0
    };
    let tolerance = relative * rms;
    Against {
        max_error: difference.error.is_finite().then_some(difference.error),
        rms,
        tolerance,
        passed: difference.error <= tolerance,
    }
}

/// Writes the outputs; for a random input and beside gradients also the input, so that the file can be fed again.
pub(super) fn write(
    path: &std::path::Path,
    case: &Case,
    job: &Job,
    mut outputs: Outputs,
    double: bool,
    report: &mut Report,
) -> Result<(), DriveError> {
    if matches!(job.input, Input::Random { .. }) || job.modes.contains(&Mode::Grad) {
        let rows: Vec<Option<usize>> = (0..case.batch * case.seq).map(Some).collect();
        outputs.put("hidden_states", &[case.width], &rows, &case.hidden);
    }
    let tensors = outputs.finish();
    outputs::write(path, &tensors, double)?;
    report.tensors = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.shape))
        .collect();
    report.out = Some(path.to_owned());
    Ok(())
}
