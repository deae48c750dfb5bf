//! Why a job can't be done.

use std::path::PathBuf;

use crate::Error;

/// Why a job, or a whole job file, can't be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// The runtime or the layer refused.
    #[error(transparent)]
    Layer(#[from] Error),
    /// The program was not given a job file.
    #[error("wanted one argument, the job file")]
    Usage,
    /// A file can't be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The job file is no job file.
    #[error("`{}` is no job file: {source}", path.display())]
    JobFile {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// An input file lacks something, or contradicts itself or the layer.
    #[error("`{}`: {problem}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The job contradicts itself, its input or the layer.
    #[error("{0}")]
    Job(String),
    /// The output tensors can't be written.
    #[error("`{}`: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// The layer panicked, which is a mistake of this project.
    #[error("the layer panicked: {0}")]
    Panic(String),
}

impl DriveError {
    /// Whether a file can't be read or written, or does not hold what it should. A set of tensors that is another layer's is
    /// no broken file.
    pub(super) fn is_about_a_file(&self) -> bool {
        match self {
            DriveError::Layer(error) => matches!(
                error,
                Error::Io { .. } | Error::WeightFile { .. } | Error::Tensor { .. }
            ),
            DriveError::Io { .. }
            | DriveError::JobFile { .. }
            | DriveError::Input { .. }
            | DriveError::Output { .. } => true,
            DriveError::Usage | DriveError::Job(_) | DriveError::Panic(_) => false,
        }
    }
}
