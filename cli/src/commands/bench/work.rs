//! What a timed call had to do.

use mla_codegen::report;
use mla_spec::{Checked, Phase};

use crate::driver::job::{self, Timing, Work};

/// What a call's kernels say of themselves; where there are none, nothing tells what a processor did but the plan.
pub(crate) fn of(checked: &Checked, timing: &Timing) -> Work {
    match timing.commands.as_slice() {
        [] => planned(checked, timing.bench),
        commands => commands.iter().fold(Work::default(), |sum, timed| Work {
            bytes: sum.bytes.saturating_add(timed.work.bytes),
            flops: sum.flops.saturating_add(timed.work.flops),
        }),
    }
}

/// What the plan counts, for all requests.
fn planned(checked: &Checked, bench: job::Bench) -> Work {
    let mut checked = checked.clone();
    let expect = &mut checked.build.expect;
    let (new, cached) = (bench.new as u32, bench.cached as u32);
    (expect.prefill_tokens, expect.prefill_context) = (new, cached);
    (expect.decode_tokens, expect.decode_context) = (new, cached);
    let report = report::report(&checked);
    let of = |wanted: Phase| {
        let mut phases = report.phases.iter();
        phases
            .find(|phase| phase.phase == wanted)
            .map(|phase| phase.total())
    };
    let training = |backward: bool| {
        report.training.as_ref().map(|training| {
            let [forward, back] = training.flops;
            forward + if backward { back } else { 0 }
        })
    };
    let requests = bench.requests as u64;
    let (flops, bytes) = match bench.phase {
        job::Phase::Forward => of(Phase::Forward).map(|work| (work.flops, work.bytes)),
        job::Phase::Prefill => of(Phase::Prefill).map(|work| (work.flops, work.bytes)),
        job::Phase::Decode => of(Phase::Decode).map(|work| (work.flops, work.bytes)),
        job::Phase::ForwardTrain => training(false).map(|flops| (flops, 0)),
        job::Phase::Backward => training(true).map(|flops| (flops, 0)),
    }
    .unwrap_or_default();
    Work {
        bytes: bytes as u64 * requests,
        flops: flops as u64 * requests,
    }
}
