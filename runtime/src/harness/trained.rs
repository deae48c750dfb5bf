//! Jobs of layers that are trained.

use super::case::Case;
use super::error::DriveError;
use super::grad::{Backward, Feed, prefix};
use super::job::{Job, Mode};
use super::outputs::Outputs;
use super::registry::{load, write};
use super::report::{Report, Run};
use crate::proof::ProofBackend;
use crate::{Result, Scalar, Train};

/// How a layer's weights are clipped.
pub(super) type Clip<L> = fn(&mut L, &[f64]) -> Result<Vec<f64>>;

/// Does a job: a forward and a backward pass, and the same with the backward pass in two parts.
pub(super) fn drive<L: Train<B>, B: ProofBackend>(
    job: &Job,
    report: &mut Report,
    clip: Option<Clip<L>>,
) -> Result<(), DriveError> {
    report.hidden_size = L::HIDDEN_SIZE;
    if job.modes != [Mode::Grad] {
        let message = "the layer is built for training, and its only mode is `grad`";
        return Err(DriveError::Job(message.to_owned()));
    }
    let clip = match (job.grad.clip, clip) {
        (false, _) => None,
        (true, Some(clip)) => Some(clip),
        (true, None) => {
            let message = "the layer clips no weights: its spec needs a `qk_clip`";
            return Err(DriveError::Job(message.to_owned()));
        }
    };
    let case = Case::load(&job.input, L::HIDDEN_SIZE)?;
    (report.batch, report.seq, report.requests) = (case.batch, case.seq, case.requests.len());
    let feed = Feed::<B>::new(&case, job)?;
    eprintln!("{}: weights", job.name);
    let mut layer: L = load::<L, B>(&job.weights)?;
    eprintln!(
        "{}: forward and backward, {} x {} tokens",
        job.name, case.batch, case.seq
    );
    let pass = feed.pass(&layer, Backward::Whole)?;
    report.runs.push(Run {
        mode: Mode::Grad,
        calls: pass.calls.to_vec(),
    });
    report.gradients = pass.gradients::<B>(L::TRAINED)?;
    report.indexer_loss = pass.indexer_loss.filter(|loss| loss.is_finite());
    eprintln!("{}: the same in two parts", job.name);
    let split = feed.pass(&layer, Backward::Split)?;
    report.split = Some(pass.against::<B>(&split)?);
    drop(split);
    let Some(path) = &job.out else {
        return Ok(());
    };
    let prefix = prefix(&job.weights);
    let mut outputs = Outputs::new(&case, job.rope);
    feed.record(&pass, &prefix, &mut outputs)?;
    if let Some(clip) = clip {
        let largest = pass.max_logits;
        feed.record_clip(&mut layer, clip, &prefix, &largest, &mut outputs)?;
    }
    write(path, &case, job, outputs, B::Elem::NAME == "f64", report)
}
