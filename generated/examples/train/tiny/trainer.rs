//! One step after the other.

use std::path::Path;

use mla_runtime::{Backend, LossScaler, LossScaling, Result, Scalar};
use serde::{Deserialize, Serialize};

use super::Fault;
use super::checkpoint::{Checkpoint, State};
use super::model::{Largest, Losses, Model, initial};
use super::optimiser::{AdamW, learning_rate};
use super::parameters::Parameters;
use super::random::Random;
use super::text::{Batch, Corpus, SONNETS};

/// Characters that the model sees at once.
pub(crate) const LENGTH: usize = 64;
/// Runs of characters in a micro-batch.
const RUNS: usize = 8;
/// Micro-batches whose gradients are added up to one step's.
const MICRO_BATCHES: usize = 2;
/// Characters that a step learns from.
pub(crate) const STEP_CHARACTERS: usize = MICRO_BATCHES * RUNS * LENGTH;
/// The largest norm of a step's gradients.
const MOST_NORM: f64 = 1.0;

/// What a training is, before its first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Steps in all: the learning rate is planned over them.
    pub(crate) steps: usize,
    /// What weights and batches are drawn from.
    pub(crate) seed: u64,
}

/// A model in training.
#[derive(Debug)]
pub(crate) struct Trainer<B: Backend> {
    pub(crate) settings: Settings,
    pub(crate) model: Model<B>,
    /// The weights in the accumulation type. The model's are these, rounded to the element type.
    pub(crate) master: Parameters<B>,
    pub(crate) adam: AdamW<B>,
    pub(crate) scaler: LossScaler,
    /// What every step lost.
    pub(crate) history: Vec<Losses>,
    gradients: Parameters<B>,
    random: Random,
    text: Corpus,
}

/// What a step did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) losses: Losses,
    /// The gradients' norm before it was clipped.
    pub(crate) norm: f64,
    /// Heads whose logits QK-clip brought down.
    pub(crate) clipped_heads: usize,
    /// Whether the weights were moved: they are not where a gradient is infinite or a NaN.
    pub(crate) taken: bool,
}

impl<B: Backend> Trainer<B> {
    /// A model that has learnt nothing yet.
    pub(crate) fn new(settings: Settings, device: &B::Device) -> Result<Self, Fault> {
        let mut master = Parameters::zeros(device)?;
        let weights = initial(&master, settings.seed)?;
        master.load(&weights, "")?;
        Ok(Self {
            model: Model::load(&weights, device)?,
            master,
            adam: AdamW::new(device)?,
            scaler: LossScaler::new(scaling::<B>())?,
            history: Vec::new(),
            gradients: Parameters::zeros(device)?,
            random: Random::new(settings.seed),
            text: Corpus::of(SONNETS)?,
            settings,
        })
    }

    /// A model where an earlier training stopped: every further step is what it would have been there, to the bit.
    pub(crate) fn resume(checkpoint: &Checkpoint, device: &B::Device) -> Result<Self, Fault> {
        let state = checkpoint.state_of::<B>()?;
        let weights = &checkpoint.weights;
        let mut master = Parameters::zeros(device)?;
        let mut adam = AdamW::new(device)?;
        for (name, set) in [
            ("", &mut master),
            (FIRST, &mut adam.first),
            (SECOND, &mut adam.second),
        ] {
            set.load(weights, name)?;
        }
        adam.taken = state.updates;
        checkpoint.verify(&parts(&master, &adam))?;
        Ok(Self {
            model: Model::load(weights, device)?,
            master,
            adam,
            scaler: state.scaler.clone(),
            history: checkpoint.history.clone(),
            gradients: Parameters::zeros(device)?,
            random: state.random.clone(),
            text: Corpus::of(SONNETS)?,
            settings: state.settings.clone(),
        })
    }

    /// Writes everything that [`resume`](Self::resume) needs, or leaves what stood there before.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Fault> {
        let state = State {
            settings: self.settings.clone(),
            dtype: B::Elem::NAME.to_owned(),
            updates: self.adam.taken,
            random: self.random.clone(),
            scaler: self.scaler.clone(),
        };
        Checkpoint::write(path, &parts(&self.master, &self.adam), state, &self.history)
    }

    /// Steps done.
    pub(crate) fn done(&self) -> usize {
        self.history.len()
    }

    /// Learns from the next micro-batches.
    pub(crate) fn step(&mut self) -> Result<Report, Fault> {
        let share = 1.0 / MICRO_BATCHES as f64;
        let mut losses = Losses::default();
        let mut largest = Largest::none();
        self.gradients.fill_zero()?;
        for _ in 0..MICRO_BATCHES {
            let batch = Batch::drawn(self.text.learnt(), RUNS, LENGTH, &mut self.random)?;
            let found = self.model.learn(
                &batch,
                self.scaler.scale() * share,
                &mut self.gradients,
                &mut largest,
            )?;
            losses.model += found.model * share;
            losses.indexer += found.indexer * share;
        }
        let mut report = Report {
            losses,
            norm: f64::NAN,
            clipped_heads: 0,
            taken: self
                .scaler
                .unscale_all::<B>(&mut self.gradients.sets_mut())?,
        };
        if report.taken {
            let rate = learning_rate(self.done(), self.settings.steps);
            report.norm = self.gradients.clip_norm(MOST_NORM)?;
            self.adam.step(&mut self.master, &self.gradients, rate)?;
            // In this order the working weights are the master weights rounded once, which is what a resumed training begins with
            report.clipped_heads = self.model.clip_qk(&largest, &mut self.master)?;
            self.model.assign(&self.master)?;
        }
        self.history.push(losses);
        Ok(report)
    }

    /// The loss, nats per character, on the part of the text that is not learnt from.
    pub(crate) fn held_out_loss(&self) -> Result<f64, Fault> {
        Ok(self
            .model
            .loss(&Batch::whole(self.text.held_out(), LENGTH)?)?)
    }
}

/// Where Adam's moments lie in a checkpoint.
const FIRST: &str = "adam.first.";
const SECOND: &str = "adam.second.";

/// Everything that a checkpoint holds a value for, by what its names begin with.
fn parts<'a, B: Backend>(
    master: &'a Parameters<B>,
    adam: &'a AdamW<B>,
) -> [(&'static str, &'a Parameters<B>); 3] {
    [("", master), (FIRST, &adam.first), (SECOND, &adam.second)]
}

/// `f32` and `f64` need no loss scaling; the scaler then only keeps gradients that are not finite from the weights.
fn scaling<B: Backend>() -> LossScaling {
    if size_of::<B::Elem>() < size_of::<f32>() {
        LossScaling::default()
    } else {
        LossScaling {
            initial: 1.0,
            growth_factor: 1.0,
            backoff_factor: 1.0,
            growth_interval: 1,
        }
    }
}
