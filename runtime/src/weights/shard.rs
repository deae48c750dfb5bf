//! One safetensors file, mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::header::{self, Broken};
use super::stored::{Bytes, Stored};
use crate::{Error, Result};

/// The tensors of one file, by full name.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) tensors: BTreeMap<String, Stored>,
}

impl Shard {
    /// Maps `path` and reads its header.
    ///
    /// # Errors
    /// The file can't be read, or is no valid safetensors file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(broken_file(path, "it is empty".to_owned()));
        }
        // SAFETY: the map is read only and private to this process. What no program can rule out is that somebody truncates
        // the file meanwhile, which ends a reader with SIGBUS on every platform; checkpoints are written once.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Self::parse(path, Bytes::Mapped(Arc::new(map)))
    }

    /// Reads the header of `bytes`, which errors call `path`.
    pub(crate) fn parse(path: &Path, bytes: Bytes) -> Result<Self> {
        let entries = header::entries(bytes.all()).map_err(|broken| match broken {
            Broken::File(problem) => broken_file(path, problem),
            Broken::Tensor(tensor, problem) => {
                broken_file(path, format!("tensor `{tensor}`: {problem}"))
            }
        })?;
        let tensors = entries
            .into_iter()
            .map(|entry| {
                let stored = Stored {
                    dtype: entry.dtype,
                    shape: entry.shape,
                    bytes: bytes.clone(),
                    range: entry.range,
                };
                (entry.name, stored)
            })
            .collect();
        Ok(Self { tensors })
    }
}

fn broken_file(path: &Path, problem: String) -> Error {
    Error::WeightFile {
        path: path.to_owned(),
        reason: format!("no valid safetensors file: {problem}"),
    }
}
