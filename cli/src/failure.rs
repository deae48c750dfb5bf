//! Why a command failed, and the exit code that says so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::findings::Findings;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A check said no: output is stale, numbers differ. What differs was printed as data.
    #[error("{0}")]
    Check(String),
    /// The command line contradicts itself. What clap finds has the same exit code.
    #[error("{0}")]
    Usage(String),
    /// A spec or a config was refused.
    #[error("{summary}")]
    Refused {
        /// What is wrong, and where.
        findings: Findings,
        /// One line: which file, how many errors.
        summary: String,
    },
    /// A file can't be read or written.
    #[error("can't {verb} `{}`: {problem}", path.display())]
    Io {
        /// What was tried: `read`, `write`.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        problem: String,
    },
    /// A file that the compiled program can't read, write or make sense of.
    #[error("{0}")]
    File(String),
    /// Several inputs failed, each reported by itself.
    #[error("{summary}")]
    Several {
        /// Exit code of the worst.
        code: u8,
        /// How many of how many.
        summary: String,
    },
    /// cargo, or the program that it compiled, failed.
    #[error("{message}")]
    Program {
        /// What failed, the command included.
        message: String,
        /// What it wrote to stderr.
        stderr: String,
    },
}

impl Failure {
    /// 1 a check failed, 2 usage, 3 spec or config refused, 4 I/O, 5 cargo or the compiled program failed.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Check(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Refused { .. } => 3,
            Failure::Io { .. } | Failure::File(_) => 4,
            Failure::Program { .. } => 5,
            Failure::Several { code, .. } => *code,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// A path that can't be read.
    pub(crate) fn read(path: &Path, problem: impl ToString) -> Self {
        Self::io("read", path, problem)
    }

    /// A path that can't be written.
    pub(crate) fn write(path: &Path, problem: impl ToString) -> Self {
        Self::io("write", path, problem)
    }

    fn io(verb: &'static str, path: &Path, problem: impl ToString) -> Self {
        Failure::Io {
            verb,
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}
