//! Trains a small character model, two of whose layers are generated, on the CPU.
//!
//! ```text
//! cargo run --release -p mla-generated --example train
//! cargo run --release -p mla-generated --example train -- --dtype bf16
//! cargo run --release -p mla-generated --example train -- --stop-after 300
//! cargo run --release -p mla-generated --example train -- --resume
//! ```
//!
//! `README.md` beside this file says what to read first. The part that trains is in `tiny/`; here are its command line and its reports.

mod curve;
mod tiny;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mla_runtime::{Backend, Cpu, CpuDevice, Scalar, bf16};
use tiny::Fault;
use tiny::checkpoint::Checkpoint;
use tiny::random::Random;
use tiny::sample::sample;
use tiny::text::{VOCABULARY, decode, encode};
use tiny::trainer::{Report, STEP_CHARACTERS, Settings, Trainer};

/// Characters that the model writes when it is done.
const SAMPLE: usize = 400;
/// Steps whose losses are averaged at the end.
const LAST: usize = 20;

/// Trains a small character model, two of whose layers are generated, and shows what it has learnt.
#[derive(Debug, Parser)]
struct Arguments {
    /// Steps in all; the learning rate is planned over them
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// What weights and batches are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the model computes in; master weights are f32 in any case
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// The folder for `checkpoint.safetensors` and `loss.svg`
    #[arg(long, default_value = "target/train")]
    out: PathBuf,
    /// Goes on from the folder's checkpoint, which says steps, seed and dtype
    #[arg(long, conflicts_with_all = ["steps", "seed", "dtype"])]
    resume: bool,
    /// Writes a checkpoint every so many steps
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,
    /// Stops after this step, as if it were interrupted
    #[arg(long)]
    stop_after: Option<usize>,
}

/// Element types.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Fault> {
    let path = arguments.out.join("checkpoint.safetensors");
    let (dtype, checkpoint) = if arguments.resume {
        let checkpoint = Checkpoint::open(&path)?;
        let dtype = Dtype::from_str(&checkpoint.state().dtype, false)
            .map_err(|error| format!("`{}`: its dtype: {error}", path.display()))?;
        (dtype, Some(checkpoint))
    } else {
        fs::create_dir_all(&arguments.out)
            .map_err(|error| format!("no folder `{}`: {error}", arguments.out.display()))?;
        (arguments.dtype, None)
    };
    match dtype {
        Dtype::F32 => train::<Cpu<f32>>(arguments, &path, checkpoint.as_ref()),
        Dtype::Bf16 => train::<Cpu<bf16>>(arguments, &path, checkpoint.as_ref()),
    }
}

fn train<B: Backend<Device = CpuDevice>>(
    arguments: &Arguments,
    path: &Path,
    checkpoint: Option<&Checkpoint>,
) -> Result<(), Fault> {
    let device = CpuDevice::default();
    let mut trainer = match checkpoint {
        Some(checkpoint) => Trainer::<B>::resume(checkpoint, &device)?,
        None => {
            let settings = Settings {
                steps: arguments.steps as usize,
                seed: arguments.seed,
            };
            Trainer::new(settings, &device)?
        }
    };
    let steps = trainer.settings.steps;
    let end = arguments.stop_after.unwrap_or(steps);
    let end = end.clamp(trainer.done(), steps);
    say(&format!(
        "{} parameters, {}, steps {} to {end} of {steps}; guessing loses {:.3} nats per character",
        trainer.master.count()?,
        B::Elem::NAME,
        trainer.done(),
        guess()
    ))?;
    let clock = Clock::start(&trainer, end);
    while trainer.done() < end {
        let report = trainer.step()?;
        clock.tell(&trainer, &report)?;
        if trainer.done().is_multiple_of(arguments.save_every as usize) {
            trainer.save(path)?;
        }
    }
    let (seconds, characters) = clock.stop(&trainer);
    trainer.save(path)?;
    let drawing = arguments.out.join("loss.svg");
    fs::write(&drawing, curve::svg(&trainer.history, guess()))
        .map_err(|error| format!("`{}` can't be written: {error}", drawing.display()))?;
    conclude(&trainer, seconds, characters)?;
    say(&format!(
        "written: {}, {}",
        path.display(),
        drawing.display()
    ))?;
    if end == steps {
        let mut random = Random::new(trainer.settings.seed);
        let written = sample(&trainer.model, &encode("\n")?, SAMPLE, &mut random)?;
        say(&format!("\nwhat it writes:\n\n{}", decode(&written)))
    } else {
        say("`--resume` goes on")
    }
}

/// Prints a line; an error where nobody reads on, which `println!` would panic at.
fn say(line: &str) -> Result<(), Fault> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// What a model loses that knows the alphabet and nothing else.
fn guess() -> f64 {
    (VOCABULARY as f64).ln()
}

fn conclude<B: Backend>(trainer: &Trainer<B>, seconds: f64, characters: f64) -> Result<(), Fault> {
    let history = &trainer.history;
    let last = &history[history.len().saturating_sub(LAST)..];
    let (Some(first), Some(_)) = (history.first(), last.first()) else {
        return Ok(());
    };
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / last.len() as f64;
    let model = mean(&mut last.iter().map(|losses| losses.model));
    let indexer = mean(&mut last.iter().map(|losses| losses.indexer));
    say(&format!(
        "loss {:.3} -> {model:.3} nats per character, {:.3} on text it has not seen; indexer's {:.3} -> {indexer:.3}",
        first.model,
        trainer.held_out_loss()?,
        first.indexer,
    ))?;
    say(&format!("{seconds:.1} s, {characters:.0} characters/s"))
}

/// The progress bar, and what it is told.
struct Clock {
    bar: ProgressBar,
    begun: Instant,
    from: usize,
    every: usize,
}

impl Clock {
    fn start<B: Backend>(trainer: &Trainer<B>, end: usize) -> Self {
        let from = trainer.done();
        let bar = ProgressBar::new(end as u64).with_position(from as u64);
        // A template that indicatif refuses leaves its usual one
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {eta} left")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            begun: Instant::now(),
            from,
            every: (trainer.settings.steps / 10).max(1),
        }
    }

    /// Shows a step; one in ten parts of the training also stays on the screen, or in a log, where there is no bar.
    fn tell<B: Backend>(&self, trainer: &Trainer<B>, report: &Report) -> Result<(), Fault> {
        let losses = report.losses;
        let told = format!(
            "loss {:.3}  indexer {:.3}  {:.0} characters/s",
            losses.model,
            losses.indexer,
            self.speed(trainer)
        );
        self.bar.set_position(trainer.done() as u64);
        self.bar.set_message(told.clone());
        let step = trainer.done();
        if !step.is_multiple_of(self.every) {
            return Ok(());
        }
        let mut line = format!("step {step:>5}  {told}  gradient {:.2}", report.norm);
        if report.clipped_heads > 0 {
            line += &format!("  QK-clip: {} heads", report.clipped_heads);
        }
        if !report.taken {
            line += "  not taken: a gradient is not finite";
        }
        self.bar.suspend(|| say(&line))
    }

    /// Seconds, and characters per second.
    fn stop<B: Backend>(&self, trainer: &Trainer<B>) -> (f64, f64) {
        self.bar.finish_and_clear();
        (self.begun.elapsed().as_secs_f64(), self.speed(trainer))
    }

    fn speed<B: Backend>(&self, trainer: &Trainer<B>) -> f64 {
        let characters = (trainer.done() - self.from) * STEP_CHARACTERS;
        characters as f64 / self.begun.elapsed().as_secs_f64().max(1e-9)
    }
}
