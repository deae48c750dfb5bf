//! What `mla-gen bench --json` wrote, as a page shows it.

use std::path::Path;

use mla_codegen::report::html::{Device, Kernel, Measured};
use mla_codegen::report::{Work, report};
use mla_spec::{Checked, Phase};

use crate::commands::bench::work;
use crate::driver::job::{self, Report, Timed, Timing};
use crate::failure::Failure;

/// A clock tells no shorter times apart.
const SHORTEST: f64 = 1e-9;

/// Reads the file, of which every time has to be one.
pub(super) fn read(path: &Path, checked: &Checked) -> Result<Vec<Measured>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::read(path, error))?;
    let reports: Vec<Report> = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::read(
            path,
            format!("it is not what `mla-gen bench SPEC --json FILE` writes: {error}"),
        )
    })?;
    let mut measured = Vec::new();
    for report in &reports {
        refuse_other(path, report, checked)?;
        for timing in &report.timings {
            let call = call(report, timing, checked);
            let seconds = call.kernels.iter().map(|kernel| kernel.seconds);
            if let Some(wrong) = std::iter::once(call.seconds)
                .chain(seconds)
                .find(|seconds| !(seconds.is_finite() && *seconds >= SHORTEST))
            {
                let problem = format!("{} took {wrong} s: time it again", call.what);
                return Err(Failure::read(path, problem));
            }
            measured.push(call);
        }
    }
    Ok(measured)
}

/// A bench of a layer of another width is one of another layer.
fn refuse_other(path: &Path, timed: &Report, checked: &Checked) -> Result<(), Failure> {
    let sizes = report(checked).sizes;
    let width = sizes.iter().find(|(name, ..)| *name == "HIDDEN_SIZE");
    match width {
        Some((_, width, _)) if timed.hidden_size != 0 && timed.hidden_size != *width as usize => {
            Err(Failure::Usage(format!(
                "`{}` times a layer of hidden size {}, and `{}` has {width}: give the bench of this layer",
                path.display(),
                timed.hidden_size,
                checked.layer.name
            )))
        }
        _ => Ok(()),
    }
}

fn call(report: &Report, timing: &Timing, checked: &Checked) -> Measured {
    let bench = timing.bench;
    let device = report.device.as_ref();
    let place = device.map_or("the CPU", |device| device.name.as_str());
    let (phase, with_backward) = match bench.phase {
        job::Phase::Forward => (Phase::Forward, false),
        job::Phase::Prefill => (Phase::Prefill, false),
        job::Phase::Decode => (Phase::Decode, false),
        job::Phase::ForwardTrain => (Phase::Train, false),
        job::Phase::Backward => (Phase::Train, true),
    };
    let whole = if with_backward {
        ", forward and backward"
    } else {
        ""
    };
    Measured {
        phase,
        with_backward,
        what: format!(
            "{} × {} tokens over {} cached{whole}, on {place}",
            bench.requests, bench.new, bench.cached
        ),
        seconds: timing.device_seconds.unwrap_or(timing.call_seconds),
        work: counted(work::of(checked, timing)),
        kernels: timing.commands.iter().map(kernel).collect(),
        device: report.ceilings.as_ref().map(|ceilings| Device {
            name: place.to_owned(),
            read: ceilings.read,
            products: ceilings.products,
        }),
    }
}

fn kernel(timed: &Timed) -> Kernel {
    Kernel {
        name: timed.name.clone(),
        count: timed.count,
        seconds: timed.seconds.max(SHORTEST),
        work: counted(timed.work),
    }
}

fn counted(work: job::Work) -> Work {
    Work {
        flops: work.flops.into(),
        bytes: work.bytes.into(),
    }
}
