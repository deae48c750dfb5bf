//! What a compiled program answers: one JSON file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::job::{Bench, Mode};

/// The reports of a [`JobFile`](super::job::JobFile), in its order; shorter than it if the program was stopped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// One per job.
    pub reports: Vec<Report>,
}

/// How a job went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The job's name.
    pub name: String,
    /// Why it failed; what was measured before is here all the same.
    pub error: Option<String>,
    /// Whether a file is why: it can't be read or written, or does not hold what it should.
    #[serde(default)]
    pub file_at_fault: bool,
    /// Width of the layer.
    pub hidden_size: usize,
    /// Rows of the padded input's batch.
    pub batch: usize,
    /// Its columns.
    pub seq: usize,
    /// Requests: packed segments count each, empty rows not at all.
    pub requests: usize,
    /// One per mode.
    pub runs: Vec<Run>,
    /// Cached outputs against forward's, where both modes were run.
    pub cached_against_forward: Option<Against>,
    /// The cache, where one was used.
    pub cache: Option<Cache>,
    /// The gradients, where they were computed: of the input, then of the parameters that are trained.
    #[serde(default)]
    pub gradients: Vec<Gradient>,
    /// An indexer's loss, where one was computed and is finite.
    #[serde(default)]
    pub indexer_loss: Option<f64>,
    /// The backward pass in two parts against the whole one.
    #[serde(default)]
    pub split: Option<Split>,
    /// What was timed.
    #[serde(default)]
    pub timings: Vec<Timing>,
    /// The device that it was timed on, where it is not the machine's processor.
    #[serde(default)]
    pub device: Option<Device>,
    /// What that device reaches, measured in the same run.
    #[serde(default)]
    pub ceilings: Option<Ceilings>,
    /// Where the tensors were written.
    pub out: Option<PathBuf>,
    /// Their shapes.
    pub tensors: BTreeMap<String, Vec<usize>>,
}

/// One mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub mode: Mode,
    /// The calls of the layer.
    pub calls: Vec<Call>,
}

/// One call of the layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The function.
    pub phase: Phase,
    /// New tokens of all requests.
    pub tokens: usize,
    /// Wall time.
    pub seconds: f64,
}

/// A function of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Whole sequences, no cache.
    Forward,
    /// Many new tokens.
    Prefill,
    /// One new token per request.
    Decode,
    /// Whole sequences, and what the backward pass needs is kept.
    ForwardTrain,
    /// The gradients of everything.
    Backward,
}

/// How long calls of one kind take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The calls.
    pub bench: Bench,
    /// Wall time of one call whose result is waited for, the median; it begins and ends on the host.
    pub call_seconds: f64,
    /// Of one of many calls that follow each other on the device, without the host's part; absent where there is no device, or it can't
    /// run the calls by itself.
    pub device_seconds: Option<f64>,
    /// On a device: its kernels and products, one entry for all of a name, in the order of their first.
    pub commands: Vec<Timed>,
}

/// Commands of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// The kernel's symbol, or what is multiplied.
    pub name: String,
    /// How many there are in a call.
    pub count: usize,
    /// Of all of them.
    pub seconds: f64,
    /// Of all of them.
    pub work: Work,
}

/// Bytes that are moved and floating-point operations that are computed, at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Bytes: each input once, each output once.
    pub bytes: u64,
    /// Two for each product that is added.
    pub flops: u64,
}

/// What a device reaches at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes a second that are read from the device's memory.
    pub read: f64,
    /// Floating-point operations a second of products of bf16, settled.
    pub products: f64,
    /// All that was measured, to be read.
    pub text: String,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// As its driver calls it.
    pub name: String,
    /// Its architecture.
    pub arch: String,
}

/// One gradient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gradient {
    /// What it belongs to: `hidden_states`, or a tensor of the checkpoint below the layer's prefix.
    pub name: String,
    /// Root of the sum of squares; absent where a value is not finite.
    pub norm: Option<f64>,
}

/// `backward_input` and `backward_dw` against `backward`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Tensors that were compared.
    pub tensors: usize,
    /// The first value that is not the same to the bit; absent where all are.
    pub differs: Option<String>,
}

/// Two results of the same input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Largest absolute difference over real rows; absent where a value is not finite.
    pub max_error: Option<f64>,
    /// Root mean square of forward's output over real rows.
    pub rms: f64,
    /// How large `max_error` may be.
    pub tolerance: f64,
    /// Whether it is within.
    pub passed: bool,
}

/// A cache's size and format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// Element type, or format.
    pub dtype: String,
    /// Elements per token.
    pub elements_per_token: usize,
    /// Bytes per token.
    pub bytes_per_token: usize,
    /// Tokens per page; absent for a contiguous cache.
    pub page_size: Option<usize>,
}
