//! The driver, on small layers and on golden cases.

mod bench;
mod broken;
mod golden;
mod golden_layer;
mod grad;
mod random;
mod trained_layer;
#[cfg(feature = "cuda")]
mod tune;

use std::path::{Path, PathBuf};

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

/// Writes a file of these tensors: name, dtype, shape, bytes.
fn safetensors(folder: &Path, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> PathBuf {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#
        ));
        data.extend(bytes);
    }
    let header = format!("{{{}}}", header.join(","));
    let bytes = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &data,
    ]
    .concat();
    let count = std::fs::read_dir(folder).unwrap().count();
    let path = folder.join(format!("{count}.safetensors"));
    std::fs::write(&path, bytes).unwrap();
    path
}
