//! The program that measures kernels of absorbed decode: what it is asked and what it answers. `mla_runtime::harness::tune` defines both.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::kept::{KeptCrate, Kind};
use super::program::COMPILED;
use crate::failure::Failure;
use crate::folder::{self, Files};
use crate::talk;

/// What is to be measured.
#[derive(Debug, Serialize)]
pub(crate) struct TuneFile {
    pub(crate) answer: PathBuf,
    pub(crate) digest: String,
    pub(crate) kernels: Vec<Text>,
    pub(crate) shapes: Vec<Wanted>,
}

/// Kernels for some sizes.
#[derive(Debug, Serialize)]
pub(crate) struct Text {
    pub(crate) unit: &'static str,
    pub(crate) dims: Vec<usize>,
    pub(crate) text: String,
}

/// A shape of decode over a cache in bf16.
#[derive(Debug, Serialize)]
pub(crate) struct Wanted {
    pub(crate) heads: u32,
    pub(crate) new: u32,
    pub(crate) latent: u32,
    pub(crate) rope: u32,
    pub(crate) model: u32,
    pub(crate) blocks: Vec<u32>,
}

/// What became of it.
#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<String>,
    table: Option<String>,
}

/// The compiled program: the same for all shapes, whose kernels it is given.
#[derive(Debug)]
pub(crate) struct Tuner {
    path: PathBuf,
}

impl Tuner {
    /// Compiles the program, or finds it compiled.
    pub(crate) fn compile() -> Result<Self, Failure> {
        if let Some(path) = std::env::var_os(COMPILED) {
            return Ok(Self { path: path.into() });
        }
        let kept = KeptCrate {
            kind: Kind::Program,
            sources: sources(),
            features: "\"cuda\", \"proof\"",
            message: "compiling what measures kernels".to_owned(),
        };
        Ok(Self {
            path: kept.compile()?,
        })
    }

    /// Copies the program to a file.
    pub(crate) fn copy_to(&self, file: &Path) -> Result<(), Failure> {
        std::fs::copy(&self.path, file)
            .map(drop)
            .map_err(|error| Failure::write(file, error))
    }

    /// The device's table with the shapes measured, as text.
    pub(crate) fn measure(
        &self,
        digest: String,
        kernels: Vec<Text>,
        shapes: Vec<Wanted>,
    ) -> Result<String, Failure> {
        let room =
            tempfile::tempdir().map_err(|error| Failure::write(&std::env::temp_dir(), error))?;
        let input = room.path().join("shapes.json");
        let file = TuneFile {
            answer: room.path().join("answer.json"),
            digest,
            kernels,
            shapes,
        };
        let text = serde_json::to_vec(&file).map_err(|error| Failure::write(&input, error))?;
        std::fs::write(&input, text).map_err(|error| Failure::write(&input, error))?;
        let message = format!(
            "measuring {}",
            crate::talk::counted(file.shapes.len(), "shape")
        );
        let output = talk::progress(message, || Command::new(&self.path).arg(&input).output());
        let output = output
            .map_err(|error| self.failed(&format!("can't be started: {error}"), Vec::new()))?;
        let answer = std::fs::read(&file.answer)
            .ok()
            .and_then(|text| serde_json::from_slice::<Answer>(&text).ok());
        match answer {
            Some(Answer {
                table: Some(table),
                error: None,
            }) => Ok(table),
            Some(Answer {
                error: Some(message),
                ..
            }) => Err(Failure::Program {
                message,
                stderr: String::new(),
            }),
            _ => {
                let problem = format!("gave no answer ({})", output.status);
                Err(self.failed(&problem, output.stderr))
            }
        }
    }

    fn failed(&self, problem: &str, stderr: Vec<u8>) -> Failure {
        Failure::Program {
            message: format!("the compiled program `{}` {problem}", self.path.display()),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

fn sources() -> Files {
    let main = format!(
        "// {} {}: measures kernels of absorbed decode.\n\n\
         fn main() -> std::process::ExitCode {{\n    mla_runtime::harness::tune::main()\n}}\n",
        folder::MARKER,
        env!("CARGO_PKG_VERSION"),
    );
    folder::texts([("main.rs".to_owned(), main)])
}
