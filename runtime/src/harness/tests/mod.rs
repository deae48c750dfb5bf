//! The driver, on small layers and on golden cases.

mod broken;
mod golden;
mod golden_layer;
mod random;

use std::path::Path;

use serde_json::{Value, json};

use super::Registry;
use super::report::Report;
use super::run::do_jobs;
use crate::weights::Shard;

/// Writes a job file of `jobs` into `folder`, does it, and checks that the summary on disk is what was returned.
fn drive(registry: &Registry, folder: &Path, jobs: &[Value]) -> Vec<Report> {
    let summary = folder.join("summary.json");
    let path = folder.join("jobs.json");
    std::fs::write(
        &path,
        json!({ "summary": summary, "jobs": jobs }).to_string(),
    )
    .unwrap();
    let done = do_jobs(registry, &path).unwrap();
    let written: super::report::Summary =
        serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!(written.reports.len(), done.reports.len());
    done.reports
}

/// A tensor of a written file.
fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f64>) {
    let shard = Shard::open(path).unwrap();
    let stored = &shard.tensors[name];
    (stored.shape.clone(), stored.floats().unwrap())
}
