//! What a compiled program is asked and what it answers, as JSON. `mla_runtime::harness` defines both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Jobs for one program.
#[derive(Debug, Serialize)]
pub(crate) struct JobFile<'a> {
    pub(crate) summary: PathBuf,
    pub(crate) jobs: &'a [Job],
}

/// One layer, one input.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) layer: String,
    pub(crate) weights: Weights,
    pub(crate) input: Input,
    pub(crate) modes: Vec<Mode>,
    pub(crate) chunks: Option<Vec<usize>>,
    pub(crate) cache: Stored,
    pub(crate) rope: Rope,
    pub(crate) grad: Grad,
    pub(crate) bench: Vec<Bench>,
    pub(crate) out: Option<PathBuf>,
}

/// Where weights come from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Weights {
    File {
        path: PathBuf,
        prefix: String,
    },
    Generated {
        prefix: String,
        generator: serde_json::Value,
    },
    Random {
        seed: u64,
    },
}

/// What a layer is fed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Input {
    Io {
        path: PathBuf,
    },
    Random {
        batch: usize,
        prompt: usize,
        steps: usize,
        seed: u64,
    },
}

/// How a layer is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    Forward,
    Cached,
    Grad,
}

/// What a training job is given, and does besides.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Grad {
    /// The file that holds `grad_output`; `None`: the input's own, or random numbers.
    pub(crate) output: Option<PathBuf>,
    /// Widths of what is handed to later layers.
    pub(crate) hands_on: Option<[usize; 2]>,
    /// Whether weights are clipped afterwards.
    pub(crate) clip: bool,
}

impl Mode {
    /// As it is written on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Mode::Forward => "forward",
            Mode::Cached => "cached",
            Mode::Grad => "grad",
        }
    }
}

/// Calls that are timed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Bench {
    pub(crate) phase: Phase,
    pub(crate) requests: usize,
    pub(crate) new: usize,
    pub(crate) cached: usize,
}

/// What a cache stores: the backend's own elements, or the spec's format.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stored {
    Exact,
    Spec,
}

/// Order of a rotated part's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layout {
    Interleaved,
    Half,
    None,
}

/// How rope parts are laid out in the layer, and how they should be in its outputs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Rope {
    pub(crate) found: Layout,
    pub(crate) wanted: Layout,
}

/// The reports of the jobs that were done, in their order.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Summary {
    pub(crate) reports: Vec<Report>,
}

/// How a job went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) file_at_fault: bool,
    pub(crate) hidden_size: usize,
    pub(crate) batch: usize,
    pub(crate) seq: usize,
    pub(crate) requests: usize,
    pub(crate) runs: Vec<ModeRun>,
    pub(crate) cached_against_forward: Option<Against>,
    pub(crate) cache: Option<Cache>,
    #[serde(default)]
    pub(crate) gradients: Vec<Gradient>,
    #[serde(default)]
    pub(crate) indexer_loss: Option<f64>,
    #[serde(default)]
    pub(crate) split: Option<Split>,
    #[serde(default)]
    pub(crate) timings: Vec<Timing>,
    #[serde(default)]
    pub(crate) device: Option<Device>,
    #[serde(default)]
    pub(crate) ceilings: Option<Ceilings>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) tensors: BTreeMap<String, Vec<usize>>,
}

/// One mode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ModeRun {
    pub(crate) calls: Vec<Call>,
}

/// One call of the layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) phase: Phase,
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
}

/// A function of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Forward,
    Prefill,
    Decode,
    ForwardTrain,
    Backward,
}

impl Phase {
    /// Whether it belongs to layers that are trained.
    pub(crate) fn is_training(self) -> bool {
        matches!(self, Self::ForwardTrain | Self::Backward)
    }
}

/// How long calls of one kind take; on a device also without the host's part, and each of its kernels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) bench: Bench,
    pub(crate) call_seconds: f64,
    pub(crate) device_seconds: Option<f64>,
    pub(crate) commands: Vec<Timed>,
}

/// Commands of one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timed {
    pub(crate) name: String,
    pub(crate) count: usize,
    pub(crate) seconds: f64,
    pub(crate) work: Work,
}

/// What is moved and computed at least.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) bytes: u64,
    pub(crate) flops: u64,
}

/// What a device reaches at most, in bytes and in floating-point operations a second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ceilings {
    pub(crate) read: f64,
    pub(crate) products: f64,
    pub(crate) text: String,
}

impl Ceilings {
    /// Seconds that some work takes at least.
    pub(crate) fn floor(&self, work: Work) -> f64 {
        (work.bytes as f64 / self.read).max(work.flops as f64 / self.products)
    }
}

/// A device that layers run on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) arch: String,
}

/// The size of one gradient; no norm where it is not finite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gradient {
    pub(crate) name: String,
    pub(crate) norm: Option<f64>,
}

/// The backward pass in two parts against the whole one: how many tensors, and the first difference.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Split {
    pub(crate) tensors: usize,
    pub(crate) differs: Option<String>,
}

/// Cached outputs against forward's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Against {
    pub(crate) max_error: Option<f64>,
    pub(crate) tolerance: f64,
    pub(crate) passed: bool,
}

/// A cache's size and format.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cache {
    pub(crate) dtype: String,
    pub(crate) elements_per_token: usize,
    pub(crate) bytes_per_token: usize,
    pub(crate) page_size: Option<usize>,
}
