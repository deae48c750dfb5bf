//! The program's `main`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::error::DriveError;
use super::job::{Job, JobFile};
use super::registry::Registry;
use super::report::{Report, Summary};

/// Does the jobs of the file that the program's only argument names, with the layers that `register` adds.
///
/// The exit code is 0 if the summary was written, whatever became of the jobs, and 2 if not.
pub fn main(register: impl FnOnce(&mut Registry)) -> ExitCode {
    let mut registry = Registry::default();
    register(&mut registry);
    let mut arguments = std::env::args_os().skip(1);
    let done = match (arguments.next(), arguments.next()) {
        (Some(path), None) => do_jobs(&registry, &PathBuf::from(path)),
        _ => Err(DriveError::Usage),
    };
    match done {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does the jobs of `path`.
pub(super) fn do_jobs(registry: &Registry, path: &Path) -> Result<Summary, DriveError> {
    let text = std::fs::read(path).map_err(|source| DriveError::Io {
        path: path.to_owned(),
        source,
    })?;
    let file: JobFile = serde_json::from_slice(&text).map_err(|source| DriveError::JobFile {
        path: path.to_owned(),
        source,
    })?;
    let mut summary = Summary::default();
    write(&summary, &file.summary)?;
    for job in &file.jobs {
        summary.reports.push(report(registry, job));
        write(&summary, &file.summary)?;
    }
    Ok(summary)
}

/// Does one job, whatever happens.
fn report(registry: &Registry, job: &Job) -> Report {
    let mut report = Report {
        name: job.name.clone(),
        ..Report::default()
    };
    let done = catch_unwind(AssertUnwindSafe(|| registry.drive(job, &mut report)));
    let done = done.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        Err(DriveError::Panic(
            text.unwrap_or("without a message").to_owned(),
        ))
    });
    if let Err(error) = done {
        report.file_at_fault = error.is_about_a_file();
        report.error = Some(error.to_string());
    }
    if let Some(error) = &report.error {
        eprintln!("{}: error: {error}", job.name);
    }
    report
}

fn write(summary: &Summary, path: &Path) -> Result<(), DriveError> {
    let io = |source| DriveError::Io {
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_vec_pretty(summary).map_err(|source| DriveError::Io {
        path: path.to_owned(),
        source: source.into(),
    })?;
    std::fs::write(path, text).map_err(io)
}
