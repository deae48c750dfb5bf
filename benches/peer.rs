//! PyTorch in a process of its own, asked in turns with ours.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::machine::{Clock, Fault};
use crate::options::Options;
use crate::subject::{Phase, Sizes};

/// The peer's program.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/torch_peer.py");

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
        let mut command = Command::new(python);
        command.arg(SCRIPT).args(["--clock", clock]);
        for (name, value) in [
            ("--threads", options.threads),
            ("--hidden", sizes.hidden),
            ("--heads", sizes.heads),
            ("--q-lora", sizes.q_lora),
            ("--kv-lora", sizes.kv_lora),
            ("--nope", sizes.nope),
            ("--rope", sizes.rope),
            ("--v", sizes.v),
        ] {
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
        let requests = self.requests.as_mut().ok_or("the peer takes no requests")?;
        writeln!(requests, "{} {} {calls}", phase.name(), phase.tokens())?;
        requests.flush()?;
        let answer = self.answer()?;
        let samples: Option<Vec<f64>> = answer["ms"]
            .as_array()
            .and_then(|samples| samples.iter().map(|ms| Some(ms.as_f64()? / 1e3)).collect());
        samples.ok_or_else(|| format!("the peer answered `{answer}`").into())
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
