//! One case: a folder with a config, inputs, expected numbers, and how closely they are to be met.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::FromConfig;
use crate::driver::job::{Layout, Weights};
use crate::failure::Failure;
use crate::source::{self, Spec};
use crate::tensors::TensorFile;

/// A case that can be run.
#[derive(Debug)]
pub(crate) struct Case {
    /// The folder's name.
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) manifest: Manifest,
    pub(crate) weights: Weights,
    pub(crate) io_path: PathBuf,
    pub(crate) io: TensorFile,
}

/// What is read of a `manifest.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    #[serde(default)]
    layer_idx: Option<u32>,
    #[serde(default)]
    weight_prefix: Option<String>,
    /// A file's name, or `generated`.
    #[serde(default)]
    weights: Option<String>,
    #[serde(default)]
    generator: Option<serde_json::Value>,
    #[serde(default)]
    rope: ManifestRope,
    /// By tensor.
    #[serde(default)]
    pub(crate) compare: BTreeMap<String, Closeness>,
    /// About `grads.safetensors`.
    #[serde(default)]
    pub(crate) grads: Option<ManifestGrads>,
    /// About `qkclip.safetensors`.
    #[serde(default)]
    pub(crate) qk_clip: Option<ManifestClip>,
    /// About `indexer_loss.safetensors`.
    #[serde(default)]
    pub(crate) indexer_loss: Option<ManifestLoss>,
}

/// What a manifest says of gradients.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ManifestGrads {
    /// By tensor, `grad.` in front.
    #[serde(default)]
    pub(crate) compare: BTreeMap<String, Closeness>,
    /// Weights that get none.
    #[serde(default)]
    pub(crate) no_grad: Vec<String>,
    /// Weights whose gradient the file lacks.
    #[serde(default)]
    pub(crate) left_out: Vec<String>,
}

/// What a manifest says of a step of QK-clip.
#[derive(Debug, Deserialize)]
pub(crate) struct ManifestClip {
    /// The largest logit that is let be.
    pub(crate) tau: f64,
    /// By tensor; `*` stands for any part of a name.
    #[serde(default)]
    pub(crate) compare: BTreeMap<String, Closeness>,
}

/// What a manifest says of an indexer's loss.
#[derive(Debug, Deserialize)]
pub(crate) struct ManifestLoss {
    /// By tensor; `*` stands for any part of a name.
    #[serde(default)]
    pub(crate) compare: BTreeMap<String, Closeness>,
}

#[derive(Debug, Default, Deserialize)]
struct ManifestRope {
    #[serde(default)]
    style: Option<String>,
    #[serde(default)]
    layout_of_mid_q_and_k_pe: Option<String>,
}

/// How closely a tensor is to be met.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Closeness {
    /// In f32, `|x - ref| <= atol + rtol |ref|`.
    #[serde(default)]
    pub(crate) rtol: f64,
    #[serde(default)]
    pub(crate) atol: f64,
    /// What `atol` grows by, in RMS of the reference.
    #[serde(default)]
    pub(crate) atol_over_rms: f64,
    /// In bf16, `RMS(x - ref) / RMS(ref)`.
    #[serde(default)]
    pub(crate) bf16_rel_rms: Option<f64>,
}

impl Case {
    /// Reads all of a case but its weights. `layer` wins over the manifest's.
    pub(crate) fn load(folder: &Path, layer: Option<u32>) -> Result<Self, Failure> {
        let manifest = Manifest::read(folder)?;
        let config = FromConfig {
            layer: layer.or(manifest.layer_idx),
            strict: false,
        };
        let spec = source::quiet(&folder.join("config.json"), &config)?;
        let io_path = folder.join("io.safetensors");
        let io = TensorFile::open(&io_path).map_err(|problem| Failure::read(&io_path, problem))?;
        if io.get("output").is_none() {
            return Err(Failure::read(
                &io_path,
                "there is no tensor `output` in it to compare with",
            ));
        }
        let weights = manifest.weights(folder, &spec)?;
        Ok(Self {
            name: name(folder),
            spec,
            manifest,
            weights,
            io_path,
            io,
        })
    }

    /// Which rows `[batch * seq]` are compared; `None` for all.
    pub(crate) fn rows(&self) -> Option<Vec<bool>> {
        let mask = self.io.get("attention_mask")?;
        Some(mask.values.iter().map(|value| *value != 0.0).collect())
    }
}

impl Manifest {
    /// The manifest in a case's folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("manifest.json");
        let text = std::fs::read(&path).map_err(|error| Failure::read(&path, error))?;
        serde_json::from_slice(&text).map_err(|error| Failure::read(&path, error))
    }

    /// How the case's tensors lay out rotated elements.
    pub(crate) fn rope_layout(&self) -> Layout {
        let rope = &self.rope;
        match rope
            .layout_of_mid_q_and_k_pe
            .as_deref()
            .or(rope.style.as_deref())
        {
            Some("interleaved") => Layout::Interleaved,
            Some("half" | "halves") => Layout::Half,
            _ => Layout::None,
        }
    }

    fn weights(&self, folder: &Path, spec: &Spec) -> Result<Weights, Failure> {
        let imported = || {
            spec.imported
                .as_ref()
                .map(|imported| imported.weight_prefix.clone())
        };
        let prefix = self
            .weight_prefix
            .clone()
            .or_else(imported)
            .unwrap_or_default();
        let file = match self.weights.as_deref() {
            Some("generated") => {
                return match &self.generator {
                    Some(generator) => Ok(Weights::Generated {
                        prefix,
                        generator: generator.clone(),
                    }),
                    None => Err(Failure::read(
                        &folder.join("manifest.json"),
                        "its weights are generated, and it has no `generator`",
                    )),
                };
            }
            Some(file) => file,
            None => "weights.safetensors",
        };
        let path = folder.join(file);
        match path.exists() {
            true => Ok(Weights::File { path, prefix }),
            false => Err(Failure::read(&path, "no such file")),
        }
    }
}

/// A folder's own name, also where it is written `.` or ends with a slash.
pub(crate) fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(
        || folder.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
