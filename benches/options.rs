//! The command line of the bench.

use std::path::PathBuf;

use crate::machine::Clock;
use crate::subject::Shape;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: cargo bench -- [options]
  --peer-python PATH   also time PyTorch: a Python that has torch
  --sparse             how sparse decode grows with topk and with the context, and what fewer bits of keys choose, instead of layers
  --train              forward and backward of a layer, time and memory; the peer is PyTorch's autograd over Hugging Face's module,
                       which wants transformers too
  --shapes LIST        of v2-lite,v3 (default: both)
  --threads N          default 2
  --reps N             rounds of each measurement (default 8)
  --quick              two rounds, unless --reps says otherwise
  --clock wall|cpu     cpu: the time of all threads together, where /proc tells it; for a machine that others use (default wall)
  --help";

/// What to run.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    /// A Python that may have torch.
    pub(crate) peer_python: Option<PathBuf>,
    /// Sparse decode instead of layers.
    pub(crate) sparse: bool,
    /// Training instead of layers.
    pub(crate) train: bool,
    /// Layers to time.
    pub(crate) shapes: Vec<Shape>,
    /// Threads of ours and of the peer.
    pub(crate) threads: usize,
    /// How often ours and the peer take turns.
    pub(crate) rounds: usize,
    /// What counts as time.
    pub(crate) clock: Clock,
}

/// What a command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    /// A run.
    Run(Options),
    /// The usage.
    Help,
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// A message that names the argument and what was wanted.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let mut options = Options {
        peer_python: None,
        sparse: false,
        train: false,
        shapes: Shape::ALL.to_vec(),
        threads: 2,
        rounds: 8,
        clock: Clock::Wall,
    };
    let (mut quick, mut rounds) = (false, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let (name, mut attached) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            attached
                .take()
                .or_else(|| arguments.next())
                .ok_or_else(|| format!("`{name}` wants a value"))
        };
        match name.as_str() {
            // Cargo says so to every bench
            "--bench" => {}
            "--help" | "-h" => return Ok(Parsed::Help),
            "--quick" => quick = true,
            "--sparse" => options.sparse = true,
            "--train" => options.train = true,
            "--peer-python" => options.peer_python = Some(value()?.into()),
            "--threads" => options.threads = count(&name, &value()?)?,
            "--reps" => rounds = Some(count(&name, &value()?)?),
            "--shapes" => {
                options.shapes = value()?
                    .split(',')
                    .map(Shape::named)
                    .collect::<Result<_, _>>()?;
            }
            "--clock" => {
                options.clock = match value()?.as_str() {
                    "wall" => Clock::Wall,
                    "cpu" => Clock::Cpu,
                    other => return Err(format!("`--clock` is wall or cpu, found `{other}`")),
                }
            }
            other => return Err(format!("unknown argument `{other}`")),
        }
        if let Some(unused) = attached {
            return Err(format!("`{name}` takes no value, found `{unused}`"));
        }
    }
    options.rounds = rounds.unwrap_or(if quick { 2 } else { options.rounds });
    Ok(Parsed::Run(options))
}

fn count(name: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!(
            "`{name}` wants a number of at least 1, found `{value}`"
        )),
    }
}
