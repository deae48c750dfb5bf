//! `model.safetensors.index.json`: which file of a sharded checkpoint holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::shard::Shard;
use super::stored::Stored;
use crate::{Error, Result};

/// A sharded checkpoint. Shards are opened when a layer needs them: one that lies elsewhere in the model need not be there.
#[derive(Debug)]
pub(crate) struct Index {
    file: PathBuf,
    folder: PathBuf,
    /// Tensor name -> file name inside the folder.
    pub(crate) weight_map: BTreeMap<String, String>,
}

/// The index file, as far as it matters.
#[derive(Deserialize)]
struct Written {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the index at `file`.
    ///
    /// # Errors
    /// It can't be read, is no index, or names a file outside its own folder.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).map_err(|source| Error::Io {
            path: file.to_owned(),
            source,
        })?;
        let broken = |reason: String| Error::WeightFile {
            path: file.to_owned(),
            reason,
        };
        let written: Written = serde_json::from_slice(&text)
            .map_err(|error| broken(format!("no shard index: {error}")))?;
        for (tensor, shard) in &written.weight_map {
            if !is_plain_file_name(shard) {
                return Err(broken(format!(
                    "tensor `{tensor}`: shard `{shard}` is no file name inside the index's own folder"
                )));
            }
        }
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self {
            file: file.to_owned(),
            folder,
            weight_map: written.weight_map,
        })
    }

    /// The tensors whose names start with `prefix`, by full name. Opens their shards.
    ///
    /// # Errors
    /// A shard is missing or broken, lacks a tensor that the index puts there, or has one below `prefix` that the index
    /// puts elsewhere or nowhere.
    pub(crate) fn below(&self, prefix: &str) -> Result<BTreeMap<String, Stored>> {
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &self.weight_map {
            if tensor.starts_with(prefix) {
                shards.entry(shard).or_default().push(tensor);
            }
        }
        let mut found = BTreeMap::new();
        for (shard, tensors) in shards {
            self.collect(shard, &tensors, prefix, &mut found)?;
        }
        Ok(found)
    }

    /// Moves `tensors` out of `shard` into `found`.
    fn collect(
        &self,
        shard: &str,
        tensors: &[&str],
        prefix: &str,
        found: &mut BTreeMap<String, Stored>,
    ) -> Result<()> {
        let path = self.folder.join(shard);
        let broken = |reason: String| Error::WeightFile {
            path: self.file.clone(),
            reason,
        };
        if !path.is_file() {
            let first = tensors.first().copied().unwrap_or(prefix);
            return Err(broken(format!(
                "tensor `{first}` should be in `{shard}`, which is missing"
            )));
        }
        let mut opened = Shard::open(&path)?;
        for &tensor in tensors {
            let Some(stored) = opened.tensors.remove(tensor) else {
                return Err(broken(format!(
                    "tensor `{tensor}` should be in `{shard}`, which does not hold it"
                )));
            };
            found.insert(tensor.to_owned(), stored);
        }
        match opened.tensors.keys().find(|name| name.starts_with(prefix)) {
            Some(stray) => Err(broken(match self.weight_map.get(stray) {
                Some(elsewhere) => {
                    format!("tensor `{stray}` is in `{shard}`, but the index says `{elsewhere}`")
                }
                None => format!("tensor `{stray}` is in `{shard}`, but the index does not list it"),
            })),
            None => Ok(()),
        }
    }
}

/// One normal path component on any platform: no folder, no `..`, no root, no drive.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let normal =
        matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    normal && !name.contains(['/', '\\', ':', '\0'])
}
