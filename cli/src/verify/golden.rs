//! What a case's folder tells about training: gradients, a step of QK-clip, an indexer's loss.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::case::{Case, Closeness, Manifest, ManifestClip, ManifestGrads, ManifestLoss};
use crate::failure::Failure;
use crate::tensors::TensorFile;

/// Everything about training in a folder.
#[derive(Debug)]
pub(crate) struct Golden {
    pub(super) grads: Option<Told<ManifestGrads>>,
    pub(super) clip: Option<Told<ManifestClip>>,
    pub(super) loss: Option<Told<ManifestLoss>>,
}

/// A file, and what the manifest says of it.
#[derive(Debug)]
pub(super) struct Told<M> {
    pub(super) path: PathBuf,
    pub(super) tensors: TensorFile,
    pub(super) manifest: M,
}

/// What a folder must have for there to be something to verify.
pub(super) const WANTED: &str =
    "`grads.safetensors`, `qkclip.safetensors` or `indexer_loss.safetensors`";

impl Golden {
    /// Reads the files, and takes what the case's manifest says of them; `None` where there are none.
    pub(super) fn load(folder: &Path, manifest: &mut Manifest) -> Result<Option<Self>, Failure> {
        let golden = Self {
            grads: told(folder, "grads", "grads.safetensors", manifest.grads.take())?,
            clip: told(
                folder,
                "qk_clip",
                "qkclip.safetensors",
                manifest.qk_clip.take(),
            )?,
            loss: told(
                folder,
                "indexer_loss",
                "indexer_loss.safetensors",
                manifest.indexer_loss.take(),
            )?,
        };
        let any = golden.grads.is_some() || golden.clip.is_some() || golden.loss.is_some();
        Ok(any.then_some(golden))
    }
}

fn told<M>(
    folder: &Path,
    key: &str,
    file: &str,
    manifest: Option<M>,
) -> Result<Option<Told<M>>, Failure> {
    let path = folder.join(file);
    match (manifest, path.exists()) {
        (None, false) => Ok(None),
        (None, true) => Err(Failure::read(
            &folder.join("manifest.json"),
            format!("it has no `{key}`, which says how closely `{file}` is to be met"),
        )),
        (Some(_), false) => Err(Failure::read(
            &path,
            format!(
                "no such file, and `{key}` in manifest.json compares with it; copy it there, or remove `{key}`"
            ),
        )),
        (Some(manifest), true) => {
            let tensors =
                TensorFile::open(&path).map_err(|problem| Failure::read(&path, problem))?;
            Ok(Some(Told {
                path,
                tensors,
                manifest,
            }))
        }
    }
}

/// How closely a tensor is to be met: what the longest name says that is the tensor's, `*` standing for any part of it.
pub(super) fn closeness(all: &BTreeMap<String, Closeness>, name: &str) -> Option<Closeness> {
    all.iter()
        .filter(|(pattern, _)| matches(pattern, name))
        .max_by_key(|(pattern, _)| pattern.len())
        .map(|(_, closeness)| *closeness)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let ends = (0..=name.len()).filter(|&end| name.is_char_boundary(end));
            ends.into_iter().any(|end| matches(rest, &name[end..]))
        }),
    }
}

/// How closely a gradient is to be met. In bf16, where manifests say nothing of gradients: a few times what is allowed the output, since
/// a gradient has gone through both passes.
pub(super) fn of_gradient(case: &Case, closeness: Closeness) -> Closeness {
    let output = case.manifest.compare.get("output");
    let output = output.and_then(|output| output.bf16_rel_rms);
    Closeness {
        bf16_rel_rms: closeness
            .bf16_rel_rms
            .or(output.map(|output| crate::args::BF16_GRADIENTS * output)),
        ..closeness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_says_how_closely() {
        let close = |rtol| Closeness {
            rtol,
            atol: 0.0,
            atol_over_rms: 0.0,
            bf16_rel_rms: None,
        };
        let all = BTreeMap::from([
            ("loss.*".to_owned(), close(1.0)),
            ("loss.*.grad.*".to_owned(), close(2.0)),
            ("gamma".to_owned(), close(3.0)),
        ]);
        let rtol = |name| closeness(&all, name).map(|close| close.rtol);
        assert_eq!(rtol("loss.dense"), Some(1.0));
        assert_eq!(rtol("loss.dense.grad.wk.weight"), Some(2.0));
        assert_eq!(rtol("gamma"), Some(3.0));
        assert_eq!(rtol("gamma2"), None);
        assert_eq!(rtol("loss"), None);
    }
}
