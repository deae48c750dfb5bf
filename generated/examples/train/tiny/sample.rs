//! What a model writes.

use mla_runtime::{Backend, Result};

use super::model::Model;
use super::random::Random;
use super::trainer::LENGTH;

/// How daring it is: the logits are divided by it.
const TEMPERATURE: f64 = 0.7;

/// `count` characters that go on from `start`, each drawn from what the model says of it. `start` has to hold one at least.
pub(crate) fn sample<B: Backend>(
    model: &Model<B>,
    start: &[usize],
    count: usize,
    random: &mut Random,
) -> Result<Vec<usize>> {
    let mut text = start.to_vec();
    for _ in 0..count {
        // It has never seen more at once
        let seen = &text[text.len().saturating_sub(LENGTH)..];
        let logits = model.logits(seen, LENGTH)?;
        let last = &logits[logits.len() - logits.len() / seen.len().max(1)..];
        text.push(drawn(last, random));
    }
    Ok(text.split_off(start.len()))
}

/// A token by its probability.
fn drawn(logits: &[f64], random: &mut Random) -> usize {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weigh = |x: &f64| ((x - largest) / TEMPERATURE).exp();
    let mut left = random.unit() * logits.iter().map(weigh).sum::<f64>();
    for (token, x) in logits.iter().enumerate() {
        left -= weigh(x);
        if left < 0.0 {
            return token;
        }
    }
    // Rounding, or logits that are no numbers
    logits.len().saturating_sub(1)
}
