//! What is done with every case, whether its outputs or its gradients are verified.

use std::path::{Path, PathBuf};

use super::case::Case;
use super::measure::Row;
use crate::driver::Program;
use crate::driver::job::{Job, Report};
use crate::failure::Failure;
use crate::tensors::TensorFile;

/// What is verified of cases.
pub(crate) trait Trial {
    /// A case, and what else is read of its folder.
    type Subject;

    /// What a row's [`way`](Row::way) says.
    const COLUMNS: [&'static str; 3];
    /// What stands behind a table's title.
    const ABOUT: &'static str;
    /// What no case had, where there was nothing to verify in any.
    const WANTED: &'static str;

    /// Reads all of a case but its weights; `None` where there is nothing to verify in it.
    fn load(&self, folder: &Path) -> Result<Option<Self::Subject>, Failure>;

    /// The case itself.
    fn case<'a>(&self, subject: &'a Self::Subject) -> &'a Case;

    /// One job for each way of running it, whose layers are added to the program and whose tensors go into `room`.
    fn jobs(&self, subject: &Self::Subject, program: &mut Program, room: &Path) -> Vec<Job>;

    /// Compares what the jobs wrote, in their order, with what the case expects.
    fn judge(&self, subject: &Self::Subject, reports: &[Result<Report, String>]) -> Vec<Row>;
}

/// The tensors that a job wrote, and where; why there are none.
pub(crate) fn written(
    report: &Result<Report, String>,
) -> Result<(&Report, &PathBuf, TensorFile), String> {
    let report = report.as_ref().map_err(Clone::clone)?;
    let out = report.out.as_ref().ok_or("the run wrote no tensors")?;
    let file = TensorFile::open(out)
        .map_err(|problem| format!("can't read `{}`: {problem}", out.display()))?;
    Ok((report, out, file))
}
