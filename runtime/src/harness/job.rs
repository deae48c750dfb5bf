//! What a compiled program is asked to do: one JSON file.
//!
//! ```json
//! {
//!   "summary": "/tmp/x/summary.json",
//!   "jobs": [{
//!     "name": "v3_leftpad_b2_s24",
//!     "layer": "v3_leftpad.f32",
//!     "weights": { "file": { "path": "/cases/v3_leftpad/weights.safetensors", "prefix": "model.layers.0.self_attn." } },
//!     "input": { "io": { "path": "/cases/v3_leftpad/io.safetensors" } },
//!     "modes": ["forward", "cached"],
//!     "chunks": [20, 1, 1, 1, 1],
//!     "cache": "exact",
//!     "rope": { "found": "interleaved", "wanted": "half" },
//!     "out": "/tmp/x/v3_leftpad/out.safetensors"
//!   }]
//! }
//! ```
//!
//! Other `weights`: `{"generated": {"prefix": "...", "generator": <a golden manifest's generator>}}`, `{"random": {"seed": 0}}`.
//! Other `input`: `{"random": {"batch": 1, "prompt": 128, "steps": 16, "seed": 0}}`.
//!
//! The mode `grad` belongs to layers that are trained, and to them alone. Beside `output` and `mid.max_logit` it writes `grad_output`, and
//! the gradients of `sum(output * grad_output)` as `grad.hidden_states` and `grad.<tensor of the checkpoint>`, those of an indexer's loss
//! among them; the loss itself is `indexer_loss`. What `"grad": {"clip": true}` adds is called `qkclip.*`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::report::Phase;

/// Jobs for one program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Where the reports go; rewritten after each job.
    pub summary: PathBuf,
    /// Done in this order.
    pub jobs: Vec<Job>,
}

/// One layer, one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What progress lines and the report call it.
    pub name: String,
    /// The key that the layer was registered under.
    pub layer: String,
    /// Where its weights come from.
    pub weights: WeightsSource,
    /// What it is fed.
    pub input: Input,
    /// How, in this order; `out` holds the last one's tensors. Where both are asked for, the report holds their difference.
    pub modes: Vec<Mode>,
    /// `cached`: how many columns of the padded input each call gets; calls of one column are decode steps, others are
    /// prefill. Absent: the input's `decode.chunks`, else all but the last two columns and then one at a time; for a random
    /// input the prompt and then the steps.
    #[serde(default)]
    pub chunks: Option<Vec<usize>>,
    /// What the cache stores.
    #[serde(default)]
    pub cache: Stored,
    /// How rope parts are laid out in the outputs.
    #[serde(default)]
    pub rope: Rope,
    /// What `grad` is given, and does besides.
    #[serde(default)]
    pub grad: Grad,
    /// What is timed; where anything is, the input and the modes are passed over.
    #[serde(default)]
    pub bench: Vec<Bench>,
    /// Where the output tensors go; absent: nowhere, and no intermediate value is copied.
    #[serde(default)]
    pub out: Option<PathBuf>,
}

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightsSource {
    /// A checkpoint: whatever [`Weights::open`](crate::Weights::open) takes.
    File {
        /// File, index or folder.
        path: PathBuf,
        /// The layer's prefix, with or without its final dot.
        prefix: String,
    },
    /// Made as a golden manifest says.
    Generated {
        /// The layer's prefix.
        prefix: String,
        /// The manifest's `generator`.
        generator: Generator,
    },
    /// Made by [`Weights::random`](crate::Weights::random) under the prefix `layer`.
    Random {
        /// Seed of all tensors.
        seed: u64,
    },
}

/// A golden manifest's `generator`. Other keys of it are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Seed of all tensors.
    pub seed: u64,
    /// By full name. `hidden_states`, and names above the prefix, are passed over.
    pub tensors: BTreeMap<String, Made>,
}

/// How one tensor is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Row-major.
    pub shape: Vec<usize>,
    /// Centre of the values.
    pub base: f64,
    /// Half of their range.
    pub amp: f64,
}

/// What a layer is fed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// A golden case's `io.safetensors`: `hidden_states` `[b, s, h]`, and where present `position_ids`, `attention_mask` and
    /// `segment_ids` `[b, s]`, `cu_seqlens`, `decode.chunks`.
    Io {
        /// The file.
        path: PathBuf,
    },
    /// Random hidden states of deviation 1.
    Random {
        /// Requests, all of one length.
        batch: usize,
        /// Tokens before the first decode step.
        prompt: usize,
        /// Decode steps.
        steps: usize,
        /// Seed of the values.
        seed: u64,
    },
}

/// How a layer is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All at once, without a cache.
    Forward,
    /// In chunks, with one.
    Cached,
    /// All at once, forward and backward.
    Grad,
}

/// What `grad` is given, and does besides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grad {
    /// The file whose `grad_output` `[b, s, h]` is the gradient of the output. Absent: the input's own, and random numbers of deviation 1
    /// where it has none.
    pub output: Option<PathBuf>,
    /// Widths of the latents and rotated keys that the layer hands to later ones; the gradients that come back are 0 here.
    pub hands_on: Option<[usize; 2]>,
    /// Whether QK-clip then scales the weights by what the forward pass saw, and the layer is run again.
    pub clip: bool,
}

/// Calls that are timed: random hidden states, over a cache of random entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    /// The function.
    pub phase: Phase,
    /// Requests, all alike.
    pub requests: usize,
    /// New tokens of each.
    pub new: usize,
    /// Tokens that each has cached; 0 for phases without a cache.
    pub cached: usize,
}

/// What a cache stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// The backend's own elements.
    #[default]
    Exact,
    /// The format that the spec names.
    Spec,
}

/// Order of a rotated part's elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Pairs (2i, 2i + 1).
    Interleaved,
    /// Pairs (i, i + n/2).
    #[serde(alias = "halves")]
    Half,
    /// Not rotated.
    #[default]
    None,
}

/// How rope parts are laid out: in the layer's queries, keys and cache, and in the outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// As the layer has them, in `mid.q`, `mid.k_pe` and the cache.
    pub found: Layout,
    /// As they should be written.
    pub wanted: Layout,
}
