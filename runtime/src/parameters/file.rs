//! Writing parameters to a safetensors file, whole or not at all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::{Error, Result, product};
use crate::weights::with_final_dot;

use super::groups::Parameter;
use super::set::ParameterSet;

/// Writes the values of several layers to one safetensors file, each below its prefix (with or without its final dot), by Hugging Face's
/// names and in the accumulation type: `F32`, or `F64` for `f64`.
///
/// The file is written under another name in the same folder and renamed when it is complete, so whoever opens `path` finds all of the
/// old file or all of the new one.
///
/// # Errors
/// When two tensors have one full name, the device refuses a copy or the system the file. What stood at `path` before is still there then.
pub fn save<B: Backend>(
    path: impl AsRef<Path>,
    sets: &[(&str, &dyn ParameterSet<B>)],
) -> Result<()> {
    let path = path.as_ref();
    let mut entries = Vec::new();
    for (prefix, set) in sets {
        collect(&with_final_dot(prefix), *set, &mut entries);
    }
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    if let Some([twice, ..]) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::Tensor {
            name: twice.name.clone(),
            reason: "two layers would write it: give each a prefix of its own".to_owned(),
        });
    }
    let header = header(path, &entries)?;
    let temporary = beside(path)?;
    let written = write(&temporary, &header, &entries)
        .and_then(|()| fs::rename(&temporary, path).map_err(|source| failed(path, source)));
    if written.is_err() {
        // The first error is the one to tell
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A tensor to write.
struct Entry<'a, B: Backend> {
    name: String,
    shape: Vec<usize>,
    parameter: &'a Parameter<B>,
    piece: usize,
}

/// The tensors of one layer.
fn collect<'a, B: Backend>(
    prefix: &str,
    set: &'a dyn ParameterSet<B>,
    entries: &mut Vec<Entry<'a, B>>,
) {
    for (_, group) in (0..).map_while(|slot| set.group(slot)) {
        for parameter in (0..).map_while(|index| group.parameter(index)) {
            let pieces = (0..).map_while(|piece| Some((piece, parameter.layout().piece(piece)?)));
            entries.extend(pieces.map(|(piece, (name, shape))| Entry {
                name: format!("{prefix}{name}"),
                shape,
                parameter,
                piece,
            }));
        }
    }
}

/// The length of the header and the header, padded so that values are aligned.
fn header<B: Backend>(path: &Path, entries: &[Entry<'_, B>]) -> Result<Vec<u8>> {
    let (dtype, bytes) = match size_of::<Accum<B>>() {
        8 => (Dtype::F64, 8),
        _ => (Dtype::F32, 4),
    };
    let mut end = 0_usize;
    let mut infos = Vec::with_capacity(entries.len());
    for entry in entries {
        let start = end;
        let size = product("a tensor", &[&entry.shape[..], &[bytes]].concat())?;
        end = start.checked_add(size).ok_or(Error::Overflow {
            what: "a file of weights",
        })?;
        let info = TensorInfo {
            dtype,
            shape: entry.shape.clone(),
            data_offsets: (start, end),
        };
        infos.push((entry.name.clone(), info));
    }
    // transformers refuses a file that doesn't say which framework its layouts are
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let refused = |reason: String| Error::WeightFile {
        path: path.to_owned(),
        reason,
    };
    let metadata =
        Metadata::new(Some(format), infos).map_err(|error| refused(error.to_string()))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|error| refused(error.to_string()))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}

fn write<B: Backend>(path: &Path, header: &[u8], entries: &[Entry<'_, B>]) -> Result<()> {
    let io = |source| failed(path, source);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(io)?;
    let mut writer = BufWriter::new(file);
    writer.write_all(header).map_err(io)?;
    for entry in entries {
        let values = entry.parameter.piece(entry.piece)?;
        writer.write_all(&little_endian(&values)).map_err(io)?;
    }
    let file: File = writer
        .into_inner()
        .map_err(|error| io(error.into_error()))?;
    // Renamed before it is on the disk, it could be found half written after a power cut
    file.sync_all().map_err(io)
}

/// The bytes of `f32` or `f64` values.
fn little_endian<A: Scalar>(values: &[A]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    let mut bytes = bytemuck::cast_slice(values).to_vec();
    bytes
        .chunks_exact_mut(size_of::<A>())
        .for_each(<[u8]>::reverse);
    Cow::Owned(bytes)
}

/// A name in the folder of `path` that no other writer has.
fn beside(path: &Path) -> Result<PathBuf> {
    static WRITERS: AtomicUsize = AtomicUsize::new(0);
    let Some(name) = path.file_name() else {
        let reason = io::Error::new(io::ErrorKind::InvalidInput, "it names no file");
        return Err(failed(path, reason));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
    hidden.push(format!(".{}-{writer}.part", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}
