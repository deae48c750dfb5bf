//! A case through `forward`.

use std::time::Instant;

use super::case::Case;
use super::error::DriveError;
use super::job::{Mode, Rope};
use super::outputs::Outputs;
use super::recorder::Recorder;
use super::report::{Call, Phase, Run};
use crate::proof::ProofBackend;
use crate::{Forward, Scalar, Tensor};

/// Feeds all of `case` at once.
pub(super) fn forward<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    case: &Case,
    rope: Rope,
    recording: bool,
) -> Result<(Outputs, Run), DriveError> {
    let hidden = case
        .hidden
        .iter()
        .map(|&value| B::Elem::from_f64(value))
        .collect();
    let hidden = Tensor::from_vec(&B::Device::default(), hidden, case.width)?;
    let mut rows = vec![None; case.batch * case.seq];
    for row in case.requests.iter().cloned().flatten() {
        rows[row] = Some(row);
    }
    let mut extras = case.given.extras(&B::Device::default(), &rows, rope);
    let mut recorder = Recorder::new(recording);
    let start = Instant::now();
    let out = layer.forward_erased(
        &hidden,
        &case.positions,
        &case.mask,
        &mut extras,
        &mut recorder,
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let out: Vec<f64> = out.to_vec()?.into_iter().map(Scalar::to_f64).collect();
    let mut outputs = Outputs::new(case, rope);
    outputs.put("output", &[case.width], &rows, &out);
    outputs.record(recorder.tensors, &rows)?;
    let call = Call {
        phase: Phase::Forward,
        tokens: rows.len(),
        seconds,
    };
    Ok((
        outputs,
        Run {
            mode: Mode::Forward,
            calls: vec![call],
        },
    ))
}
