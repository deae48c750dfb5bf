//! The driver of the program that `mla-gen tune` compiles and starts: it measures kernels of absorbed decode, and knows no layer.
//!
//! ```json
//! {
//!   "answer": "/tmp/x/answer.json",
//!   "digest": "0123456789abcdef",
//!   "kernels": [{ "unit": "decode_narrow", "dims": [16, 16, 512, 64], "text": "…" }],
//!   "shapes": [{ "heads": 16, "new": 2, "latent": 512, "rope": 64, "model": 32, "blocks": [16, 32] }]
//! }
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mla_tuned::{Shape, Table};
use serde::{Deserialize, Serialize};

use super::error::DriveError;
use crate::CudaDevice;
use crate::error::Result;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneFile {
    /// Where the answer goes.
    pub answer: PathBuf,
    /// What the kernels are recognised by in a table.
    pub digest: String,
    /// All kernels that are needed.
    pub kernels: Vec<Text>,
    /// Measured in this order.
    pub shapes: Vec<Wanted>,
}

/// Kernels for some sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// What they are asked for by.
    pub unit: String,
    /// The sizes.
    pub dims: Vec<usize>,
    /// CUDA C++, which includes nothing.
    pub text: String,
}

/// A shape of decode over a cache in bf16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Heads of a query.
    pub heads: u32,
    /// New tokens of each request.
    pub new: u32,
    /// Width of latents.
    pub latent: u32,
    /// Width of the rotated part of keys.
    pub rope: u32,
    /// Rows of a block of the model's kernel.
    pub model: u32,
    /// Those of each kernel that is measured.
    pub blocks: Vec<u32>,
}

/// What became of it: a table or an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Why there is no table.
    pub error: Option<String>,
    /// The GPU's table with all that was measured, and what was known before of the same kernels.
    pub table: Option<String>,
}

/// Measures what the file asks for that the program's only argument names.
///
/// The exit code is 0 if the answer was written, whatever it is, and 2 if not.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let done = match (arguments.next(), arguments.next()) {
        (Some(path), None) => answer(Path::new(&path)),
        _ => Err(DriveError::Usage),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Writes the answer to the file `path`.
pub(super) fn answer(path: &Path) -> Result<(), DriveError> {
    let text = std::fs::read(path).map_err(|source| DriveError::Io {
        path: path.to_owned(),
        source,
    })?;
    let file: TuneFile = serde_json::from_slice(&text).map_err(|source| DriveError::JobFile {
        path: path.to_owned(),
        source,
    })?;
    let answer = match CudaDevice::gpu(0).and_then(|device| table(&device, &file)) {
        Ok(table) => Answer {
            table: Some(table.to_string()),
            error: None,
        },
        Err(error) => Answer {
            table: None,
            error: Some(error.to_string()),
        },
    };
    let failed = |source| DriveError::Io {
        path: file.answer.clone(),
        source,
    };
    let text = serde_json::to_vec_pretty(&answer).map_err(|error| failed(error.into()))?;
    std::fs::write(&file.answer, text).map_err(failed)
}

/// The device's table, once all is measured.
fn table(device: &CudaDevice, file: &TuneFile) -> Result<Table> {
    let kernels = file.kernels.clone();
    device.provide(move |unit, dims| {
        let wanted = |known: &&Text| known.unit == unit && known.dims == dims;
        kernels.iter().find(wanted).map(|known| known.text.clone())
    });
    let mut table = Table::to_go_on_with(&device.name(), &file.digest);
    for wanted in &file.shapes {
        eprintln!(
            "{} heads, {} new: blocks of {:?} rows",
            wanted.heads, wanted.new, wanted.blocks
        );
        let shape = Shape {
            keys: "bf16",
            heads: wanted.heads,
            new: wanted.new,
            latent: wanted.latent,
            rope: wanted.rope,
        };
        let line = device.tune_decode(&shape, wanted.model, &wanted.blocks)?;
        table.insert(shape, line);
    }
    Ok(table)
}
