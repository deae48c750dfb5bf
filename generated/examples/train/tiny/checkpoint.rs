//! Where a training stopped, in one safetensors file.
//!
//! | entry | what it holds |
//! |---|---|
//! | `ends.…`, `blocks.….attention.…`, `blocks.….around.…` | master weights; the attentions load from them as they are |
//! | `adam.first.…`, `adam.second.…` | Adam's moments, by the same names |
//! | `history` | what each step lost: the model, the indexer |
//! | `training` in the header | everything that is no tensor |
//!
//! The same training gives the same bytes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use mla_runtime::backend::Accum;
use mla_runtime::{Backend, Fingerprint, LossScaler, Scalar, Weights};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::Fault;
use super::model::Losses;
use super::parameters::Parameters;
use super::random::Random;
use super::trainer::Settings;

/// The header's entry.
const TRAINING: &str = "training";
const HISTORY: &str = "history";

/// What is no tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    /// The element type that the model computes in.
    pub(crate) dtype: String,
    /// Steps in which the weights were moved.
    pub(crate) updates: u64,
    pub(crate) random: Random,
    pub(crate) scaler: LossScaler,
}

/// The header's entry, with what tells a flipped bit.
#[derive(Debug, Serialize, Deserialize)]
struct Training {
    state: State,
    values: Fingerprint,
}

/// A checkpoint that was opened.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) weights: Weights,
    pub(crate) history: Vec<Losses>,
    path: PathBuf,
    training: Training,
}

/// Parameters, by what the names of their tensors begin with.
pub(crate) type Part<'a, B> = (&'static str, &'a Parameters<B>);

impl Checkpoint {
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let weights = Weights::open(path).map_err(|error| format!("can't resume: {error}"))?;
        let broken = |what: &dyn std::fmt::Display| -> Fault {
            format!(
                "`{}` is no checkpoint of this example: {what}",
                path.display()
            )
            .into()
        };
        let bytes = fs::read(path).map_err(|error| broken(&error))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(&error))?;
        let entry = header.metadata().as_ref().and_then(|all| all.get(TRAINING));
        let entry = entry.ok_or_else(|| broken(&"its header says nothing of a training"))?;
        let training: Training = serde_json::from_str(entry)
            .map_err(|error| broken(&format!("`{TRAINING}` in its header: {error}")))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(&error))?;
        let history = tensors.tensor(HISTORY).map_err(|error| broken(&error))?;
        let history = losses(&history).ok_or_else(|| broken(&"`history` is not F64 [steps, 2]"))?;
        if history.len() > training.state.settings.steps {
            return Err(broken(&"it has done more steps than it wants"));
        }
        Ok(Self {
            weights,
            history,
            path: path.to_owned(),
            training,
        })
    }

    /// What the training was and is.
    pub(crate) fn state(&self) -> &State {
        &self.training.state
    }

    /// As [`state`](Self::state), where the model computes in the backend's element type.
    pub(crate) fn state_of<B: Backend>(&self) -> Result<&State, Fault> {
        let (found, wanted) = (&self.state().dtype, B::Elem::NAME);
        if found != wanted {
            let path = self.path.display();
            return Err(format!("`{path}` is of a model in {found}, not in {wanted}").into());
        }
        Ok(self.state())
    }

    /// Refuses values that are not the ones that were written.
    pub(crate) fn verify<B: Backend>(&self, parts: &[Part<'_, B>]) -> Result<(), Fault> {
        let (found, written) = (fingerprint(parts)?, &self.training.values);
        let mut tensors = found.tensors().iter();
        match tensors.find(|&(name, value)| written.tensors().get(name) != Some(value)) {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "`{}` is damaged: `{name}` does not hold what was written",
                self.path.display()
            )
            .into()),
        }
    }

    /// Writes a checkpoint beside `path` and renames it when it is complete: whoever opens `path` finds all of the old one or all of the new.
    pub(crate) fn write<B: Backend>(
        path: &Path,
        parts: &[Part<'_, B>],
        state: State,
        history: &[Losses],
    ) -> Result<(), Fault> {
        let training = Training {
            state,
            values: fingerprint(parts)?,
        };
        let mut stored = vec![of_losses(history)];
        for (before, parameters) in parts {
            for (prefix, set) in parameters.sets() {
                let tensors = set.tensors()?.into_iter();
                stored.extend(tensors.map(|tensor| Stored {
                    name: format!("{before}{prefix}.{}", tensor.name),
                    dtype: dtype::<B>(),
                    shape: tensor.shape,
                    bytes: bytes(&tensor.values, dtype::<B>()),
                }));
            }
        }
        let mut views = Vec::with_capacity(stored.len());
        for tensor in &stored {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)?;
            views.push((tensor.name.as_str(), view));
        }
        // One entry: the order of several would not be the same every time
        let header = HashMap::from([(TRAINING.to_owned(), serde_json::to_string(&training)?)]);
        let bytes = safetensors::serialize(views, Some(header))?;
        replace(path, &bytes)
            .map_err(|error| format!("`{}` can't be written: {error}", path.display()).into())
    }
}

/// A tensor to be written.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The accumulation type's.
fn dtype<B: Backend>() -> Dtype {
    match size_of::<Accum<B>>() {
        8 => Dtype::F64,
        _ => Dtype::F32,
    }
}

/// Values that `dtype` holds exactly.
fn bytes(values: &[f64], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => values
            .iter()
            .flat_map(|x| (*x as f32).to_le_bytes())
            .collect(),
    }
}

fn of_losses(history: &[Losses]) -> Stored {
    let values: Vec<f64> = history
        .iter()
        .flat_map(|losses| [losses.model, losses.indexer])
        .collect();
    Stored {
        name: HISTORY.to_owned(),
        dtype: Dtype::F64,
        shape: vec![history.len(), 2],
        bytes: bytes(&values, Dtype::F64),
    }
}

fn losses(stored: &TensorView<'_>) -> Option<Vec<Losses>> {
    if stored.dtype() != Dtype::F64 || stored.shape().get(1..) != Some(&[2]) {
        return None;
    }
    let (values, _) = stored.data().as_chunks::<8>();
    let (pairs, _) = values.as_chunks::<2>();
    let losses = pairs.iter().map(|pair| {
        let [model, indexer] = pair.map(f64::from_le_bytes);
        Losses { model, indexer }
    });
    Some(losses.collect())
}

fn fingerprint<B: Backend>(parts: &[Part<'_, B>]) -> Result<Fingerprint, Fault> {
    let mut named = Vec::new();
    for (before, parameters) in parts {
        let sets = parameters.sets().into_iter();
        named.extend(sets.map(|(prefix, set)| (format!("{before}{prefix}"), set)));
    }
    let sets: Vec<_> = named
        .iter()
        .map(|(name, set)| (name.as_str(), *set))
        .collect();
    Ok(Fingerprint::of(&sets)?)
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("part");
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        // Renamed before it is on the disk, it could be found half written after a power cut
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // The first error is the one to tell
        let _ = fs::remove_file(&beside);
    }
    done
}
