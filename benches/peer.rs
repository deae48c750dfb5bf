//! PyTorch in a process of its own, asked in turns with ours.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::machine::{Clock, Fault};
use crate::options::Options;
use crate::subject::{Phase, Sizes};
use crate::training::Step;

/// The peer's program.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/torch_peer.py");

/// The peer of training.
const AUTOGRAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/autograd_peer.py");

/// PyTorch, or why there is none.
pub(crate) enum Peer {
    /// It runs.
    Running(Running),
    /// It does not, for this reason.
    Missing(&'static str),
}

/// A running peer. It ends when it is dropped: its input closes.
pub(crate) struct Running {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    version: String,
}

impl Peer {
    /// Starts the peer for a layer's sizes.
    pub(crate) fn start(options: &Options, sizes: &Sizes) -> Self {
        let started = options
            .peer_python
            .as_deref()
            .and_then(|python| Running::start(python, options, sizes));
        started.map_or(Peer::Missing("torch not found"), Peer::Running)
    }
}

impl Running {
    fn start(python: &Path, options: &Options, sizes: &Sizes) -> Option<Self> {
        let clock = match options.clock {
            Clock::Wall => "wall",
            Clock::Cpu => "cpu",
        };
        let sizes = [
            ("--threads", options.threads),
            ("--hidden", sizes.hidden),
            ("--heads", sizes.heads),
            ("--q-lora", sizes.q_lora),
            ("--kv-lora", sizes.kv_lora),
            ("--nope", sizes.nope),
            ("--rope", sizes.rope),
            ("--v", sizes.v),
        ];
        Self::of(python, SCRIPT, &["--clock", clock], &sizes)
    }

    /// A peer's program with these arguments.
    fn of(python: &Path, script: &str, words: &[&str], sizes: &[(&str, usize)]) -> Option<Self> {
        let mut command = Command::new(python);
        command.arg(script).args(words);
        for (name, value) in sizes {
            command.arg(name).arg(value.to_string());
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let (requests, answers) = (process.stdin.take(), process.stdout.take()?);
        let mut running = Self {
            process,
            requests,
            answers: BufReader::new(answers),
            version: String::new(),
        };
        running.version = running.answer().ok()?["torch"].as_str()?.to_owned();
        Some(running)
    }

    /// Of torch.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Seconds of each of `calls` calls.
    ///
    /// # Errors
    /// The peer ended, or answers what it should not.
    pub(crate) fn samples(&mut self, phase: Phase, calls: usize) -> Result<Vec<f64>, Fault> {
        let answer = self.asked(&format!("{} {} {calls}", phase.name(), phase.tokens()))?;
        let samples: Option<Vec<f64>> = answer["ms"]
            .as_array()
            .and_then(|samples| samples.iter().map(|ms| Some(ms.as_f64()? / 1e3)).collect());
        samples.ok_or_else(|| format!("the peer answered `{answer}`").into())
    }

    fn asked(&mut self, request: &str) -> Result<Value, Fault> {
        let requests = self.requests.as_mut().ok_or("the peer takes no requests")?;
        writeln!(requests, "{request}")?;
        requests.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, Fault> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("the peer ended ({})", self.process.wait()?).into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Nothing depends on how it ended
        let _ = self.process.wait();
    }
}

/// PyTorch's autograd over Hugging Face's module, at Moonlight's sizes.
pub(crate) struct Autograd(Running);

impl Autograd {
    /// Starts it; `None` without a Python that has torch and transformers.
    pub(crate) fn start(options: &Options) -> Option<Self> {
        let sizes = [
            ("--threads", options.threads),
            ("--hidden", 2048),
            ("--heads", 16),
            ("--kv-lora", 512),
            ("--nope", 128),
            ("--rope", 64),
            ("--v", 128),
        ];
        let python = options.peer_python.as_deref()?;
        let running = Running::of(python, AUTOGRAD, &[], &sizes)?;
        println!("torch {}\n", running.version());
        Some(Self(running))
    }

    /// The least time and memory of `count` steps.
    ///
    /// # Errors
    /// The peer ended, or answers what it should not.
    pub(crate) fn step(
        &mut self,
        attention: &str,
        tokens: usize,
        count: usize,
    ) -> Result<Step, Fault> {
        let answer = self.0.asked(&format!("{attention} {tokens} {count}"))?;
        match (answer["ms"].as_f64(), answer["bytes"].as_f64()) {
            (Some(ms), Some(bytes)) => Ok(Step {
                seconds: ms / 1e3,
                bytes,
            }),
            _ => Err(format!("the peer answered `{answer}`").into()),
        }
    }
}
