//! AdamW, and how fast it goes.

use std::f64::consts::PI;

use mla_runtime::backend::Accum;
use mla_runtime::{Backend, Result, Scalar};

use super::parameters::Parameters;

/// What a moment keeps of itself in a step: of the gradient, and of its square.
const BETAS: [f64; 2] = [0.9, 0.99];
/// Keeps a step finite where gradients are 0.
const EPSILON: f64 = 1e-8;
/// What matrices lose in a step, times the learning rate.
const WEIGHT_DECAY: f64 = 0.1;

/// The largest learning rate.
const PEAK: f64 = 4e-3;
/// What of it is left at the end.
const LEAST: f64 = 0.05;
/// The part of all steps in which it rises.
const WARM_UP: f64 = 0.05;

/// The learning rate of a step, counted from 0, of `steps`: it rises evenly, then falls along half a cosine.
pub(crate) fn learning_rate(step: usize, steps: usize) -> f64 {
    let rising = (steps as f64 * WARM_UP).ceil().max(1.0);
    let done = step as f64 + 1.0;
    if done <= rising {
        return PEAK * done / rising;
    }
    let along = ((done - rising) / (steps as f64 - rising).max(1.0)).min(1.0);
    PEAK * (LEAST + (1.0 - LEAST) * 0.5 * (1.0 + (PI * along).cos()))
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Debug)]
pub(crate) struct AdamW<B: Backend> {
    /// Running means of gradients.
    pub(crate) first: Parameters<B>,
    /// Running means of their squares.
    pub(crate) second: Parameters<B>,
    /// Steps taken.
    pub(crate) taken: u64,
}

impl<B: Backend> AdamW<B> {
    pub(crate) fn new(device: &B::Device) -> Result<Self> {
        Ok(Self {
            first: Parameters::zeros(device)?,
            second: Parameters::zeros(device)?,
            taken: 0,
        })
    }

    /// Moves `weights` against `gradients`.
    pub(crate) fn step(
        &mut self,
        weights: &mut Parameters<B>,
        gradients: &Parameters<B>,
        rate: f64,
    ) -> Result<()> {
        self.taken += 1;
        // Moments begin at 0 and are too small at first by these factors
        let [first_short, second_short] = BETAS.map(|beta| 1.0 - beta.powf(self.taken as f64));
        let changed = [weights, &mut self.first, &mut self.second];
        Parameters::update(
            changed,
            [gradients],
            |at, [weights, first, second], [gradients]| {
                let decay = if at.layout.is_matrix() {
                    WEIGHT_DECAY
                } else {
                    0.0
                };
                let moments = first.iter_mut().zip(second);
                for ((weight, (first, second)), gradient) in
                    weights.iter_mut().zip(moments).zip(gradients)
                {
                    let gradient = gradient.to_f64();
                    let mean = mixed(first, gradient, BETAS[0]) / first_short;
                    let square = mixed(second, gradient * gradient, BETAS[1]) / second_short;
                    let step = mean / (square.sqrt() + EPSILON);
                    let moved = weight.to_f64() * (1.0 - rate * decay) - rate * step;
                    *weight = Accum::<B>::from_f64(moved);
                }
            },
        )
    }
}

/// Keeps `beta` of a running mean and takes in a value; the new mean.
fn mixed<S: Scalar>(mean: &mut S, value: f64, beta: f64) -> f64 {
    *mean = S::from_f64(beta * mean.to_f64() + (1.0 - beta) * value);
    mean.to_f64()
}
